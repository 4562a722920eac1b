package vmassets

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Kernels to choose from; any other name is the path of a bzImage.
const (
	KernelGokrazy = "gokrazy" // from the Go module pinned in tools/go.mod: seconds, and nothing to install
	KernelMicro   = "micro"   // built from the distribution's source: minutes, and the guest boots in half a second
)

// kernelSource is a place to get a bzImage from.
type kernelSource struct {
	about  string                                                 // for people
	inputs string                                                 // decides the content
	get    func(ctx context.Context, work string) (string, error) // the path of the bzImage
}

func findKernel(ctx context.Context, cfg Config) (kernelSource, error) {
	switch cfg.Kernel {
	case KernelGokrazy:
		return gokrazyKernel(ctx, cfg.Source)
	case KernelMicro:
		return microKernel(cfg.Log)
	}
	return givenKernel(cfg.Kernel)
}

func givenKernel(path string) (kernelSource, error) {
	sum, err := hashFile(path)
	if err != nil {
		return kernelSource{}, fmt.Errorf("want %s, %s or the path of a bzImage: %w", KernelGokrazy, KernelMicro, err)
	}
	get := func(context.Context, string) (string, error) { return path, nil }
	return kernelSource{about: path, inputs: hashOf("given", sum), get: get}, nil
}

// buildKernel makes KernelFile and BzImageFile.
func buildKernel(ctx context.Context, cfg Config, work string, s stamp) ([]File, error) {
	src, err := findKernel(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if s.fresh(cfg.Out, src.inputs, KernelFile, BzImageFile) {
		return describeKernel(cfg.Out, src.about, 0)
	}
	start := time.Now()
	bzImage, err := src.get(ctx, work)
	if err != nil {
		return nil, err
	}
	if err := writeKernel(bzImage, work); err != nil {
		return nil, fmt.Errorf("%s: %w", bzImage, err)
	}
	if err := publish(work, cfg.Out, src.inputs, s, BzImageFile, KernelFile); err != nil {
		return nil, err
	}
	return describeKernel(cfg.Out, src.about, time.Since(start))
}

// writeKernel copies the bzImage to the work directory and puts the ELF inside it there too.
func writeKernel(bzImage, work string) error {
	image, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	kernel, err := Uncompress(image)
	if err != nil {
		return err
	}
	if _, err := inspectKernel(bytes.NewReader(kernel)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, BzImageFile), image, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(work, KernelFile), kernel, 0o644)
}

func describeKernel(dir, origin string, took time.Duration) ([]File, error) {
	elf, err := describe(dir, KernelFile, took)
	if err != nil {
		return nil, err
	}
	image, err := describe(dir, BzImageFile, took)
	if err != nil {
		return nil, err
	}
	elf.About += ", " + origin
	return []File{elf, image}, nil
}

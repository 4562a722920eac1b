package vmassets

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// diskRecipe is raised when the content of the root disk changes for another reason than its programs.
const diskRecipe = "root disk 1"

// rootDiskSize is enough for the programs, a journal and what a test writes; the file is sparse.
const rootDiskSize = 32 << 20

// buildRootDisk makes RootDiskFile.
func buildRootDisk(ctx context.Context, cfg Config, work string, s stamp) (File, error) {
	if err := requireTools(diskTools()); err != nil {
		return File{}, err
	}
	start := time.Now()
	busybox, err := staticBusybox()
	if err != nil {
		return File{}, err
	}
	init := filepath.Join(work, "guest-init")
	if err := buildInit(ctx, cfg.Source, init); err != nil {
		return File{}, err
	}
	inputs, err := diskInputs(init, busybox)
	if err != nil {
		return File{}, err
	}
	if s.fresh(cfg.Out, inputs, RootDiskFile) {
		return describe(cfg.Out, RootDiskFile, 0)
	}
	tree := filepath.Join(work, "root")
	if err := stageRoot(ctx, tree, init, busybox); err != nil {
		return File{}, err
	}
	if err := makeExt4(ctx, tree, filepath.Join(work, RootDiskFile)); err != nil {
		return File{}, err
	}
	if err := publish(work, cfg.Out, inputs, s, RootDiskFile); err != nil {
		return File{}, err
	}
	return describe(cfg.Out, RootDiskFile, time.Since(start))
}

func diskInputs(init, busybox string) (string, error) {
	parts := []string{diskRecipe, fmt.Sprint(rootDiskSize)}
	for _, path := range []string{init, busybox} {
		sum, err := hashFile(path)
		if err != nil {
			return "", err
		}
		parts = append(parts, sum)
	}
	return hashOf(parts...), nil
}

// buildInit compiles cmd/guest-init so that the same source gives the same bytes everywhere.
func buildInit(ctx context.Context, source, to string) error {
	step := []string{
		"env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-mod=readonly",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", to, "./cmd/guest-init",
	}
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	step[len(step)-2] = to
	return runIn(ctx, source, step)
}

// copyFile copies a program into the tree.
func copyFile(from, to string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, mode); err != nil {
		return err
	}
	return os.Chmod(to, mode) // whatever the umask
}

package vmassets

import (
	"bytes"
	"context"
	_ "embed" // the kernel's configuration
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

//go:embed micro-kernel.config
var microConfig string

// kernelSources is where Debian's and Ubuntu's linux-source packages put the kernel's source.
const kernelSources = "/usr/src/linux-source-*.tar.*"

// microKernel builds a kernel with the few options of micro-kernel.config from the distribution's source.
func microKernel(log io.Writer) (kernelSource, error) {
	if err := requireTools(microTools()); err != nil {
		return kernelSource{}, err
	}
	tarball, err := lookTool(tool{kernelSources, "linux-source"})
	if err != nil {
		return kernelSource{}, err
	}
	info, err := os.Stat(tarball)
	if err != nil {
		return kernelSource{}, err
	}
	version := fmt.Sprintf("%s %d %s", tarball, info.Size(), info.ModTime().UTC())
	return kernelSource{
		about:  "micro, built from " + filepath.Base(tarball),
		inputs: hashOf("micro", version, hashOf(microConfig)),
		get: func(ctx context.Context, work string) (string, error) {
			return makeKernel(ctx, log, tarball, filepath.Join(work, "linux"))
		},
	}, nil
}

func makeKernel(ctx context.Context, log io.Writer, tarball, tree string) (string, error) {
	fmt.Fprintf(log, "building the micro kernel from %s: takes minutes, and 2 GB of disk meanwhile\n", tarball)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	config := filepath.Join(tree, ".metald.config")
	for _, step := range [][]string{
		{"tar", "-xf", tarball, "--strip-components=1"},
		{"make", "-s", "allnoconfig", "KCONFIG_ALLCONFIG=" + config},
		{"make", "-s", fmt.Sprintf("-j%d", runtime.NumCPU()), "bzImage"},
	} {
		if err := os.WriteFile(config, []byte(microConfig), 0o644); err != nil {
			return "", err
		}
		if err := runIn(ctx, tree, step); err != nil {
			return "", err
		}
		if err := checkConfig(filepath.Join(tree, ".config")); err != nil {
			return "", err
		}
	}
	return filepath.Join(tree, "arch/x86/boot/bzImage"), nil
}

// runIn runs one step and, where it fails, shows the end of what it said.
func runIn(ctx context.Context, dir string, step []string) error {
	cmd := exec.CommandContext(ctx, step[0], step[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	const tail = 4096
	out = bytes.TrimSpace(out)
	return fmt.Errorf("%s: %w\n%s", strings.Join(step, " "), err, out[max(0, len(out)-tail):])
}

// checkConfig refuses a configuration that lost one of our options: the kernel drops in silence what lacks another
// option. A tree that is not configured yet has none.
func checkConfig(path string) error {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var lost []string
	for _, option := range strings.Fields(microConfig) {
		if !strings.Contains("\n"+string(text), "\n"+option+"\n") {
			lost = append(lost, option)
		}
	}
	if lost != nil {
		return fmt.Errorf("this kernel's source doesn't take %s", strings.Join(lost, ", "))
	}
	return nil
}

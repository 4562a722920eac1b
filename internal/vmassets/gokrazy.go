package vmassets

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
)

const gokrazyModule = "github.com/gokrazy/kernel.amd64"

// gokrazyKernel locates the module that carries a kernel, at the version tools/go.mod pins. The go command downloads it
// where needed and checks it against tools/go.sum.
func gokrazyKernel(ctx context.Context, source string) (kernelSource, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", gokrazyModule)
	cmd.Dir = filepath.Join(source, "tools")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, runErr := cmd.Output()
	var module struct{ Version, Dir, Sum, Error string }
	if err := json.Unmarshal(out, &module); err == nil && module.Error != "" {
		return kernelSource{}, fmt.Errorf("%s: %s", gokrazyModule, module.Error)
	}
	if runErr != nil || module.Dir == "" {
		return kernelSource{}, fmt.Errorf("go mod download %s in %s: %w: %s", gokrazyModule, cmd.Dir, runErr, bytes.TrimSpace(complaint.Bytes()))
	}
	image := filepath.Join(module.Dir, "vmlinuz")
	return kernelSource{
		about:  "from " + gokrazyModule + " " + module.Version,
		inputs: hashOf("gokrazy", module.Version, module.Sum),
		get:    func(context.Context, string) (string, error) { return image, nil },
	}, nil
}

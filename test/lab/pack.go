package lab

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// Where things are in a machine: the second disk is mounted on /lab.
const (
	insideBin    = "/lab/bin"    // programs, among them the stand-ins for VMMs
	insideAssets = "/lab/assets" // kernel and root disk of guests
	insideTree   = "/lab/tree"   // metald's sources, with each test binary in the directory of its package
)

// diskSize is the size of the second disk in bytes; its file is sparse.
const diskSize = 6 << 30

// Payload is what Pack puts on a machine's second disk, besides the agent. Source alone is needed.
type Payload struct {
	Source   string            // the root directory of metald's source tree
	Assets   string            // a directory of VM assets
	Tests    []string          // directories of packages, relative to Source, whose tests are built
	Commands map[string]string // programs to build: name in the machine, package
	Programs map[string]string // programs that are there: name in the machine, path here
}

// Pack makes the second disk of a machine at disk. What it builds needs no C library.
func Pack(ctx context.Context, disk string, p Payload) error {
	disk, err := filepath.Abs(disk) // go build runs in the source tree
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp(filepath.Dir(disk), "stage-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	if err := os.Chmod(stage, 0o755); err != nil { // it becomes the root of the file system, and VMMs have other users
		return err
	}
	for _, step := range []func(context.Context, string) error{p.stageTests, p.stagePrograms, p.stageAssets} {
		if err := step(ctx, stage); err != nil {
			return err
		}
	}
	return makeExt4(ctx, stage, disk, diskSize)
}

func (p Payload) stagePrograms(ctx context.Context, stage string) error {
	bin := filepath.Join(stage, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if err := p.build(ctx, "build", filepath.Join(stage, "agent"), "./test/lab/agent"); err != nil {
		return err
	}
	for name, pkg := range p.Commands {
		if err := p.build(ctx, "build", filepath.Join(bin, name), pkg); err != nil {
			return err
		}
	}
	for name, path := range p.Programs {
		if err := copyFile(path, filepath.Join(bin, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (p Payload) stageTests(ctx context.Context, stage string) error {
	if len(p.Tests) == 0 {
		return nil
	}
	tree := filepath.Join(stage, "tree")
	if err := copyTree(p.Source, tree); err != nil {
		return err
	}
	for _, dir := range p.Tests {
		if err := p.build(ctx, "test", filepath.Join(tree, dir, testBinary(dir)), "./"+dir); err != nil {
			return err
		}
	}
	return nil
}

// testBinary is the name of a package's test binary.
func testBinary(dir string) string { return path.Base(dir) + ".test" }

func (p Payload) build(ctx context.Context, verb, to, pkg string) error {
	args := []string{verb, "-buildvcs=false", "-o", to, pkg}
	if verb == "test" {
		args = append([]string{verb, "-c"}, args[1:]...)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = p.Source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

func (p Payload) stageAssets(_ context.Context, stage string) error {
	if p.Assets == "" {
		return nil
	}
	to := filepath.Join(stage, "assets")
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.Assets)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := copyFile(filepath.Join(p.Assets, e.Name()), filepath.Join(to, e.Name()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies the files of a source tree, without what was made in it.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (rel == ".git" || rel == "build"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		return copyPlain(file, filepath.Join(to, rel))
	})
}

func copyPlain(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

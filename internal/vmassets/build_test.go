package vmassets

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// source is metald's source tree, seen from this package.
const source = "../.."

func needDiskTools(t *testing.T) {
	t.Helper()
	if err := requireTools(diskTools()); err != nil {
		t.Skip(err)
	}
}

func config(t *testing.T, kernel string) Config {
	t.Helper()
	return Config{Out: filepath.Join(t.TempDir(), "assets"), Kernel: kernel, Source: source, Log: t.Output()}
}

func mustBuild(t *testing.T, cfg Config) (made []string) {
	t.Helper()
	files, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Took > 0 {
			made = append(made, f.Name)
		}
	}
	return made
}

func wantMade(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("made %q, want %q", got, want)
	}
}

func TestBuildMakesOnlyWhatChanged(t *testing.T) {
	needDiskTools(t)
	cfg := config(t, writeImage(t, elfKernel(t, false)))
	wantMade(t, mustBuild(t, cfg), KernelFile, BzImageFile, RootDiskFile)
	wantMade(t, mustBuild(t, cfg))

	cfg.Kernel = writeImage(t, elfKernel(t, true))
	wantMade(t, mustBuild(t, cfg), KernelFile, BzImageFile)

	scribble(t, filepath.Join(cfg.Out, RootDiskFile))
	wantMade(t, mustBuild(t, cfg), RootDiskFile)

	if err := os.Remove(filepath.Join(cfg.Out, KernelFile)); err != nil {
		t.Fatal(err)
	}
	wantMade(t, mustBuild(t, cfg), KernelFile, BzImageFile)

	if err := os.WriteFile(filepath.Join(cfg.Out, stampFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantMade(t, mustBuild(t, cfg), KernelFile, BzImageFile, RootDiskFile)
	if _, err := Check(cfg.Out); err != nil {
		t.Error(err)
	}
}

// scribble does what a guest does that was given the template itself to write on.
func scribble(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("a guest was here"), 20<<20); err != nil {
		t.Fatal(err)
	}
}

func TestBuildAtTheSameTime(t *testing.T) {
	needDiskTools(t)
	cfg := config(t, writeImage(t, elfKernel(t, true)))
	cfg.Log = io.Discard
	var runs errgroup.Group
	for range 4 {
		runs.Go(func() error {
			if _, err := Build(t.Context(), cfg); err != nil {
				return err
			}
			_, err := Check(cfg.Out)
			return err
		})
	}
	if err := runs.Wait(); err != nil {
		t.Error(err)
	}
	wantFiles(t, cfg.Out, ".lock", stampFile, RootDiskFile, KernelFile, BzImageFile)
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func TestBuildThatFailsLeavesWhatWasThere(t *testing.T) {
	needDiskTools(t)
	cfg := config(t, writeImage(t, elfKernel(t, true)))
	mustBuild(t, cfg)
	for name, content := range map[string][]byte{
		"text":        []byte("this is not a kernel"),
		"no ELF":      bzImageOf(zstdPayload(t, []byte(strings.Repeat("not an ELF file", 100)))),
		"a directory": nil,
	} {
		bad := cfg
		bad.Kernel = t.TempDir()
		if content != nil {
			bad.Kernel = filepath.Join(bad.Kernel, "kernel")
			if err := os.WriteFile(bad.Kernel, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Build(t.Context(), bad); err == nil || !strings.Contains(err.Error(), bad.Kernel) {
			t.Errorf("%s: error %v, want one that names the file", name, err)
		}
	}
	wantFiles(t, cfg.Out, ".lock", stampFile, RootDiskFile, KernelFile, BzImageFile)
	wantMade(t, mustBuild(t, cfg))
}

func TestBuildRemovesWhatAKilledRunLeft(t *testing.T) {
	needDiskTools(t)
	cfg := config(t, writeImage(t, elfKernel(t, true)))
	if err := os.MkdirAll(filepath.Join(cfg.Out, workPrefix+"123", "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustBuild(t, cfg)
	wantFiles(t, cfg.Out, ".lock", stampFile, RootDiskFile, KernelFile, BzImageFile)
}

func TestBuildThatWaitsCanBeCancelled(t *testing.T) {
	cfg := config(t, KernelGokrazy)
	if err := os.Mkdir(cfg.Out, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), cfg.Out, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Build(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestCheckNamesEverythingThatIsWrong(t *testing.T) {
	needDiskTools(t)
	cfg := config(t, writeImage(t, elfKernel(t, true)))
	mustBuild(t, cfg)
	scribble(t, filepath.Join(cfg.Out, RootDiskFile))
	if err := os.Remove(filepath.Join(cfg.Out, BzImageFile)); err != nil {
		t.Fatal(err)
	}
	_, err := Check(cfg.Out)
	var changed *ChangedError
	if !errors.As(err, &changed) || changed.Name != RootDiskFile || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want the changed disk and the missing bzImage", err)
	}
	if _, err := Check(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty directory: error %v", err)
	}
}

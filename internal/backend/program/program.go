// Package program finds the executables of VMMs, asks them for their versions, and tries whether KVM runs guests with
// them.
package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// askTimeout bounds a question that a program answers at once.
const askTimeout = 5 * time.Second

// Kind is what is known of a program before it is found.
type Kind[V any] struct {
	Name    string                  // on PATH
	Says    *regexp.Regexp          // finds the version in its answer to --version, as the first group
	Parse   func(string) (V, error) // reads it, and refuses what is not to be used
	Missing string                  // what to do where there is none
}

// Found is a program that is there.
type Found[V any] struct {
	Path    string // absolute, without links
	Version V
}

// Programs finds programs, and asks each for its version once per file that is there. The zero value is ready.
type Programs[V any] struct {
	mu   sync.Mutex // guards seen
	seen map[File]V
}

// File names one content of one file, as far as the file system tells.
type File struct {
	Path          string // "" where any name of the file will do
	Device, Inode uint64
	Size, MTime   int64 // bytes, nanoseconds
}

// FileOf is the file of an info by os.Stat.
func FileOf(path string, info os.FileInfo) File {
	st := info.Sys().(*syscall.Stat_t)
	return File{Path: path, Device: st.Dev, Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano()}
}

// Find returns the program at path or, where that is "", on PATH.
func (p *Programs[V]) Find(ctx context.Context, path string, kind Kind[V]) (Found[V], error) {
	if path == "" {
		found, err := exec.LookPath(kind.Name)
		if err != nil {
			return Found[V]{}, types.Errorf(types.KindPrecondition, "there is no %s on PATH; %s", kind.Name, kind.Missing)
		}
		path = found
	}
	plain, err := resolve(path)
	if err != nil {
		return Found[V]{}, types.Errorf(types.KindPrecondition, "%s at %s: %w", kind.Name, path, err)
	}
	v, err := p.versionOf(ctx, plain, kind)
	if err != nil {
		return Found[V]{}, types.Errorf(types.KindPrecondition, "%s at %s: %w", kind.Name, path, err)
	}
	return Found[V]{Path: plain, Version: v}, nil
}

// resolve follows the links in path: Firecracker's jailer does, and names the jail after the file that it comes to.
func resolve(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(absolute)
}

func (p *Programs[V]) versionOf(ctx context.Context, path string, kind Kind[V]) (v V, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return v, err
	}
	if !info.Mode().IsRegular() {
		return v, errors.New("not a regular file")
	}
	file := FileOf(path, info)
	p.mu.Lock()
	v, ok := p.seen[file]
	p.mu.Unlock()
	if ok {
		return v, nil
	}
	if v, err = askVersion(ctx, path, kind); err != nil {
		return v, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[File]V{}
	}
	p.seen[file] = v
	return v, nil
}

func askVersion[V any](ctx context.Context, path string, kind Kind[V]) (v V, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.WaitDelay = []string{}, time.Second
	out, err := cmd.Output()
	if err != nil {
		return v, fmt.Errorf("--version: %w", err)
	}
	m := kind.Says.FindSubmatch(out)
	if m == nil {
		return v, fmt.Errorf("it calls itself %q, which is not what it should be", oneLine(string(out)))
	}
	return kind.Parse(string(m[1]))
}

// oneLine makes text fit for an error: printable, one line, not long.
func oneLine(text string) string {
	text = text[:min(len(text), 512)]
	printable := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, ""))
	return strings.Join(strings.Fields(printable), " ")
}

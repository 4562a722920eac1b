package firecracker

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

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// askTimeout bounds a question that a program answers at once.
const askTimeout = 5 * time.Second

// binary is a program that metald starts, and what is known of it.
type binary struct {
	Path    string // absolute, without links
	Version version
}

// programs finds firecracker and jailer, and asks each for its version once per file that is there.
type programs struct {
	mu   sync.Mutex // guards seen
	seen map[programFile]version
}

// programFile names one content of one file, as far as the file system tells.
type programFile struct {
	path          string
	device, inode uint64
	size, mtime   int64 // bytes, nanoseconds
}

var (
	firecrackerSays = regexp.MustCompile(`(?m)^Firecracker (v\S+)`)
	jailerSays      = regexp.MustCompile(`(?m)^Jailer (v\S+)`)
)

// find returns the program at path or, where that is "", called name on PATH. says finds the version in its answer to
// --version.
func (p *programs) find(ctx context.Context, path, name string, says *regexp.Regexp) (binary, error) {
	if path == "" {
		found, err := exec.LookPath(name)
		if err != nil {
			return binary{}, types.Errorf(types.KindPrecondition, "there is no %s on PATH; install Firecracker %s or newer, or set UNKEY_METALD_%s_BINARY",
				name, pinned, strings.ToUpper(name))
		}
		path = found
	}
	plain, err := resolve(path)
	if err != nil {
		return binary{}, types.Errorf(types.KindPrecondition, "%s at %s: %w", name, path, err)
	}
	v, err := p.versionOf(ctx, plain, says)
	if err != nil {
		return binary{}, types.Errorf(types.KindPrecondition, "%s at %s: %w", name, path, err)
	}
	return binary{Path: plain, Version: v}, nil
}

// resolve follows the links in path: the jailer does, and names the jail after the file that it comes to.
func resolve(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(absolute)
}

func (p *programs) versionOf(ctx context.Context, path string, says *regexp.Regexp) (version, error) {
	info, err := os.Stat(path)
	if err != nil {
		return version{}, err
	}
	if !info.Mode().IsRegular() {
		return version{}, errors.New("not a regular file")
	}
	st := info.Sys().(*syscall.Stat_t)
	file := programFile{path: path, device: st.Dev, inode: st.Ino, size: st.Size, mtime: st.Mtim.Nano()}
	p.mu.Lock()
	v, ok := p.seen[file]
	p.mu.Unlock()
	if ok {
		return v, nil
	}
	if v, err = askVersion(ctx, path, says); err != nil {
		return version{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[programFile]version{}
	}
	p.seen[file] = v
	return v, nil
}

func askVersion(ctx context.Context, path string, says *regexp.Regexp) (version, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.WaitDelay = []string{}, time.Second
	out, err := cmd.Output()
	if err != nil {
		return version{}, fmt.Errorf("--version: %w", err)
	}
	m := says.FindSubmatch(out)
	if m == nil {
		return version{}, fmt.Errorf("it calls itself %q, which is not what it should be", oneLine(string(out)))
	}
	v, err := parseVersion(string(m[1]))
	if err != nil {
		return version{}, err
	}
	return v, checkVersion(v)
}

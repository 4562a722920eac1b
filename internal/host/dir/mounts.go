package dir

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrMounted says that something is mounted in a directory that was to be removed: removing would go on into
// what is mounted there, which belongs to somebody else. Unmount it first.
var ErrMounted = errors.New("something is mounted in the directory; unmount it first")

// Mounts lists the mount points at and below path, a bind mount of the same filesystem included, in the order in
// which the kernel lists them: what is mounted on another comes after it, and a point that two are mounted on is
// there twice. What path itself lies on is not asked for. It follows no link at the end of path, and asks the
// kernel (proc_pid_mountinfo(5)) rather than the files, of which there may be any number.
func Mounts(path string) ([]string, error) {
	real, err := realPath(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if point := mountPoint(line); point == real || strings.HasPrefix(point, real+"/") {
			points = append(points, path+point[len(real):])
		}
		if errors.Is(err, io.EOF) {
			return points, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// realPath follows the links in the path of the directory that path is in: the kernel lists mounts without links.
func realPath(path string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	if parent, err = filepath.Abs(parent); err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(path)), nil
}

// mountPoint is the fifth field of a line of mountinfo, "" where there is none.
func mountPoint(line []byte) string {
	fields := bytes.SplitN(line, []byte(" "), 6)
	if len(fields) < 6 {
		return ""
	}
	return unescape(fields[4])
}

// unescape replaces the kernel's octal escapes: a backslash and three digits, for blanks and backslashes in names.
func unescape(s []byte) string {
	plain := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+3 >= len(s) {
			plain = append(plain, s[i])
			continue
		}
		plain = append(plain, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
		i += 3
	}
	return string(plain)
}

// findMount returns an error for a mount at or below path.
func findMount(path string) error {
	points, err := Mounts(path)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("remove %s: %w", points[0], ErrMounted)
	}
	return nil
}

// openHere opens name in parent unless another filesystem begins there. It follows no link.
func openHere(parent int, name string, flags uint64) (int, error) {
	return unix.Openat2(parent, name, &unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV,
	})
}

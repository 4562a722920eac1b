package disk

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one path may go through, as in the kernel.
const maxLinks = 40

var errEscapes = errors.New("a symbolic link leads out of the directory")

// root is one directory that VMs may use files from.
type root struct {
	dir  string // as configured, clean
	real string // without symbolic links; "" where it does not exist
	kind Kind
}

func newRoot(dir string, kind Kind) root {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		real = ""
	}
	return root{dir: filepath.Clean(dir), real: real, kind: kind}
}

// holds tells by name whether path is the root or lies below it, and returns the rest of path.
func (r *root) holds(path string) (rel string, ok bool) {
	for _, dir := range []string{r.dir, r.real} {
		if dir == "" {
			continue
		}
		if path == dir {
			return "", true
		}
		if rel, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/"); ok {
			return rel, true
		}
	}
	return "", false
}

// resolve follows links by name first, so that an escape is told from a missing file, and then looks at what it
// came to without following any: a link swapped in between is refused.
func (r *root) resolve(rel string) (File, error) {
	if r.real == "" {
		return File{}, unix.ENOENT
	}
	dir, err := unix.Openat2(unix.AT_FDCWD, r.real, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return File{}, fmt.Errorf("the directory cannot be reached: %w", err)
	}
	defer unix.Close(dir)
	rel, err = r.follow(dir, rel)
	if err != nil {
		return File{}, err
	}
	fd, err := openPath(dir, rel, unix.RESOLVE_BENEATH)
	if err != nil {
		return File{}, changed(err)
	}
	defer unix.Close(fd)
	return examine(fd, filepath.Join(r.real, rel))
}

// follow returns what rel comes to once every link on it was followed. It goes name by name, so that nothing
// outside of the root is ever asked for.
func (r *root) follow(dir int, rel string) (string, error) {
	var done []string
	todo := strings.Split(rel, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(done) == 0 {
				return "", errEscapes
			}
			done = done[:len(done)-1]
			continue
		}
		done = append(done, name)
		target, err := readLink(dir, strings.Join(done, "/"))
		if err != nil {
			return "", err
		}
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("the file cannot be reached: %w", unix.ELOOP)
		}
		done = done[:len(done)-1]
		if strings.HasPrefix(target, "/") {
			inside, ok := r.holds(squeeze(target))
			if !ok {
				return "", errEscapes
			}
			done, target = nil, inside
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	if len(done) == 0 {
		return ".", nil
	}
	return strings.Join(done, "/"), nil
}

// squeeze takes what means nothing out of a path. It keeps "..", whose meaning depends on links.
func squeeze(path string) string {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return "/" + strings.Join(names, "/")
}

// readLink returns the target of a link, "" for what is none.
func readLink(dir int, rel string) (string, error) {
	fd, err := openPath(dir, rel, unix.RESOLVE_BENEATH)
	if errors.Is(err, unix.ENOENT) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("the file cannot be reached: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", fmt.Errorf("the file cannot be examined: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", fmt.Errorf("the file cannot be examined: %w", err)
	}
	return string(buf[:n]), nil
}

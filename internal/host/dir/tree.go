package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// batch is how many names are read before what they name is removed.
const batch = 1024

// tree is a directory that is being emptied. It may have been filled by somebody who wants to do harm: directories
// in directories, without an end, would take a descriptor each. So what is found deeper than one level is moved up
// to the top, and taken from there.
type tree struct {
	ctx  context.Context
	path string
	top  *os.File
	// moved counts what went: names, and directories that are at the top now.
	moved int
	// failed is the first error of what stays.
	failed error
}

// removeTree removes path with all that it holds, by descriptors: it follows no link and enters no mount. A path
// that is not there is no error.
func removeTree(ctx context.Context, path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(parent)
	name := filepath.Base(path)
	if gone, err := unlink(parent, name); gone {
		return nil
	} else if err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	top, err := openHere(parent, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: mounted(err)}
	}
	t := &tree{ctx: ctx, path: path, top: os.NewFile(uintptr(top), path)}
	defer t.top.Close()
	if err := t.empty(); err != nil {
		return err
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: mounted(err)}
	}
	return nil
}

// empty goes over the top until nothing is in it, or nothing of it goes any more.
func (t *tree) empty() error {
	for {
		before := t.moved
		t.failed = nil
		found, err := t.each(t.top, t.removeAtTop)
		if err != nil {
			return err
		}
		if found == 0 {
			return nil
		}
		if t.moved == before {
			return t.failed
		}
	}
}

// each calls do with every name in d, and returns how many there were.
func (t *tree) each(d *os.File, do func(name string)) (found int, err error) {
	if _, err := d.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	for {
		if err := t.ctx.Err(); err != nil {
			return found, err
		}
		names, err := d.Readdirnames(batch)
		for _, name := range names {
			do(name)
		}
		found += len(names)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
	}
}

func (t *tree) removeAtTop(name string) {
	top := int(t.top.Fd())
	if gone, err := unlink(top, name); gone || err != nil {
		t.note(name, err)
		return
	}
	fd, err := openHere(top, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		t.note(name, err)
		return
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	if _, err := t.each(d, func(below string) { t.removeBelow(fd, name, below) }); err != nil {
		t.note(name, err)
	}
	if err := unix.Unlinkat(top, name, unix.AT_REMOVEDIR); err == nil || t.failed == nil {
		t.note(name, err)
	}
}

// removeBelow takes name out of dir, which is at the top: a directory that is not empty goes there too.
func (t *tree) removeBelow(dir int, dirName, name string) {
	gone, err := unlink(dir, name)
	if !gone && err == nil {
		err = unix.Renameat(dir, name, int(t.top.Fd()), trashPrefix+rand.Text())
	}
	t.note(filepath.Join(dirName, name), err)
}

// note counts what went, and keeps the first error.
func (t *tree) note(name string, err error) {
	switch {
	case err == nil:
		t.moved++
	case t.failed == nil:
		t.failed = &fs.PathError{Op: "remove", Path: filepath.Join(t.path, name), Err: mounted(err)}
	}
}

// unlink removes name, be it a file or an empty directory. What is neither gone nor an error is a directory with
// something in it.
func unlink(dir int, name string) (gone bool, err error) {
	err = unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	var st unix.Stat_t
	if serr := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); serr != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, err
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return true, nil
	case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST):
		return false, nil
	}
	return false, err
}

// mounted tells of an error that a mount was in the way: one that came after the look at the list of mounts.
func mounted(err error) error {
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EBUSY) {
		return ErrMounted
	}
	return err
}

package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Make makes the jail <base>/<executable's name>/<id>/root for a VMM that runs as owner. The base exists; what is above
// the root belongs to metald and is closed to everybody else. Where the directory of the id is there already, it is a
// jail that was used, or is in use, and the error wraps os.ErrExist: a jail is made once, and removed before another one
// takes its name. After an error nothing is left.
func Make(root string, owner Owner) (*Jail, error) {
	if owner.UID == 0 || owner.GID == 0 {
		return nil, fmt.Errorf("make jail %s: uid %d and gid %d: a jailed VMM never runs as root", root, owner.UID, owner.GID)
	}
	dir := filepath.Dir(root)
	parent, err := openParent(filepath.Dir(dir))
	if err != nil {
		return nil, fmt.Errorf("make jail: %w", err)
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, filepath.Base(dir), 0o700); err != nil {
		return nil, fmt.Errorf("make jail: %w", &os.PathError{Op: "mkdir", Path: dir, Err: err})
	}
	fd, err := makeRoot(parent, filepath.Base(dir), filepath.Base(root), owner)
	if err != nil {
		err = &os.PathError{Op: "mkdir", Path: root, Err: err}
		return nil, errors.Join(fmt.Errorf("make jail: %w", err), unix.Unlinkat(parent, filepath.Base(dir), unix.AT_REMOVEDIR))
	}
	return &Jail{path: root, owner: owner, root: os.NewFile(uintptr(fd), root)}, nil
}

// openParent opens the directory of an executable's jails, and makes it where it is missing.
func openParent(path string) (int, error) {
	base, err := openTop(filepath.Dir(path))
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	if err := checkOurs(base, filepath.Dir(path)); err != nil {
		return -1, err
	}
	if err := unix.Mkdirat(base, filepath.Base(path), 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	fd, err := openAt(base, filepath.Base(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := checkOurs(fd, path); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// checkOurs refuses a directory in which another user could put something else in the place of a jail.
func checkOurs(fd int, path string) error {
	_, st, err := typeOf(fd)
	switch {
	case err != nil:
		return &os.PathError{Op: "stat", Path: path, Err: err}
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d; jails are below directories of root's", path, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("other users can write to %s (mode %04o); chmod go-w it", path, st.Mode&0o7777)
	}
	return nil
}

// makeRoot makes name in the directory dir of parent, and gives it to owner.
func makeRoot(parent int, dir, name string, owner Owner) (int, error) {
	above, err := openAt(parent, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	return makeDir(above, name, owner)
}

// makeDir makes a directory that is owner's alone, and opens it. It was not there.
func makeDir(parent int, name string, owner Owner) (int, error) {
	if err := unix.Mkdirat(parent, name, 0o700); err != nil {
		return -1, err
	}
	fd, err := openAt(parent, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		if err = owner.give(fd); err == nil {
			return fd, nil
		}
		unix.Close(fd)
	}
	return -1, errors.Join(err, unix.Unlinkat(parent, name, unix.AT_REMOVEDIR))
}

// Dir makes a directory that is the VMM's user's alone. It was not there: os.ErrExist.
func (j *Jail) Dir(name string) error {
	return j.in("mkdir", name, func(dir int, base string) error {
		fd, err := makeDir(dir, base, j.owner)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// Executable makes the empty file that the jailer copies the VMM into, so that its identity is known before there is a
// process of it: the jailer opens a file that is there as it is, and gives it to the VMM's user. It was not there:
// os.ErrExist.
func (j *Jail) Executable(name string) (device, inode uint64, err error) {
	err = j.in("create", name, func(dir int, base string) error {
		// It is never open for writing: a child that metald forks meanwhile would have it open, too, for a moment, in
		// which nobody can execute it (ETXTBSY).
		if err := unix.Mknodat(dir, base, unix.S_IFREG|0o755, 0); err != nil {
			return err
		}
		fd, err := openAt(dir, base, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, st, err := typeOf(fd)
		device, inode = st.Dev, st.Ino
		return errors.Join(err, unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o755)) // whatever the umask
	})
	return device, inode, err
}

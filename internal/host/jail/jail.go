// Package jail puts files into the directory that becomes a VMM's root, opens what is in it later, and removes it.
//
// The directory belongs to the VMM's user, and a VMM that was taken over may put anything there under any name, at any
// moment. So nothing in it is reached by a path of the host: everything is opened from a descriptor of the jail's root,
// through no link and into no mount (openat2(2)), and looked at before it is used. What is here is not what the jailer
// does: it prepares a jail before the jailer starts, and ends it afterwards.
package jail

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Owner is whom a VMM runs as.
type Owner struct{ UID, GID uint32 }

// Jail is a directory that is, or becomes, a VMM's root. Its methods may be called at the same time.
type Jail struct {
	path  string
	owner Owner
	root  *os.File // O_PATH

	closing sync.WaitGroup // what is being closed meanwhile
}

// Open opens a jail that exists, or the run directory of a VMM without one. There is no symbolic link in its path. The
// VMM's user is the one that the directory belongs to: no other user than root can give it away.
func Open(root string) (*Jail, error) {
	fd, err := openTop(root)
	if err != nil {
		return nil, fmt.Errorf("open jail: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open jail: %w", &os.PathError{Op: "stat", Path: root, Err: err})
	}
	return &Jail{path: root, owner: Owner{st.Uid, st.Gid}, root: os.NewFile(uintptr(fd), root)}, nil
}

// Close lets go of the jail, and leaves it as it is.
func (j *Jail) Close() error {
	j.closing.Wait()
	return j.root.Close()
}

// Owner is whom the VMM runs as.
func (j *Jail) Owner() Owner { return j.owner }

// beneath is how everything in a jail is reached.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openAt opens name in dir. With O_PATH it opens a link itself, so that its type is to be looked at.
func openAt(dir int, name string, flags, mode uint64) (int, error) {
	return unix.Openat2(dir, name, &unix.OpenHow{Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: mode, Resolve: beneath})
}

// openTop opens a directory by its path, which is not in a jail but where one is.
func openTop(path string) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// in calls do with a descriptor of the directory in the jail that name is in, and with the last part of name.
func (j *Jail) in(op, name string, do func(dir int, base string) error) error {
	err := checkName(name)
	if err == nil {
		err = j.within(path.Dir(name), func(dir int) error { return do(dir, path.Base(name)) })
	}
	if err != nil {
		return &os.PathError{Op: op, Path: filepath.Join(j.path, name), Err: err}
	}
	return nil
}

// within calls do with a descriptor of a directory in the jail.
func (j *Jail) within(dir string, do func(dir int) error) error {
	conn, err := j.root.SyscallConn()
	if err != nil {
		return err
	}
	// Control keeps the descriptor from being closed, and its number from becoming another file's.
	cerr := conn.Control(func(root uintptr) {
		var fd int
		if fd, err = openAt(int(root), dir, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
			defer unix.Close(fd)
			err = do(fd)
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// checkName takes names of the layout's, relative to the jail's root.
func checkName(name string) error {
	if name == "." || !filepath.IsLocal(name) || path.Clean(name) != name || strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%q is not a name below a jail's root", name)
	}
	return nil
}

// typeOf says what kind of file fd is.
func typeOf(fd int) (uint32, unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode & unix.S_IFMT, st, err
}

// give makes fd, which may be of O_PATH, the VMM's user's.
func (o Owner) give(fd int) error {
	return unix.Fchownat(fd, "", int(o.UID), int(o.GID), unix.AT_EMPTY_PATH)
}

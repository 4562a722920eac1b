package jail

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

// Loan is a file of the host that a VMM's user has for a while, and whose it was. It is made of what a record can keep.
type Loan struct {
	Source string `json:"source"`
	// Device, Inode and Born are the file's, as disk.File has them.
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Born   int64  `json:"born"`
	// UID, GID and Mode (the bits of 07777) are what it had before.
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode uint32 `json:"mode"`
	// To has it meanwhile.
	To Owner `json:"to"`
}

func loanOf(f *disk.Pinned, to Owner) (Loan, error) {
	_, st, err := typeOf(f.Fd())
	if err != nil {
		return Loan{}, &os.PathError{Op: "stat", Path: f.Path, Err: err}
	}
	return Loan{
		Source: f.Path, Device: f.Device, Inode: f.Inode, Born: f.Born,
		UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777, To: to,
	}, nil
}

// Give makes the file the VMM's user's, who may then write to it. It comes after the loan was recorded: so the file can
// be given back whenever metald dies. Another file at its path, or another owner than before, is disk.ErrChanged. A
// second time is no error.
func (l Loan) Give() error {
	f, err := disk.Pin(l.Source)
	if err != nil {
		return fmt.Errorf("lend: %w", err)
	}
	defer f.Close()
	now, err := loanOf(f, l.To)
	if err != nil {
		return fmt.Errorf("lend: %w", err)
	}
	had, has := Owner{l.UID, l.GID}, Owner{now.UID, now.GID}
	if !f.Same(disk.File{Device: l.Device, Inode: l.Inode, Born: l.Born}) || has != had && has != l.To {
		return fmt.Errorf("lend %s: %w", l.Source, disk.ErrChanged)
	}
	// Bits that gain whoever runs the file another user are none of a disk's.
	if err := own(f, l.To, l.Mode&0o777|0o600); err != nil {
		return fmt.Errorf("lend %s: %w", l.Source, errors.Join(err, own(f, had, l.Mode)))
	}
	return nil
}

// Restore gives the file back, with the mode that it had. A file that is gone, or that somebody gave to another user
// meanwhile, is none to give back, and no error; nor is a second time. Another file at its path is left alone, and the
// error wraps disk.ErrChanged.
func (l Loan) Restore() error {
	f, err := disk.Pin(l.Source)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give %s back: %w", l.Source, err)
	}
	defer f.Close()
	if !f.Same(disk.File{Device: l.Device, Inode: l.Inode, Born: l.Born}) {
		return fmt.Errorf("give %s back: %w", l.Source, disk.ErrChanged)
	}
	now, err := loanOf(f, l.To)
	if err != nil {
		return fmt.Errorf("give back: %w", err)
	}
	if now.UID != l.To.UID || now.GID != l.To.GID {
		return nil
	}
	if err := own(f, Owner{l.UID, l.GID}, l.Mode); err != nil {
		return fmt.Errorf("give %s back: %w", l.Source, err)
	}
	return nil
}

// own sets owner and mode, in this order: a change of the owner takes bits of the mode away.
func own(f *disk.Pinned, owner Owner, mode uint32) error {
	if err := owner.give(f.Fd()); err != nil {
		return err
	}
	return unix.Chmod(f.Name(), mode)
}

// lend puts a file into a jail that is to be written there.
func lend(source *disk.Pinned, dir int, base string, to Owner) (Placed, error) {
	loan, err := loanOf(source, to)
	if err != nil {
		return Placed{}, err
	}
	way := Link
	if err = link(source, dir, base); linksNot(err) {
		way = Mount
		err = bind(source, dir, base)
	}
	if err != nil {
		return Placed{}, err
	}
	return Placed{Way: way, Loan: &loan}, nil
}

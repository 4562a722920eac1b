package cloudhypervisor

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// disk is one that is open.
type disk struct {
	id       string
	path     string
	readOnly bool
	fd       int
	size     int64
	at       int64 // where the guest writes next
}

// openDisk opens a disk as its config says, and looks at what it begins with.
func openDisk(c *diskConfig) (*disk, *fault) {
	const cannot = "Cannot open disk path"
	if c.Path == nil {
		return nil, says("No disk path was specified when one was expected")
	}
	d := &disk{path: string(*c.Path), readOnly: c.ReadOnly}
	flags := unix.O_CLOEXEC
	if !c.ReadOnly {
		flags |= unix.O_RDWR
	}
	if c.Direct {
		flags |= unix.O_DIRECT
	}
	var err error
	if d.fd, err = unix.Open(d.path, flags, 0); err != nil {
		return nil, causedBy(err, cannot, fmt.Sprintf("I/O error (path=%s op=open)", d.path))
	}
	if d.size, err = unix.Seek(d.fd, 0, unix.SEEK_END); err != nil {
		unix.Close(d.fd)
		return nil, causedBy(err, cannot, fmt.Sprintf("I/O error (path=%s op=seek)", d.path))
	}
	if f := d.identify(c); f != nil {
		unix.Close(d.fd)
		return nil, f
	}
	return d, nil
}

// identify finds out what an image is where it is not told. It knows two kinds.
func (d *disk) identify(c *diskConfig) *fault {
	found := imageRaw
	if c.ImageType != imageRaw {
		magic := make([]byte, 4096)
		if n, err := unix.Pread(d.fd, magic, 0); err == nil && n >= 4 && string(magic[:4]) == "QFI\xfb" {
			found = imageQCOW2
		}
	}
	names := map[imageType]string{imageRaw: "raw", imageQCOW2: "qcow2", "FixedVhd": "vhd", "Vhdx": "vhdx"}
	switch {
	case c.ImageType != imageUnknown && c.ImageType != found:
		return says(fmt.Sprintf("Disk image type does not match expected type: specified = %s, detected = %s", names[c.ImageType], names[found]))
	case found != imageRaw:
		return says("the stand-in takes raw disks only")
	}
	c.ImageType = found
	return nil
}

// lock takes the lock of an image: a shared one for who only reads.
func (d *disk) lock() *fault {
	kind, name := int16(unix.F_WRLCK), "Write"
	if d.readOnly {
		kind, name = unix.F_RDLCK, "Read"
	}
	err := unix.FcntlFlock(uintptr(d.fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Len: d.size})
	if err == nil {
		return nil
	}
	cause := rust.IOError(err)
	if err == unix.EAGAIN || err == unix.EACCES {
		cause = "The file is already locked"
	}
	return says("Error locking disk images: Another instance likely holds a lock", "Cannot lock images of all block devices",
		fmt.Sprintf("Failed to get %s lock for disk image: %s", name, d.path), cause)
}

// write writes n bytes of the guest's and says how many the disk took. At its end it begins anew.
func (d *disk) write(n int64) (int64, error) {
	block := make([]byte, 1<<20)
	for done := int64(0); done < n; {
		if d.at >= d.size {
			d.at = 0
		}
		piece := min(n-done, int64(len(block)), d.size-d.at)
		if piece <= 0 {
			return done, unix.ENOSPC
		}
		wrote, err := unix.Pwrite(d.fd, block[:piece], d.at)
		if err != nil {
			return done, err
		}
		d.at += int64(wrote)
		done += int64(wrote)
	}
	return n, unix.Fsync(d.fd)
}

// readStart reads what a disk begins with, where its first file system has its description.
func (d *disk) readStart() (int, error) {
	// Memory of its own, so that it is in the place that O_DIRECT asks for.
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(block)
	return unix.Pread(d.fd, block, 0)
}

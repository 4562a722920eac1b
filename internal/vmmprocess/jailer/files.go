package jailer

// Kind is what a file in a jail is.
type Kind string

const (
	// ReadOnly is a file of the host's that the VMM reads. It may be shared with other jails, so it is never chowned.
	ReadOnly Kind = "read-only file"
	// Writable is a file that the VMM writes, and that belongs to its user.
	Writable Kind = "writable file"
	// FIFO is a named pipe, 0600 and of the VMM's user, which the VMM opens for reading and writing.
	FIFO Kind = "FIFO"
)

// File is one thing that metald puts into a jail before the jailer starts. How (by a hard link, a reflink or a copy) is
// for the one who knows the file systems.
type File struct {
	Place
	Kind   Kind
	Source string // on the host; "" for a FIFO, which is made
}

// Contents is what a VM needs in its jail.
type Contents struct {
	Kernel string
	Initrd string // "" for none
	Disks  []Disk
	Log    bool // a FIFO for the VMM's log
}

// Disk is a disk's file on the host.
type Disk struct {
	Source   string
	ReadOnly bool
}

// Files lists what is to be put into the jail, in the order of the contents and each with its place. The sockets are
// not in it: the VMM makes them.
func (l Layout) Files(c Contents) []File {
	files := []File{{Place: l.Kernel(), Kind: ReadOnly, Source: c.Kernel}}
	if c.Initrd != "" {
		files = append(files, File{Place: l.Initrd(), Kind: ReadOnly, Source: c.Initrd})
	}
	for i, d := range c.Disks {
		f := File{Place: l.Disk(i), Kind: Writable, Source: d.Source}
		if d.ReadOnly {
			f.Kind = ReadOnly
		}
		files = append(files, f)
	}
	files = append(files, File{Place: l.Metrics(), Kind: FIFO})
	if c.Log {
		files = append(files, File{Place: l.Log(), Kind: FIFO})
	}
	return files
}

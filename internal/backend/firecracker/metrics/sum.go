package metrics

import "strings"

// DriveBytes is what was read and written on all drives, and of how many that is known. It allocates nothing.
func (d *Decoder) DriveBytes() (read, written uint64, drives int) {
	for _, g := range d.groups {
		if g.device && g.known != 0 && strings.HasPrefix(g.key, drivePrefix) {
			read, written, drives = read+g.total[0], written+g.total[1], drives+1
		}
	}
	return read, written, drives
}

package firecracker

import "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"

// DiskTotals are the bytes of all disks together, as Usage has them, for who reads them ten times a second: it asks
// nobody and allocates nothing. Of a VMM that has ended, and before the first line of the metrics, they are not known.
func (m *machine) DiskTotals() (sum types.DiskUsage, ok bool) {
	read, written, known := m.meter.collector.DriveBytes()
	if known != len(m.spec.Disks) || m.died() {
		return types.DiskUsage{}, false
	}
	return types.DiskUsage{ReadBytes: int64(read), WriteBytes: int64(written)}, true
}

package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Limits of one VM, its VMM and all that helps it included; 0 is none.
type Limits struct {
	// MemoryBytes is for RAM and page cache together, rounded down to whole pages. Where the kernel accounts for
	// swap, there is none of it on top.
	MemoryBytes uint64
	// CPUQuota is in percent of one CPU: 250 is two CPUs and a half.
	CPUQuota uint32
	// PIDs is how many processes and threads there may be.
	PIDs uint32
	// IO has one entry per device. On v1 the kernel holds back direct and synchronous I/O only: what is written back
	// from the page cache is charged to nobody.
	IO []IOLimit
}

// IOLimit is what a VM may read from and write to one disk, per second; 0 is no limit. The kernel takes whole disks,
// not partitions: DeviceOf finds them.
type IOLimit struct {
	Major, Minor        uint32
	ReadBPS, WriteBPS   uint64 // bytes
	ReadIOPS, WriteIOPS uint64 // requests
}

// periodUS is over how many microseconds the kernel measures a CPU quota; it is the kernel's default.
const periodUS = 100_000

// setting is one value for one file.
type setting struct {
	controller, file, value string
	// ifPresent is for files that only some kernels have, and that a limit holds without.
	ifPresent bool
}

// check refuses what the kernel would take and not do as asked.
func (l Limits) check() error {
	if page := uint64(os.Getpagesize()); l.MemoryBytes > 0 && l.MemoryBytes < page {
		return fmt.Errorf("a memory limit of %d bytes is less than a page of %d and leaves nothing", l.MemoryBytes, page)
	}
	seen := map[[2]uint32]bool{}
	for _, d := range l.IO {
		dev := [2]uint32{d.Major, d.Minor}
		if seen[dev] {
			return fmt.Errorf("device %d:%d has two I/O limits, and the kernel keeps one: join them", d.Major, d.Minor)
		}
		seen[dev] = true
	}
	return nil
}

// settings in the order in which the kernel takes them.
func (l Limits) settings(version int) []setting {
	if version == 2 {
		return l.v2()
	}
	return l.v1()
}

func (l Limits) v2() []setting {
	var s []setting
	if l.MemoryBytes > 0 {
		s = append(s, setting{controller: memoryCtrl, file: "memory.max", value: decimal(l.MemoryBytes)},
			setting{controller: memoryCtrl, file: "memory.swap.max", value: "0", ifPresent: true})
	}
	if l.CPUQuota > 0 {
		s = append(s, setting{controller: cpuCtrl, file: "cpu.max", value: decimal(l.quotaUS()) + " " + decimal(periodUS)})
	}
	if l.PIDs > 0 {
		s = append(s, setting{controller: pidsCtrl, file: "pids.max", value: decimal(uint64(l.PIDs))})
	}
	for _, d := range l.IO {
		words := []string{d.device()}
		for _, key := range []struct {
			name  string
			limit uint64
		}{{"rbps", d.ReadBPS}, {"wbps", d.WriteBPS}, {"riops", d.ReadIOPS}, {"wiops", d.WriteIOPS}} {
			if key.limit > 0 {
				words = append(words, key.name+"="+decimal(key.limit))
			}
		}
		if len(words) > 1 {
			s = append(s, setting{controller: ioCtrl, file: "io.max", value: strings.Join(words, " ")})
		}
	}
	return s
}

func (l Limits) v1() []setting {
	var s []setting
	if l.MemoryBytes > 0 { // with swap is never less than without, so it comes second
		s = append(s, setting{controller: memoryCtrl, file: "memory.limit_in_bytes", value: decimal(l.MemoryBytes)},
			setting{controller: memoryCtrl, file: "memory.memsw.limit_in_bytes", value: decimal(l.MemoryBytes), ifPresent: true})
	}
	if l.CPUQuota > 0 {
		s = append(s, setting{controller: cpuCtrl, file: "cpu.cfs_period_us", value: decimal(periodUS)},
			setting{controller: cpuCtrl, file: "cpu.cfs_quota_us", value: decimal(l.quotaUS())})
	}
	if l.PIDs > 0 {
		s = append(s, setting{controller: pidsCtrl, file: "pids.max", value: decimal(uint64(l.PIDs))})
	}
	for _, d := range l.IO {
		for _, key := range []struct {
			name  string
			limit uint64
		}{{"read_bps", d.ReadBPS}, {"write_bps", d.WriteBPS}, {"read_iops", d.ReadIOPS}, {"write_iops", d.WriteIOPS}} {
			if key.limit > 0 {
				s = append(s, setting{controller: blkioCtrl, file: "blkio.throttle." + key.name + "_device", value: d.device() + " " + decimal(key.limit)})
			}
		}
	}
	return s
}

func (l Limits) quotaUS() uint64 { return uint64(l.CPUQuota) * periodUS / 100 }

func (d IOLimit) device() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

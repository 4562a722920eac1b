package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a group used; what the host does not tell is nil.
type Usage struct {
	// CPU is the time of all processes that were in the group, ended ones included, since the group was made. v2
	// counts in microseconds, v1 in nanoseconds.
	CPU *time.Duration
	// Memory is what is charged to the group now, in bytes, page cache of the files it used included. The kernel
	// keeps some of it per CPU, so it is off by some dozens of pages.
	Memory *uint64
}

// Usage reads the group. It can be read after the last process ended, until the group is removed; that reading is
// the final one. An error leaves nil what it concerns, and what could be read is returned with it.
func (g *Group) Usage() (Usage, error) {
	var u Usage
	var errs []error
	for _, h := range g.at {
		if g.parent.root.version == 2 {
			errs = append(errs, u.readCPU(h.dir, "cpu.stat", "usage_usec ", time.Microsecond))
		} else if h.has(cpuacctCtrl) {
			errs = append(errs, u.readCPU(h.dir, "cpuacct.usage", "", time.Nanosecond))
		}
		if h.has(memoryCtrl) {
			file := "memory.usage_in_bytes"
			if g.parent.root.version == 2 {
				file = "memory.current"
			}
			errs = append(errs, u.readMemory(h.dir, file))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return u, fmt.Errorf("usage of cgroup %s: %w", g, err)
	}
	return u, nil
}

// readCPU takes the number after key, at the start of a line.
func (u *Usage) readCPU(dir, file, key string, unit time.Duration) error {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		word, ok := strings.CutPrefix(line, key)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(word), 10, 64)
		if err != nil || n < 0 || n > int64(1<<63-1)/int64(unit) {
			return fmt.Errorf("%s in %s: %q is no time", file, dir, line)
		}
		cpu := time.Duration(n) * unit
		u.CPU = &cpu
		return nil
	}
	return fmt.Errorf("%s in %s has no %q", file, dir, strings.TrimSpace(key))
}

func (u *Usage) readMemory(dir, file string) error {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", file, dir, err)
	}
	u.Memory = &n
	return nil
}

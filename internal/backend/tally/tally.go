// Package tally reads what the host's kernel counts of a VMM, as far as backends do it alike: the process, and the taps.
package tally

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// Process reads the counters of a process that lives. Who calls it sees afterwards that it still does: the pid may be
// another's.
func Process(u *types.Usage, pid int) {
	if cpu, err := vmmprocess.CPUTime(pid); err == nil {
		u.CPUTime = &cpu
	}
	if resident, err := vmmprocess.ResidentMemory(pid); err == nil {
		u.MemoryBytes = &resident
	}
}

// Taps are the taps of a VM by interface. They are part of handles.
type Taps map[string]Tap

// Tap is one of them, and where its counters stood when the VMM began: they began before.
type Tap struct {
	Name string `json:"tap"`
	types.NetworkUsage
}

// Begin reads the taps of interfaces. What cannot be read is left out.
func Begin(networks []types.Network) (taps Taps) {
	for _, n := range networks {
		now, err := tap.Read(n.Tap)
		if err != nil {
			continue
		}
		if taps == nil {
			taps = Taps{}
		}
		taps[n.ID] = Tap{Name: n.Tap, NetworkUsage: types.NetworkUsage(now)}
	}
	return taps
}

// Used is what went through the taps since. A tap outlives its VMM, and so do its counters. One whose counters fell was
// made anew, and is left out.
func (t Taps) Used() (used map[string]types.NetworkUsage) {
	for id, from := range t {
		now, err := tap.Read(from.Name)
		if err != nil {
			continue
		}
		since, ok := now.Since(tap.Counters(from.NetworkUsage))
		if !ok {
			continue
		}
		if used == nil {
			used = map[string]types.NetworkUsage{}
		}
		used[id] = types.NetworkUsage(since)
	}
	return used
}

// Sources are the taps for who reads them by themselves.
func (t Taps) Sources() (all []types.TapSource) {
	for _, from := range t {
		all = append(all, types.TapSource{Name: from.Name, From: from.NetworkUsage})
	}
	return all
}

// NoDisks is what a guest did that never ran.
func NoDisks(disks []types.Disk) map[string]types.DiskUsage {
	if len(disks) == 0 {
		return nil
	}
	none := make(map[string]types.DiskUsage, len(disks))
	for _, d := range disks {
		none[d.ID] = types.DiskUsage{}
	}
	return none
}

// Last has the process of a handle ended, if it is still that one, and returns what is known of the end: its CPU clock,
// and its taps, as long as the host was not restarted. It is for who reaps a VMM.
func Last(ctx context.Context, s *vmmprocess.Supervisor, h types.Handle, taps Taps) (types.Usage, error) {
	u := types.Usage{At: time.Now()}
	process, err := s.Adopt(h.Process)
	switch {
	case errors.Is(err, types.ErrGone):
	case err != nil:
		return types.Usage{}, err
	default:
		defer process.Release()
		if err := process.Kill(ctx); err != nil {
			return types.Usage{}, err
		}
		u.CPUTime = Clock(process)
	}
	if s.BootID() == h.Process.BootID {
		u.Networks = taps.Used()
	}
	return u, nil
}

// Clock is what the CPU clock of a process said when it had ended; nil where it could not be read.
func Clock(p *vmmprocess.Process) *time.Duration {
	if cpu, known := p.FinalCPU(); known {
		return &cpu
	}
	return nil
}

// Copy returns a usage that shares nothing with u.
func Copy(u types.Usage) types.Usage {
	if u.CPUTime != nil {
		cpu := *u.CPUTime
		u.CPUTime = &cpu
	}
	if u.MemoryBytes != nil {
		memory := *u.MemoryBytes
		u.MemoryBytes = &memory
	}
	u.Disks, u.Networks = maps.Clone(u.Disks), maps.Clone(u.Networks)
	return u
}

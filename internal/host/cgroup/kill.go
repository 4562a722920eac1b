package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Kill ends every process of the group with SIGKILL, those too that are born meanwhile, and returns once none is left
// or with an error when ctx ends. v2 does it in one go (Linux 5.14); elsewhere it is done process by process until
// the group is empty. An empty or absent group is no error.
func (g *Group) Kill(ctx context.Context) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		left, err := g.Processes()
		if err == nil && len(left) > 0 {
			err = g.killOnce(left)
		}
		switch {
		case err != nil:
			return fmt.Errorf("kill cgroup %s: %w", g, err)
		case len(left) == 0:
			return nil
		}
		if err := waitEmpty(ctx, g.at[0].dir, pause); err != nil {
			return fmt.Errorf("kill cgroup %s: processes %v have not ended: %w", g, left, err)
		}
	}
}

func (g *Group) killOnce(left []int) error {
	if g.parent.root.version == 2 {
		err := g.parent.root.kernel.write(filepath.Join(g.at[0].dir, "cgroup.kill"), "1")
		if err == nil || (gone(err) && !isDir(g.at[0].dir)) {
			return nil
		}
		if !gone(err) {
			return err
		}
	}
	return g.killEach(left)
}

// killEach signals the processes of the list that are in the group still. The pidfds are opened before the second
// look: a pid that is there then is the process that the pidfd holds, or one that took its pid, and then the pidfd
// signals nobody.
func (g *Group) killEach(list []int) error {
	if list[0] == 0 {
		return errors.New("a process in it belongs to a pid namespace that metald does not see: run metald in the host's")
	}
	pidfds := map[int]int{}
	defer func() {
		for _, fd := range pidfds {
			unix.Close(fd)
		}
	}()
	for _, pid := range list {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open a pidfd of process %d: %w", pid, err)
		}
		pidfds[pid] = fd
	}
	if err := g.endForks(); err != nil {
		return err
	}
	still, err := g.Processes()
	if err != nil {
		return err
	}
	for pid, fd := range pidfds {
		if !slices.Contains(still, pid) {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// endForks lets no process be born in the group any more, where it can be told so: who forks faster than it is
// killed would win. The group is at its end, and never has its old limit back.
func (g *Group) endForks() error {
	for _, h := range g.at {
		if !h.has(pidsCtrl) {
			continue
		}
		if err := g.parent.root.kernel.write(filepath.Join(h.dir, "pids.max"), "0"); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

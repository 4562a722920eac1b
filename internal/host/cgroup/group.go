package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Group is the group of one VM: one directory on v2, on v1 one in each hierarchy that is used.
type Group struct {
	parent *Parent
	name   string
	at     []hierarchy
}

// Name is the one that it was made with.
func (g *Group) Name() string { return g.name }

func (g *Group) String() string { return g.parent.name + "/" + g.name }

// Add moves a process with all its threads into the group; what it used before stays where it was charged. It is
// meant for a process that waits to be let go, so that everything it does is in the group. After an error the
// process may be in some hierarchies: end it, then remove the group.
func (g *Group) Add(pid int) error {
	if pid <= 0 { // to the kernel 0 is the writer itself
		return fmt.Errorf("add to cgroup %s: %d is no process", g, pid)
	}
	for _, h := range g.at {
		if err := g.parent.root.kernel.write(filepath.Join(h.dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("add process %d to cgroup %s: %w", pid, g, err)
		}
	}
	return nil
}

// Entrances are where a process gets into the group by itself, which takes less time than Add, see the package
// vmmprocess: on v2 the directory, to be born in, which the caller closes; on v1 the files into which it writes "0" as
// long as it has one thread. The user uid may write to those: it can move processes of its own there, and none out.
func (g *Group) Entrances(uid uint32) (bornIn *os.File, joins []string, err error) {
	if g.parent.root.version == 2 {
		bornIn, err = os.Open(g.at[0].dir)
		return bornIn, nil, err
	}
	for _, h := range g.at {
		tasks := filepath.Join(h.dir, "tasks")
		if uid != 0 {
			if err := os.Chown(tasks, int(uid), -1); err != nil {
				return nil, nil, err
			}
		}
		joins = append(joins, tasks)
	}
	return nil, joins, nil
}

// Processes lists the pids of the processes in the group that have not ended, sorted. 0 is a process that metald's
// pid namespace does not know.
func (g *Group) Processes() ([]int, error) {
	var list []int
	for _, h := range g.at {
		text, err := os.ReadFile(filepath.Join(h.dir, "cgroup.procs"))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("processes of cgroup %s: %w", g, err)
		}
		for word := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("processes of cgroup %s: %w", g, err)
			}
			list = append(list, pid)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// Remove removes the group. It waits until ctx ends for processes that are about to end, and kills none: see Kill.
// What is not there is no error, so Remove may be called again, and of a group that was made in part.
func (g *Group) Remove(ctx context.Context) error {
	all := make([]hierarchy, len(g.parent.at))
	for i, h := range g.parent.at {
		all[i] = h.below(g.name)
	}
	err := g.parent.root.remove(ctx, all)
	if err == nil {
		return nil
	}
	if alive, perr := g.Processes(); perr == nil && len(alive) > 0 {
		err = fmt.Errorf("%w (processes %v are in it)", err, alive)
	}
	return fmt.Errorf("remove cgroup %s: %w", g, err)
}

// undo removes what make made; nothing is in it yet.
func (g *Group) undo() error {
	var err error
	for _, h := range g.at {
		err = errors.Join(err, g.parent.root.kernel.rmdir(h.dir))
	}
	return err
}

func (g *Group) set(s setting) error {
	for _, h := range g.at {
		if !h.has(s.controller) || (s.ifPresent && !exists(h.dir, s.file)) {
			continue
		}
		if err := g.parent.root.kernel.write(filepath.Join(h.dir, s.file), s.value); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("this kernel's controller %s has no %s: %w", s.controller, s.file, err)
			}
			return fmt.Errorf("write %q: %w", s.value, err)
		}
	}
	return nil
}

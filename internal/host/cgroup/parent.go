package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Parent is the subtree that one metald has for its VMs. Its methods may be called from several goroutines.
type Parent struct {
	root *Root
	name string
	at   []hierarchy
	// lacks says, of v2's controllers that groups below can not have, why.
	lacks map[string]error
}

// Open returns the subtree of a relative name such as "metald/1a2b3c4d", and makes what of it is not there. On v2 it
// enables the controllers for its groups, from the top down. One that can not be enabled is no error before a limit
// needs it.
func (r *Root) Open(parent string) (*Parent, error) {
	for name := range strings.SplitSeq(parent, "/") {
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("open cgroup %q: %w", parent, err)
		}
	}
	p := &Parent{root: r, name: parent, lacks: map[string]error{}}
	for _, h := range r.hierarchies {
		if err := p.open(h); err != nil {
			return nil, fmt.Errorf("open cgroup %s: %w", parent, err)
		}
	}
	return p, nil
}

// open goes down one hierarchy.
func (p *Parent) open(h hierarchy) error {
	for name := range strings.SplitSeq(p.name, "/") {
		if p.root.version == 2 {
			p.enable(h.dir)
		}
		h = h.below(name)
		if err := p.root.kernel.mkdir(h.dir); err != nil && !isDir(h.dir) {
			return err
		}
	}
	if p.root.version == 2 {
		p.enable(h.dir)
		h.controllers = among(readWords(h.dir, "cgroup.subtree_control"), cpuCtrl, memoryCtrl, ioCtrl, pidsCtrl)
	}
	p.at = append(p.at, h)
	return nil
}

// enable lets the groups in dir have the controllers that dir has. Each is asked for by itself: a write of several
// does all or nothing.
func (p *Parent) enable(dir string) {
	available, enabled := readWords(dir, "cgroup.controllers"), readWords(dir, "cgroup.subtree_control")
	for _, c := range []string{cpuCtrl, memoryCtrl, ioCtrl, pidsCtrl} {
		if slices.Contains(enabled, c) || p.lacks[c] != nil {
			continue
		}
		if !slices.Contains(available, c) {
			p.lacks[c] = fmt.Errorf("%s has no such controller", dir)
			continue
		}
		if err := p.root.kernel.write(dir+"/cgroup.subtree_control", "+"+c); err != nil {
			p.lacks[c] = fmt.Errorf("it could not be enabled (a group with processes of its own can not pass it on): %w", err)
		}
	}
}

// Make makes a group and sets its limits, all or nothing. A name that is taken is refused with fs.ErrExist, whoever
// has it.
func (p *Parent) Make(name string, limits Limits) (*Group, error) {
	g, err := p.make(name, limits)
	if err != nil {
		return nil, fmt.Errorf("make cgroup %s/%s: %w", p.name, name, err)
	}
	return g, nil
}

func (p *Parent) make(name string, limits Limits) (*Group, error) {
	if err := errors.Join(checkName(name), limits.check()); err != nil {
		return nil, err
	}
	settings := limits.settings(p.root.version)
	at, err := p.needed(settings)
	if err != nil {
		return nil, err
	}
	g := &Group{parent: p, name: name}
	for _, h := range at {
		h = h.below(name)
		if err := p.root.kernel.mkdir(h.dir); err != nil {
			return nil, errors.Join(err, g.undo())
		}
		g.at = append(g.at, h)
	}
	for _, s := range settings {
		if err := g.set(s); err != nil {
			return nil, errors.Join(err, g.undo())
		}
	}
	return g, nil
}

// needed are the hierarchies in which a group is made: those of its limits, those that count its usage, and that of
// pids, with which Kill ends forking. On v2 there is one.
func (p *Parent) needed(settings []setting) ([]hierarchy, error) {
	use := map[string]bool{cpuacctCtrl: true, memoryCtrl: true, pidsCtrl: true}
	for _, s := range settings {
		use[s.controller] = true
		if !slices.ContainsFunc(p.at, func(h hierarchy) bool { return h.has(s.controller) }) {
			return nil, p.missing(s)
		}
	}
	if p.root.version == 2 {
		return p.at, nil
	}
	return slices.DeleteFunc(slices.Clone(p.at), func(h hierarchy) bool {
		return !slices.ContainsFunc(h.controllers, func(c string) bool { return use[c] })
	}), nil
}

func (p *Parent) missing(s setting) error {
	why := p.lacks[s.controller]
	if why == nil {
		why = fmt.Errorf("no hierarchy of v%d has it mounted", p.root.version)
	}
	return fmt.Errorf("%s needs the controller %s: %w; enable it or ask for no such limit", s.file, s.controller, why)
}

// Group returns the group of that name as it is, to go on with after a restart or to remove it. One that is in some
// hierarchies only, as a Make or Remove that was cut short leaves it, is returned too; one that is in none is
// fs.ErrNotExist.
func (p *Parent) Group(name string) (*Group, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("cgroup %s/%s: %w", p.name, name, err)
	}
	g := &Group{parent: p, name: name}
	for _, h := range p.at {
		if h = h.below(name); isDir(h.dir) {
			g.at = append(g.at, h)
		}
	}
	if len(g.at) == 0 {
		return nil, fmt.Errorf("cgroup %s/%s: %w", p.name, name, fs.ErrNotExist)
	}
	return g, nil
}

// List returns the names of all groups that are in any of the hierarchies, sorted. Names that Make would refuse are
// not metald's and are left out.
func (p *Parent) List() ([]string, error) {
	var names []string
	for _, h := range p.at {
		entries, err := os.ReadDir(h.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list cgroup %s: %w", p.name, err)
		}
		for _, e := range entries {
			if e.IsDir() && checkName(e.Name()) == nil {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Remove removes the subtree, which must have no groups any more. What its name goes through is left: others may
// have theirs there. A subtree that is not there is no error.
func (p *Parent) Remove(ctx context.Context) error {
	names, err := p.List()
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("it has %d groups, such as %s", len(names), names[0])
	}
	if err == nil {
		err = p.root.remove(ctx, p.at)
	}
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", p.name, err)
	}
	return nil
}

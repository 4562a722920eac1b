package jailer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// cgroups are what is to be written, and where (src/jailer/src/cgroup.rs).
type cgroups struct {
	version uint64
	parent  string
	list    []*cgroup
	mounts  []mount
}

type mount struct{ dir, options string }

// cgroup is the jail's, in one hierarchy.
type cgroup struct {
	controller string
	dir        string
	depth      int // of the parent
	settings   []setting
}

type setting struct{ file, value string }

func (e *env) parseCgroups(a *rust.Args) error {
	parent := a.Get("parent-cgroup")
	if !a.Has("parent-cgroup") {
		parent = filepath.Base(e.exec)
	}
	if climbs(parent) {
		return refuse("CgroupInvalidParentPath", "", "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'")
	}
	given := a.Get("cgroup-version")
	version, err := strconv.ParseUint(strings.TrimPrefix(given, "+"), 10, 8)
	if err != nil {
		return invalidVersion(given)
	}
	c := &cgroups{version: version, parent: parent}
	args := a.All("cgroup")
	switch {
	case len(args) == 0 && version == 2:
		return c.join()
	case len(args) == 0:
		return nil
	}
	if err := c.find(); err != nil {
		return err
	}
	for _, arg := range args {
		if err := c.add(e.id, arg); err != nil {
			return err
		}
	}
	e.cgroups = c
	return nil
}

func invalidVersion(given string) error {
	return refuse("CgroupInvalidVersion", strconv.Quote(given), "%s is an invalid cgroup version specifier", given)
}

// find finds the hierarchies of the version: the first of v2, all of v1.
func (c *cgroups) find() error {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return systems("FileOpen", "/proc/mounts", err, "Failed to open file %s: %s")
	}
	kind := map[uint64]string{1: "cgroup", 2: "cgroup2"}[c.version]
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Split(line, " ")
		if len(words) == 6 && words[2] == kind && (c.version == 1 || len(c.mounts) == 0) {
			c.mounts = append(c.mounts, mount{words[1], words[3]})
		}
	}
	if len(c.mounts) == 0 {
		const none = "No hierarchy found for this cgroup version."
		return refuse("CgroupHierarchyMissing", strconv.Quote(none), "Hierarchy not found: %s", none)
	}
	return nil
}

// join moves the process into the parent cgroup, if that is there.
func (c *cgroups) join() error {
	if err := c.find(); err != nil {
		return err
	}
	dir := filepath.Join(c.mounts[0].dir, c.parent)
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
	if err != nil {
		return refuse("CgroupMove", strconv.Quote(dir)+", "+rust.DebugIOError(err),
			"Failed to move process to cgroup (%[1]s): %[2]s.\nHint: If you intended to create a child cgroup under %[1]s, pass any --cgroup parameters.",
			dir, rust.IOError(err))
	}
	return nil
}

func (c *cgroups) add(id, arg string) error {
	parts := strings.Split(arg, "=")
	if len(parts) != 2 || parts[1] == "" {
		return refuse("CgroupFormat", strconv.Quote(arg), "Invalid format for cgroups: %s", arg)
	}
	file := parts[0]
	if climbs(file) {
		return invalidFile(arg)
	}
	controller, _, ok := strings.Cut(file, ".")
	if !ok {
		return invalidFile(file)
	}
	dir, err := c.hierarchy(controller)
	if err != nil {
		return err
	}
	name := controller
	if c.version == 2 {
		name = "unified"
	}
	i := slices.IndexFunc(c.list, func(g *cgroup) bool { return g.controller == name })
	if i < 0 {
		i = len(c.list)
		c.list = append(c.list, &cgroup{
			controller: name, dir: filepath.Join(dir, c.parent, id), depth: depth(c.parent),
		})
	}
	c.list[i].settings = append(c.list[i].settings, setting{file, parts[1]})
	return nil
}

func depth(parent string) int {
	return len(strings.FieldsFunc(parent, func(r rune) bool { return r == '/' }))
}

func invalidFile(name string) error {
	return refuse("CgroupInvalidFile", strconv.Quote(name), "Cgroup invalid file: %s", name)
}

// hierarchy is where a controller is.
func (c *cgroups) hierarchy(controller string) (string, error) {
	if c.version == 2 {
		have, _ := os.ReadFile(filepath.Join(c.mounts[0].dir, "cgroup.controllers"))
		if slices.Contains(strings.Split(strings.TrimSuffix(string(have), "\n"), " "), controller) {
			return c.mounts[0].dir, nil
		}
	} else {
		for _, m := range c.mounts {
			if slices.Contains(strings.Split(m.options, ","), controller) {
				return m.dir, nil
			}
		}
	}
	return "", refuse("CgroupControllerUnavailable", strconv.Quote(controller), "Controller %s is unavailable", controller)
}

// setup makes the cgroups, writes the values, and then moves the process.
func (c *cgroups) setup() error {
	for _, g := range c.list {
		if err := g.write(c.version); err != nil {
			return err
		}
	}
	for _, g := range c.list {
		file, who := "cgroup.procs", os.Getpid()
		if c.version == 1 {
			file, who = "tasks", unix.Gettid() // the thread that survives the exec
		}
		if err := writeln(filepath.Join(g.dir, file), strconv.Itoa(who)); err != nil {
			return err
		}
	}
	return nil
}

func (g *cgroup) write(version uint64) error {
	if err := mkdirAll(g.dir); err != nil {
		return err
	}
	enabled := map[string]bool{}
	for _, s := range g.settings {
		if version == 1 {
			if err := inherit(g.dir, s.file, g.depth); err != nil {
				return err
			}
		} else if controller, _, _ := strings.Cut(s.file, "."); !enabled[controller] {
			enabled[controller] = true
			if err := enable(filepath.Dir(g.dir), controller); err != nil {
				return err
			}
		}
		if err := writeln(filepath.Join(g.dir, s.file), s.value); err != nil {
			return err
		}
	}
	return nil
}

// inherit fills a file of a cgroup from its parent's, and that from its own parent's if it is empty.
func inherit(dir, file string, depth int) error {
	parent := filepath.Join(filepath.Dir(dir), file)
	line, err := readln(parent)
	if err != nil {
		return err
	}
	if line == "" && depth > 0 {
		_ = inherit(filepath.Dir(dir), file, depth-1)
		if line, err = readln(parent); err != nil {
			return err
		}
	}
	if line == "" {
		return refuse("CgroupInheritFromParent", strconv.Quote(dir)+", "+strconv.Quote(file),
			"Failed to inherit cgroups configurations from file %s in path %s", file, dir)
	}
	return writeln(filepath.Join(dir, file), line)
}

// enable turns a controller on for the children of each cgroup down to dir.
func enable(dir, controller string) error {
	control := filepath.Join(dir, "cgroup.subtree_control")
	if _, err := os.Stat(control); err != nil {
		return nil
	}
	if err := enable(filepath.Dir(dir), controller); err != nil {
		return err
	}
	return writeln(control, "+"+controller)
}

func readln(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", systems("ReadToString", path, err, "Failed to read file %s into a string: %s")
	}
	return strings.TrimSuffix(string(text), "\n"), nil
}

func writeln(path, value string) error {
	if err := os.WriteFile(path, []byte(value+"\n"), 0o666); err != nil {
		return systems("Write", path, err, "Failed to write to %s: %s")
	}
	return nil
}

func mkdirAll(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return systems("CreateDir", dir, err, "Failed to create directory %s: %s")
	}
	return nil
}

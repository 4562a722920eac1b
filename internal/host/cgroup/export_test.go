package cgroup

// FindIn finds in the text of mountinfo, with the mount points below base.
func FindIn(mountinfo, base string) (*Root, error) { return find(mountinfo, base, cgroupfs{}) }

// FindFake is FindIn for a tree that is not the kernel's.
func FindFake(mountinfo, base string, k *FakeV2) (*Root, error) { return find(mountinfo, base, k) }

// V2At takes a v2 mount that Find would pass over for having no controllers.
func V2At(dir string) *Root {
	return &Root{version: 2, hierarchies: []hierarchy{{dir: dir}}, kernel: cgroupfs{}}
}

// Dir is the group's directory of a controller, "" where it has none.
func (g *Group) Dir(controller string) string {
	for _, h := range g.at {
		if h.has(controller) {
			return h.dir
		}
	}
	return ""
}

// Dirs are the directories of the subtree.
func (p *Parent) Dirs() []string {
	var dirs []string
	for _, h := range p.at {
		dirs = append(dirs, h.dir)
	}
	return dirs
}

// DiskIn is DeviceOf's way from a partition to its disk, in a sysfs of the test's.
var DiskIn = disk

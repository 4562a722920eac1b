package cgroup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

const (
	v1Split = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
`
	v1Joined = `32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 master:3 - cgroup cgroup rw,memory
`
	v1NoMemory = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
	unified    = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	v2         = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	v2ReadOnly = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	v2Blank    = `30 23 0:26 / /my\040cgroups\134 rw - cgroup2 cgroup2 rw` + "\n"
)

func TestFind(t *testing.T) {
	// Which controllers each mount point of v2 has; those of v1 have what mountinfo says.
	all := "cpuset cpu io memory hugetlb pids"
	for _, tc := range []struct {
		name, mountinfo string
		controllers     map[string]string
		hidden          string // a mount point that another mount covers
		version         int
		err             []string // what the error speaks of
	}{
		{name: "v2", mountinfo: v2, controllers: map[string]string{"/sys/fs/cgroup": all}, version: 2},
		{name: "v2 without io and pids", mountinfo: v2, controllers: map[string]string{"/sys/fs/cgroup": "cpu memory"}, version: 2},
		{name: "v2 at a path with a blank", mountinfo: v2Blank, controllers: map[string]string{`/my cgroups\`: all}, version: 2},
		{name: "v1", mountinfo: v1Split, version: 1},
		{name: "v1 with controllers together", mountinfo: v1Joined, version: 1},
		{name: "v1 with an empty v2", mountinfo: v1Split + unified, controllers: map[string]string{"/sys/fs/cgroup/unified": ""}, version: 1},
		{name: "v1 with a v2 for what v1 left", mountinfo: unified + v1Split, controllers: map[string]string{"/sys/fs/cgroup/unified": "hugetlb pids"}, version: 1},
		{name: "v1 seen a second time", mountinfo: v1Split + strings.ReplaceAll(v1Split, "/sys/", "/host/sys/"), version: 1},
		{name: "nothing", mountinfo: "22 1 254:0 / / rw - ext4 /dev/vda rw\n", err: []string{"v1 is not mounted", "v2 is not mounted", "mount cgroup2"}},
		{name: "torn lines", mountinfo: "30 23\n - \n - cgroup2\n30 23 0:26 / /x rw - cgroup2\n", err: []string{"not mounted"}},
		{name: "v1 without memory", mountinfo: v1NoMemory, err: []string{"v1 has no controller memory", "cgroup_enable=memory"}},
		{name: "v2 without memory", mountinfo: v2, controllers: map[string]string{"/sys/fs/cgroup": "cpu io pids"}, err: []string{"v2 has no controller memory"}},
		{name: "half in v1, half in v2", mountinfo: v1NoMemory + unified, controllers: map[string]string{"/sys/fs/cgroup/unified": "memory"},
			err: []string{"v1 has no controller memory", "v2 has no controller cpu"}},
		{name: "read-only", mountinfo: v2ReadOnly, controllers: map[string]string{"/sys/fs/cgroup": all}, err: []string{"/sys/fs/cgroup is mounted read-only"}},
		{name: "hidden", mountinfo: v1Split, hidden: "/sys/fs/cgroup/memory", err: []string{"no controller memory"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := t.TempDir()
			for line := range strings.Lines(tc.mountinfo) {
				if words := strings.Fields(line); len(words) > 4 && words[4] != tc.hidden && strings.Contains(line, " cgroup ") {
					write(t, filepath.Join(base, words[4], "cgroup.procs"), "")
				}
			}
			for point, controllers := range tc.controllers {
				write(t, filepath.Join(base, point, "cgroup.procs"), "")
				write(t, filepath.Join(base, point, "cgroup.controllers"), controllers+"\n")
			}
			root, err := cgroup.FindIn(tc.mountinfo, base)
			if len(tc.err) == 0 {
				if err != nil || root.Version() != tc.version {
					t.Fatalf("%v, %v; want v%d", root, err, tc.version)
				}
				return
			}
			if err == nil {
				t.Fatalf("found v%d, want an error", root.Version())
			}
			for _, want := range tc.err {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// What the host says of itself without mountinfo agrees with what was found.
func TestFindOnThisHost(t *testing.T) {
	root, err := cgroup.Find()
	if err != nil {
		t.Skip(err)
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	v1 := strings.Contains(string(text), ":memory:") || strings.Contains(string(text), ",memory")
	if v1 != (root.Version() == 1) {
		t.Errorf("found v%d, but this process is in\n%s", root.Version(), text)
	}
}

package jailer

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func plain() Spec {
	return Spec{
		ID: "web-1", ExecFile: "/usr/bin/firecracker", UID: 60001, GID: 60002, ChrootBase: "/srv/jailer", CgroupVersion: 2,
	}
}

func everything() Spec {
	s := plain()
	s.CgroupVersion, s.ParentCgroup = 1, "metald/vms"
	s.MaxOpenFiles = 4096
	s.Args = []string{"--api-sock", "/run/firecracker.socket", "--level", "Warn"}
	return s
}

func TestArgumentsAreTheGoldenOnes(t *testing.T) {
	for name, s := range map[string]Spec{"plain": plain(), "everything": everything()} {
		argv, err := s.Argv()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := strings.Join(argv, "\n") + "\n"
		golden := filepath.Join("testdata", name+".argv")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestRefusalsSayWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Spec)
		says   string
	}{
		"root":                  {func(s *Spec) { s.UID = 0 }, "never runs as root"},
		"root's group":          {func(s *Spec) { s.GID = 0 }, "never runs as root"},
		"no uid":                {func(s *Spec) { s.UID = 1<<32 - 1 }, "no id"},
		"no id":                 {func(s *Spec) { s.ID = "" }, "is empty"},
		"long id":               {func(s *Spec) { s.ID = strings.Repeat("x", 65) }, "has 65 bytes; the jailer takes 64"},
		"traversal":             {func(s *Spec) { s.ID = ".." }, `has '.' in it`},
		"deep traversal":        {func(s *Spec) { s.ID = "../../etc" }, `has '.' in it`},
		"slash":                 {func(s *Spec) { s.ID = "a/b" }, `has '/' in it`},
		"underscore":            {func(s *Spec) { s.ID = "a_b" }, `has '_' in it`},
		"letter of Greek":       {func(s *Spec) { s.ID = "α" }, `has 'α' in it`},
		"option":                {func(s *Spec) { s.ID = "--daemonize" }, "read as an option"},
		"relative base":         {func(s *Spec) { s.ChrootBase = "jails" }, `chroot base: "jails" is not an absolute path`},
		"unclean base":          {func(s *Spec) { s.ChrootBase = "/srv/../etc" }, "that would be /etc"},
		"relative exec":         {func(s *Spec) { s.ExecFile = "firecracker" }, "executable:"},
		"no exec":               {func(s *Spec) { s.ExecFile = "" }, "executable: no path is given"},
		"exec is a directory":   {func(s *Spec) { s.ExecFile = "/" }, "/ is a directory"},
		"exec named as kernel":  {func(s *Spec) { s.ExecFile = "/opt/kernel" }, `"kernel" is one that metald`},
		"exec named as dev":     {func(s *Spec) { s.ExecFile = "/opt/dev" }, `"dev" is one that metald`},
		"exec's name is long":   {func(s *Spec) { s.ExecFile = "/" + strings.Repeat("x", 252) }, "longer than 255 bytes"},
		"no cgroup version":     {func(s *Spec) { s.CgroupVersion = 0 }, "there are 1 and 2"},
		"cgroup version 3":      {func(s *Spec) { s.CgroupVersion = 3 }, "cgroup version 3"},
		"absolute parent":       {func(s *Spec) { s.ParentCgroup = "/metald" }, "relative to the root of the hierarchy"},
		"parent above":          {func(s *Spec) { s.ParentCgroup = "a/../../b" }, `".." is not the name of a cgroup`},
		"parent with a hole":    {func(s *Spec) { s.ParentCgroup = "a//b" }, `"" is not the name`},
		"parent is an option":   {func(s *Spec) { s.ParentCgroup = "--node" }, "read as an option"},
		"id for the VMM":        {func(s *Spec) { s.Args = []string{"--id", "x"} }, "given by the jailer"},
		"more behind":           {func(s *Spec) { s.Args = []string{"--", "x"} }, "nothing behind it"},
		"zero byte in argument": {func(s *Spec) { s.Args = []string{"a\x00b"} }, "zero byte"},
		"zero byte in path":     {func(s *Spec) { s.ChrootBase = "/run/\x00" }, "zero byte"},
	} {
		s := plain()
		tt.change(&s)
		argv, err := s.Argv()
		if err == nil {
			t.Errorf("%s is accepted: %q", name, argv)
		} else if !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %q doesn't say %q", name, err, tt.says)
		}
	}
}

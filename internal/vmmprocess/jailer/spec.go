package jailer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Spec is one jail.
type Spec struct {
	// ID names the jail. A jail's files outlive it, and the jailer does not start in one that was used:
	// an id that was used is used again only when everything of it is gone.
	ID string

	// ExecFile is the VMM. The jailer copies it into the jail. No component of the path is a symbolic link: the jailer
	// follows them, and names the jail after the file that it comes to.
	ExecFile string

	// UID and GID are whom the VMM runs as. They are of this VM alone, and never 0.
	UID, GID uint32

	// ChrootBase is the directory that holds the jails. It exists, and has no symbolic links in its path.
	ChrootBase string

	// CgroupVersion is the host's, 1 or 2. The jailer would take 1 if it were not told.
	CgroupVersion int

	// ParentCgroup is the cgroup that the process is in already, relative to the root of the hierarchy. A jailer that is
	// given no limits makes no cgroup; on version 2 it moves itself into this one where it exists, which it would also do
	// with one of the name of ExecFile if it were not told.
	ParentCgroup string

	// MaxOpenFiles is how many files the VMM may have open (no-file); 0 for the jailer's default of 2048.
	MaxOpenFiles uint64

	// Args are for the VMM. The jailer adds --id and the start times.
	Args []string
}

// Argv returns the arguments of the jailer, without its own name. An error says what cannot be jailed, and why.
func (s Spec) Argv() ([]string, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("jail %q: %w", s.ID, err)
	}
	argv := []string{
		"--id", s.ID,
		"--exec-file", s.ExecFile,
		"--uid", strconv.FormatUint(uint64(s.UID), 10),
		"--gid", strconv.FormatUint(uint64(s.GID), 10),
		"--chroot-base-dir", s.ChrootBase,
		"--cgroup-version", strconv.Itoa(s.CgroupVersion),
	}
	if s.ParentCgroup != "" {
		argv = append(argv, "--parent-cgroup", s.ParentCgroup)
	}
	if s.MaxOpenFiles != 0 {
		argv = append(argv, "--resource-limit", "no-file="+strconv.FormatUint(s.MaxOpenFiles, 10))
	}
	if len(s.Args) > 0 {
		argv = append(append(argv, "--"), s.Args...)
	}
	return argv, nil
}

func (s Spec) check() error {
	if err := checkPlace(s.ChrootBase, s.ExecFile, s.ID); err != nil {
		return err
	}
	if s.UID == 0 || s.GID == 0 {
		return fmt.Errorf("uid %d and gid %d: a jailed VMM never runs as root; give it ids of its own", s.UID, s.GID)
	}
	if s.UID == ^uint32(0) || s.GID == ^uint32(0) {
		return errors.New("uid or gid 4294967295: to the kernel it means no id")
	}
	if err := s.checkCgroup(); err != nil {
		return err
	}
	return checkArgs(s.Args)
}

func checkArgs(args []string) error {
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		switch name {
		case "--id", "--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us":
			return fmt.Errorf("argument %s of the VMM is given by the jailer", name)
		case "--":
			return errors.New("argument -- of the VMM: Firecracker takes nothing behind it")
		}
		if strings.IndexByte(arg, 0) >= 0 {
			return fmt.Errorf("argument %q of the VMM has a zero byte", arg)
		}
	}
	return nil
}

package jailer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// run makes the jail and becomes the executable. It returns only if it could not, or if a child became it.
func (e *env) run(stdout io.Writer) error {
	if err := mkdirAll(e.root); err != nil {
		return err
	}
	name := filepath.Base(e.exec)
	if err := e.copyExec(e.exec, filepath.Join(e.root, name)); err != nil {
		return err
	}
	if err := e.copyKnobs(name); err != nil {
		return err
	}
	if e.netns != "" {
		if err := joinNetNS(e.netns); err != nil {
			return err
		}
	}
	if err := e.limits.install(); err != nil {
		return err
	}
	if e.cgroups != nil {
		if err := e.cgroups.setup(); err != nil {
			return err
		}
	}
	if err := chroot(e.root); err != nil {
		return err
	}
	if err := e.furnish(stdout); err != nil {
		return err
	}
	spent := clock(unix.CLOCK_PROCESS_CPUTIME_ID) - e.startCPU
	if e.newPIDNS {
		pid, err := e.begin("/"+name, spent)
		if err != nil {
			return step("Exec", "Failed to exec into Firecracker: %s", err)
		}
		return writePID("/"+name+".pid", pid)
	}
	if err := writePID("/"+name+".pid", os.Getpid()); err != nil {
		return err
	}
	return e.become("/"+name, spent)
}

// copyExec copies the executable into the jail and makes it the VM's user's. A link in its place is refused.
func (e *env) copyExec(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return systems("Open", from, err, "Failed to open %s: %s")
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return systems("Metadata", from, err, "Cannot get metadata for a file: %s: %s")
	}
	fd, err := unix.Open(to, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(info.Mode().Perm()))
	if err != nil {
		return systems("Open", to, err, "Failed to open %s: %s")
	}
	dst := os.NewFile(uintptr(fd), to)
	defer dst.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return systems("Metadata", to, err, "Cannot get metadata for a file: %s: %s")
	}
	if st.Nlink > 1 {
		return refuse("HardLink", strconv.Quote(to), "Detected hard link at: %s", to)
	}
	if err := unix.Fchown(fd, e.uid, e.gid); err != nil {
		return systems("ChangeFileOwner", to, err, "Failed to change owner for %s: %s")
	}
	if _, err := io.Copy(dst, src); err != nil {
		return refuse("Copy", strconv.Quote(from), "Failed to copy %s to %s: %s", from, to, rust.IOError(err))
	}
	return nil
}

// copyKnobs is the stand-in's own.
func (e *env) copyKnobs(name string) error {
	const suffix = ".knobs"
	_, err := os.Stat(e.exec + suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return e.copyExec(e.exec+suffix, filepath.Join(e.root, name+suffix))
}

func joinNetNS(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return systems("FileOpen", path, err, "Failed to open file %s: %s")
	}
	defer unix.Close(fd)
	return step("SetNetNs", "Failed to join network namespace: netns: %s", unix.Setns(fd, unix.CLONE_NEWNET))
}

// step is a refusal that comes from an error of the system's, if there is one.
func step(name, format string, err error) error {
	if err == nil {
		return nil
	}
	return refuse(name, rust.DebugIOError(err), format, rust.IOError(err))
}

func (l limits) install() error {
	for _, limit := range []struct {
		resource int
		to       *uint64
		name     string
	}{
		{unix.RLIMIT_FSIZE, l.fsize, "size of file"}, {unix.RLIMIT_NOFILE, &l.noFile, "number of file descriptors"},
	} {
		if limit.to == nil {
			continue
		}
		// By this way Go's runtime knows, and doesn't put its own limit back when it executes.
		if err := syscall.Setrlimit(limit.resource, &syscall.Rlimit{Cur: *limit.to, Max: *limit.to}); err != nil {
			return refuse("Setrlimit", strconv.Quote(limit.name), "Failed to set limit for resource: %s", limit.name)
		}
	}
	return nil
}

// chroot makes dir the root of a mount namespace in which nothing else is (src/jailer/src/chroot.rs).
func chroot(dir string) error {
	const old = "old_root"
	for _, s := range []struct {
		name, format string
		do           func() error
	}{
		{"UnshareNewNs", "Failed to unshare into new mount namespace: %s", func() error { return unix.Unshare(unix.CLONE_NEWNS) }},
		{"MountPropagationSlave", "Failed to change the propagation type to slave: %s",
			func() error { return unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "") }},
		{"MountBind", "Failed to bind mount the jail root directory: %s",
			func() error { return unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, "") }},
		{"SetCurrentDir", "Failed to change current directory: %s", func() error { return unix.Chdir(dir) }},
		{"MkdirOldRoot", "Failed to create the jail root directory before pivoting root: %s", func() error { return unix.Mkdir(old, 0o600) }},
		{"PivotRoot", "Failed to pivot root: %s", func() error { return unix.PivotRoot(".", old) }},
		{"ChdirNewRoot", "Failed to chdir into chroot directory: %s", func() error { return unix.Chdir("/") }},
		{"UmountOldRoot", "Failed to unmount the old jail root: %s", func() error { return unix.Unmount(old, unix.MNT_DETACH) }},
		{"RmOldRootDir", "Failed to remove old jail root directory: %s", func() error { return unix.Rmdir(old) }},
	} {
		if err := step(s.name, s.format, s.do()); err != nil {
			return err
		}
	}
	return nil
}

// furnish makes the directories and the devices.
func (e *env) furnish(stdout io.Writer) error {
	for _, dir := range []string{"/", "/dev", "/dev/net", "/run"} {
		if err := e.folder(dir); err != nil {
			return err
		}
	}
	if err := e.device("/dev/net/tun", 10, 200); err != nil {
		return err
	}
	if err := e.device("/dev/kvm", 10, 232); err != nil {
		return err
	}
	if err := e.device("/dev/urandom", 1, 9); err != nil {
		fmt.Fprintf(stdout, "Warning! Could not create /dev/urandom device inside jailer: %v.\n", err)
		fmt.Fprintln(stdout, "MMDS version 2 will not be available to use.")
	}
	if e.uffd >= 0 {
		return e.device("/dev/userfaultfd", 10, uint32(e.uffd))
	}
	return nil
}

func (e *env) folder(dir string) error {
	if err := mkdirAll(dir); err != nil {
		return err
	}
	if err := unix.Chmod(dir, 0o700); err != nil {
		return systems("Chmod", dir, err, "Failed to change permissions on %s: %s")
	}
	if err := unix.Chown(dir, e.uid, e.gid); err != nil {
		return systems("ChangeFileOwner", dir, err, "Failed to change owner for %s: %s")
	}
	return nil
}

func (e *env) device(path string, major, minor uint32) error {
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return refuse("MknodDev", rust.DebugIOError(err)+", "+strconv.Quote(path),
			"Failed to create %s via mknod inside the jail: %s", path, rust.IOError(err))
	}
	if err := unix.Chown(path, e.uid, e.gid); err != nil {
		return systems("ChangeFileOwner", path, err, "Failed to change owner for %s: %s")
	}
	return nil
}

// writePID writes the file that must not be there yet.
func writePID(path string, pid int) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return systems("FileOpen", path, err, "Failed to open file %s: %s")
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, strconv.AppendInt(nil, int64(pid), 10)); err != nil {
		return systems("Write", path, err, "Failed to write to %s: %s")
	}
	return nil
}

// argv is the executable's.
func (e *env) argv(path string, spent int64) []string {
	return append([]string{
		path, "--id", e.id,
		"--start-time-us", strconv.FormatInt(e.start, 10),
		"--start-time-cpu-us", strconv.FormatInt(clock(unix.CLOCK_PROCESS_CPUTIME_ID), 10),
		"--parent-cpu-time-us", strconv.FormatInt(spent, 10),
	}, e.extra...)
}

// become gives the rights up and executes. Only this thread's are given up, since no other survives.
func (e *env) become(path string, spent int64) error {
	argv := e.argv(path, spent)
	for _, call := range [][2]uintptr{{unix.SYS_SETGROUPS, 0}, {unix.SYS_SETGID, uintptr(e.gid)}, {unix.SYS_SETUID, uintptr(e.uid)}} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], 0, 0); errno != 0 {
			return step("Exec", "Failed to exec into Firecracker: %s", errno)
		}
	}
	return step("Exec", "Failed to exec into Firecracker: %s", syscall.Exec(path, argv, nil))
}

// begin executes in a child, the first process of a namespace. It has a session of its own if this process leads one,
// so that the end of this one is no hang-up.
func (e *env) begin(path string, spent int64) (pid int, err error) {
	session, err := unix.Getsid(0)
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(path, e.argv(path, spent), &syscall.ProcAttr{
		Files: []uintptr{0, 1, 2}, Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWPID, Setsid: session == os.Getpid(),
			Credential: &syscall.Credential{Uid: uint32(e.uid), Gid: uint32(e.gid)},
		},
	})
}

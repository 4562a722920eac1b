package vmmprocess

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// identity refuses what could only fail after the gate was opened, and returns which files are to be executed.
func (c Command) identity() (types.ProcessIdentity, error) {
	exe, err := c.check()
	if err != nil || c.Becomes == nil {
		return types.ProcessIdentity{ExeDevice: exe.Device, ExeInode: exe.Inode}, err
	}
	return types.ProcessIdentity{
		ExeDevice: c.Becomes.Device, ExeInode: c.Becomes.Inode,
		ViaDevice: exe.Device, ViaInode: exe.Inode,
	}, nil
}

func (c Command) check() (Executable, error) {
	if !filepath.IsAbs(c.Path) {
		return Executable{}, fmt.Errorf("%q is not an absolute path", c.Path)
	}
	for _, kv := range c.Env {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "PWD", "OLDPWD", "SHLVL":
			return Executable{}, fmt.Errorf("environment variable %s cannot be given to a VMM", name)
		}
	}
	for i, f := range c.Files {
		if f == nil || f.Fd() == ^uintptr(0) {
			return Executable{}, fmt.Errorf("file %d to pass is nil or closed", FirstFile+i)
		}
	}
	for _, file := range c.Joins {
		if !filepath.IsAbs(file) {
			return Executable{}, fmt.Errorf("%q is not the absolute path of a cgroup's tasks", file)
		}
	}
	if info, err := os.Stat(c.dir()); err != nil {
		return Executable{}, fmt.Errorf("working directory: %w", err)
	} else if !info.IsDir() {
		return Executable{}, fmt.Errorf("working directory %s is not a directory", c.dir())
	}
	if err := checkELF(c.Path); err != nil {
		return Executable{}, err
	}
	return statExecutable(c.Path)
}

// checkELF tells in words why a file cannot be a VMM. Without it a shell would run any other file as a script,
// and a script's process would never match its identity.
func checkELF(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	case info.Mode()&0o111 == 0:
		return errors.New("not executable: permission denied")
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrPermission) {
		return nil // may be executed and not read
	}
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "\x7fELF" {
		return errors.New("not an ELF executable; a script cannot be a VMM, because its process is its interpreter's")
	}
	return nil
}

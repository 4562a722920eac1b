package vmmprocess

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// check refuses what could only fail after the gate was opened, and returns which file is to be executed.
func (c Command) check() (executable, error) {
	if !filepath.IsAbs(c.Path) {
		return executable{}, fmt.Errorf("%q is not an absolute path", c.Path)
	}
	for _, kv := range c.Env {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "PWD", "OLDPWD", "SHLVL":
			return executable{}, fmt.Errorf("environment variable %s cannot be given to a VMM", name)
		}
	}
	for i, f := range c.Files {
		if f == nil || f.Fd() == ^uintptr(0) {
			return executable{}, fmt.Errorf("file %d to pass is nil or closed", FirstFile+i)
		}
	}
	if info, err := os.Stat(c.dir()); err != nil {
		return executable{}, fmt.Errorf("working directory: %w", err)
	} else if !info.IsDir() {
		return executable{}, fmt.Errorf("working directory %s is not a directory", c.dir())
	}
	if err := checkELF(c.Path); err != nil {
		return executable{}, err
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

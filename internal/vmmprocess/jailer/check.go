package jailer

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// maxID is the longest id in bytes that the jailer takes.
const maxID = 64

// maxName is the longest name of a file (NAME_MAX).
const maxName = 255

// checkPlace checks what a jail's path is made of.
func checkPlace(base, execFile, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if err := checkPath(base); err != nil {
		return fmt.Errorf("chroot base: %w", err)
	}
	if err := checkPath(execFile); err != nil {
		return fmt.Errorf("executable: %w", err)
	}
	switch name := filepath.Base(execFile); {
	case name == "/":
		return errors.New("executable: / is a directory")
	case len(name)+len(pidSuffix) > maxName:
		return fmt.Errorf("executable: with %s behind it the name %q is longer than %d bytes", pidSuffix, name, maxName)
	case taken(name), taken(name + pidSuffix):
		return fmt.Errorf("executable: its name %q is one that metald or the jailer uses in the jail", name)
	}
	return nil
}

// CheckID says what is wrong with the id of a jail. It is a directory's name, so it is narrower than the
// jailer's own rule, which takes letters of all alphabets.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("the id of a jail is empty")
	case len(id) > maxID:
		return fmt.Errorf("the id of a jail has %d bytes; the jailer takes 64", len(id))
	case id[0] == '-':
		return fmt.Errorf("the id %q begins with a hyphen, so that it could be read as an option", id)
	}
	for _, c := range id {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return fmt.Errorf("the id %q has %q in it; letters a to z, A to Z, digits and hyphens are what it may have", id, c)
		}
	}
	return nil
}

// checkPath takes absolute paths that say where they lead to.
func checkPath(path string) error {
	switch {
	case path == "":
		return errors.New("no path is given")
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q is not an absolute path", path)
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("%q has a zero byte in it", path)
	case filepath.Clean(path) != path:
		return fmt.Errorf("%q is not written plainly; that would be %s", path, filepath.Clean(path))
	}
	return nil
}

func (s Spec) checkCgroup() error {
	if s.CgroupVersion != 1 && s.CgroupVersion != 2 {
		return fmt.Errorf("cgroup version %d: there are 1 and 2, and it is said which one the host has", s.CgroupVersion)
	}
	if s.ParentCgroup != "" {
		if err := checkCgroupPath(s.ParentCgroup); err != nil {
			return fmt.Errorf("parent cgroup %w", err)
		}
	}
	return nil
}

// checkCgroupPath takes paths below the root of a hierarchy.
func checkCgroupPath(path string) error {
	if filepath.IsAbs(path) {
		return fmt.Errorf("%q: it is relative to the root of the hierarchy", path)
	}
	if path[0] == '-' {
		return fmt.Errorf("%q begins with a hyphen, so that it could be read as an option", path)
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
			return fmt.Errorf("%q: %q is not the name of a cgroup", path, name)
		}
	}
	return nil
}

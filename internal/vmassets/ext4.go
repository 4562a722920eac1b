package vmassets

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ext4Features are named one by one, so that the disk is the same whatever this machine's mke2fs has as defaults, and
// kernels from 4.9 on mount it.
const ext4Features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super," +
	"large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// makeExt4 makes a file system of rootDiskSize at path with what is in tree, all of it owned by root, whoever we are.
// Its journal is empty and its tables are written, so that an idle guest has no writing left to do.
func makeExt4(ctx context.Context, tree, path string) error {
	mke2fs, err := lookTool(toolMke2fs)
	if err != nil {
		return err
	}
	step := []string{
		mke2fs, "-q", "-F", "-t", "ext4", "-O", ext4Features, "-b", "4096", "-I", "256", "-N", "2048", "-m", "0",
		"-L", "metald-root", "-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0",
		"-d", tree, path, fmt.Sprintf("%dk", rootDiskSize>>10),
	}
	if err := runIn(ctx, ".", step); err != nil {
		return err
	}
	return finishExt4(ctx, tree, path)
}

// finishExt4 does with debugfs what mke2fs can't do for an ordinary user: owners, and the two device nodes that a kernel
// without CONFIG_DEVTMPFS_MOUNT needs to start a process.
func finishExt4(ctx context.Context, tree, path string) error {
	debugfs, err := lookTool(toolDebugfs)
	if err != nil {
		return err
	}
	var script strings.Builder
	script.WriteString("cd /dev\nmknod console c 5 1\nmknod null c 1 3\ncd /\n")
	err = filepath.WalkDir(tree, func(file string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(tree, file); err == nil && rel != "." {
			fmt.Fprintf(&script, "set_inode_field /%s uid 0\nset_inode_field /%s gid 0\n", rel, rel)
		}
		return err
	})
	if err != nil {
		return err
	}
	commands := filepath.Join(filepath.Dir(path), "debugfs.commands")
	if err := os.WriteFile(commands, []byte(script.String()), 0o644); err != nil {
		return err
	}
	return runDebugfs(ctx, debugfs, "-w", "-f", commands, path)
}

// runDebugfs finds errors in what debugfs says, because it exits 0 whatever happens. Its banner and the echo of the
// commands are not errors.
func runDebugfs(ctx context.Context, debugfs string, args ...string) error {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, debugfs, args...)
	cmd.Stderr = &said
	err := cmd.Run()
	_, complaint, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
	if err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, said.String())
	}
	if complaint != "" {
		return fmt.Errorf("debugfs: %s", complaint)
	}
	return nil
}

package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// More than there is room for goes round, so that a small disk takes any number of bytes.
func TestWriteGoesRound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "written")
	write(context.Background(), fileRoom+3*chunk+5, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != fileRoom {
		t.Errorf("file of %d bytes, want %d", info.Size(), fileRoom)
	}
}

func TestTouchLeavesDeviceAndDirectoryAsTheyWere(t *testing.T) {
	dir := t.TempDir()
	device := filepath.Join(dir, "vda")
	content := pattern()[:4096]
	if err := os.WriteFile(device, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := touchDevice(device); err != nil {
		t.Error(err)
	}
	if err := touchDirectory(dir); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(content) {
		t.Error("the device was changed")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("the directory holds %v", left)
	}
}

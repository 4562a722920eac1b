package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStateDirIsForOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "state")
	first, err := openStateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openStateDir(path)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another metald (pid %d)", os.Getpid())) {
		t.Errorf("the second got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openStateDir(path)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	again.Close()
}

func TestStateDirOthersCanWriteTo(t *testing.T) {
	path := t.TempDir()
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openStateDir(path); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("got %v", err)
	}
}

func TestStateDirThatIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStateDir(path); err == nil || !strings.Contains(err.Error(), "UNKEY_METALD_STATE_DIR") {
		t.Errorf("got %v", err)
	}
}

func TestStateDirLockIsNotFollowed(t *testing.T) {
	path, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(path, "lock")); err != nil {
		t.Fatal(err)
	}
	if d, err := openStateDir(path); err == nil {
		d.Close()
		t.Error("a symbolic link was taken for the lock")
	}
	if text, _ := os.ReadFile(victim); string(text) != "precious" {
		t.Errorf("the link's target now has %q", text)
	}
}

// TestTheLockOfADeadMetaldIsWaitedFor: a process that it was about to start may have it for a moment longer.
func TestTheLockOfADeadMetaldIsWaitedFor(t *testing.T) {
	path := t.TempDir()
	first, err := openStateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintln(dead.Process.Pid)
	if err := errors.Join(first.lock.Truncate(0), os.WriteFile(filepath.Join(path, "lock"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(50*time.Millisecond, func() { first.Close() })
	defer timer.Stop()
	second, err := openStateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

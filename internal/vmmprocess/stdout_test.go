package vmmprocess

import (
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What a VMM says on standard output waits where nobody reads, and is apart from standard error.
func TestStandardOutputOfItsOwn(t *testing.T) {
	s := newSupervisor(t)
	echo, err := exec.LookPath("dash")
	if err != nil {
		t.Skip("there is no dash on this machine to write to both")
	}
	if echo, err = filepath.EvalSymlinks(echo); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := Command{
		Path: echo, Args: []string{"-c", "echo out; echo err >&2; sleep 3600"},
		Stdout: filepath.Join(dir, "out"), Stderr: filepath.Join(dir, "err"),
	}
	for _, path := range []string{c.Stdout, c.Stderr} {
		if err := MakeStderr(path); err != nil {
			t.Fatal(err)
		}
	}
	p, err := s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	for path, want := range map[string]string{c.Stdout: "out\n", c.Stderr: "err\n"} {
		pipe, err := OpenStderr(path)
		if err != nil {
			t.Fatal(err)
		}
		defer pipe.Close()
		got := make([]byte, len(want))
		if err := pipe.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pipe, got); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
}

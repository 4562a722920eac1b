package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/powerloss"
)

const (
	url      = "http://127.0.0.1:8080"
	patience = 2 * time.Minute // for what takes a second on a host that is not emulated
)

// metald is one that runs.
type metald struct {
	cmd    *exec.Cmd
	exited chan error
	client vmprovisionerv1connect.VmServiceClient
	ready  time.Duration // how long it took to answer
}

// settings are metald's: real VMMs where the lab was given some, else QEMU.
func settings() []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "UNKEY_METALD_STATE_DIR=" + powerloss.State,
		"UNKEY_METALD_ASSETS_DIR=" + powerloss.Assets, "UNKEY_METALD_HOST_ID=lab",
	}
	if program := os.Getenv("METALD_TEST_FIRECRACKER"); program != "" {
		return append(env, "UNKEY_METALD_BACKEND=firecracker", "UNKEY_METALD_FIRECRACKER_BINARY="+program,
			"UNKEY_METALD_JAILER_BINARY="+os.Getenv("METALD_TEST_JAILER"))
	}
	return append(env, "UNKEY_METALD_BACKEND=qemu", "UNKEY_METALD_QEMU_ACCEL=kvm")
}

// start starts metald and waits until it answers.
func start(ctx context.Context) (*metald, error) {
	if err := os.MkdirAll(powerloss.State, 0o755); err != nil {
		return nil, err
	}
	if err := linkAssets(); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m := &metald{cmd: exec.Command(os.Getenv("METALD_TEST_METALD")), exited: make(chan error, 1)}
	m.cmd.Env, m.cmd.Stdout, m.cmd.Stderr = settings(), log, log
	began := time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { m.exited <- m.cmd.Wait() }()
	m.client = vmprovisionerv1connect.NewVmServiceClient(http.DefaultClient, url)
	if err := m.awaitReady(ctx); err != nil {
		return nil, fmt.Errorf("%w; metald said:\n%s", err, lastLines(logPath()))
	}
	m.ready = time.Since(began)
	return m, nil
}

func (m *metald) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	brief := http.Client{Timeout: 5 * time.Second}
	for {
		if resp, err := brief.Get(url + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-m.exited:
			return fmt.Errorf("metald ended before it answered: %w", err)
		case <-ctx.Done():
			return errors.New("metald does not answer")
		case <-tick.C:
		}
	}
}

// stop ends metald as a service manager does.
func (m *metald) stop() error {
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-m.exited:
		return err
	case <-time.After(patience):
		return errors.New("metald does not end")
	}
}

// linkAssets puts the guests' kernel and root disk where metald looks for them. A kernel called vmlinux would be booted
// once after each boot of the host, to see whether KVM works: that takes as long as a guest.
func linkAssets() error {
	if err := os.MkdirAll(powerloss.Assets, 0o755); err != nil {
		return err
	}
	for name, from := range map[string]string{"kernel": "vmlinux", "rootfs.ext4": "rootfs.ext4"} {
		err := os.Link(filepath.Join(os.Getenv("METALD_TEST_ASSETS"), from), filepath.Join(powerloss.Assets, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func logPath() string { return filepath.Join(powerloss.Disk, "metald.log") }

// lastLines are the last lines of a file.
func lastLines(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

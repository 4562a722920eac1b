package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

const (
	vmID        = "demo"
	guestPrefix = guest.Prefix
	stepLimit   = 60 * time.Second
	stillness   = 2 * time.Second // how long a paused guest is watched for signs of life
)

// play is one performance: the life of one VM.
type play struct {
	*stage
	out    io.Writer
	assets string
	began  time.Time
	screen *screen
	end    context.CancelFunc // of the console stream
	ended  chan struct{}      // closed when the console stream is over
	vmm    string             // pid of the VMM that was seen last; "" once it was seen gone
}

// info is what the demo looks at of GetVmInfo's answer.
type info struct {
	State       string            `json:"state"`
	BackendInfo map[string]string `json:"backendInfo"`
}

// step is one act, and the state that metald must report after it; "" means that the VM is gone.
type step struct {
	title string
	state string
	act   func(context.Context) error
}

func (p *play) perform(ctx context.Context) error {
	fmt.Fprintf(p.out, "metald listens on %s (pid %d)\n\n", p.client.base, p.process.Process.Pid)
	steps := []step{
		{"create a VM: 1 vCPU, 128 MiB, a kernel and a root disk", "VM_STATE_CREATED", p.create},
		{"boot it and watch its console until user space speaks", "VM_STATE_RUNNING", p.boot},
		{"pause it: its console falls silent", "VM_STATE_PAUSED", p.pause},
		{"resume it: it goes on counting", "VM_STATE_RUNNING", p.resume},
		{"reboot it: a new VMM, the same disk", "VM_STATE_RUNNING", p.reboot},
		{"shut it down: the guest powers itself off", "VM_STATE_SHUTDOWN", p.shutdown},
		{"delete it", "", p.remove},
	}
	for i, s := range steps {
		if err := p.play(ctx, i+1, s); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, s.title, err)
		}
	}
	fmt.Fprintf(p.out, "\nall of it was observed, in %.1f s\n", time.Since(p.began).Seconds())
	return nil
}

// play does one step, looks at the state afterwards, and says what it saw.
func (p *play) play(ctx context.Context, n int, s step) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	fmt.Fprintf(p.out, "%d. %s\n", n, s.title)
	start := time.Now()
	if err := s.act(ctx); err != nil {
		return err
	}
	took := time.Since(start)
	if s.state == "" {
		fmt.Fprintf(p.out, "   %6.2f s   gone\n", took.Seconds())
		return nil
	}
	seen, err := p.look(ctx)
	if err != nil {
		return err
	}
	if seen.State != s.state {
		return fmt.Errorf("GetVmInfo says %s, not %s", seen.State, s.state)
	}
	fmt.Fprintf(p.out, "   %6.2f s   %s%s\n", took.Seconds(), seen.State, details(seen.BackendInfo))
	return nil
}

func details(b map[string]string) string {
	if reason := b["exit_reason"]; reason != "" && b["pid"] == "" {
		return ", ended: " + reason
	}
	return fmt.Sprintf(", %s %s, pid %s, incarnation %s", b["vmm"], b["vmm_version"], b["pid"], b["incarnation"])
}

func (p *play) look(ctx context.Context) (info, error) {
	var seen info
	err := p.client.call(ctx, "GetVmInfo", map[string]string{"vm_id": vmID}, &seen)
	if err == nil {
		p.vmm = seen.BackendInfo["pid"]
	}
	return seen, err
}

// verb calls an RPC that takes no more than the id.
func (p *play) verb(ctx context.Context, rpc string) error {
	var answer struct{}
	return p.client.call(ctx, rpc, map[string]string{"vm_id": vmID}, &answer)
}

func (p *play) create(ctx context.Context) error {
	request := map[string]any{
		"vm_id": vmID,
		"config": map[string]any{
			"cpu":    map[string]any{"vcpu_count": 1},
			"memory": map[string]any{"size_bytes": 128 << 20},
			"boot": map[string]any{
				"kernel_path": filepath.Join(p.assets, "vmlinux"),
				"kernel_args": "console=ttyS0 reboot=k panic=1 pci=off " + guest.ArgCount + "=true",
			},
			"storage": []any{map[string]any{"path": filepath.Join(p.assets, "rootfs.ext4"), "readonly": false}},
		},
	}
	var answer struct{}
	if err := p.client.call(ctx, "CreateVm", request, &answer); err != nil {
		return err
	}
	p.watch()
	return nil
}

// watch follows the console, of all incarnations, until the VM is deleted.
func (p *play) watch() {
	ctx, end := context.WithCancel(context.Background())
	p.screen, p.end, p.ended = newScreen(p.out), end, make(chan struct{})
	go func() {
		defer close(p.ended)
		p.screen.watch(ctx, p.client, vmID)
	}()
}

func (p *play) boot(ctx context.Context) error {
	if err := p.verb(ctx, "BootVm"); err != nil {
		return err
	}
	if err := p.screen.await(ctx, 0, guest.Marker); err != nil {
		return err
	}
	return p.screen.await(ctx, 0, guest.Second(1))
}

func (p *play) pause(ctx context.Context) error {
	if err := p.verb(ctx, "PauseVm"); err != nil {
		return err
	}
	// What the guest wrote before it stopped may still be on its way: silence counts from the first quiet moment.
	before := p.screen.length()
	for quiet := false; !quiet; {
		select {
		case <-time.After(stillness):
		case <-ctx.Done():
			return fmt.Errorf("the guest goes on writing although it is paused: %w", ctx.Err())
		}
		now := p.screen.length()
		quiet, before = now == before, now
	}
	return nil
}

func (p *play) resume(ctx context.Context) error {
	before := p.screen.length()
	if err := p.verb(ctx, "ResumeVm"); err != nil {
		return err
	}
	return p.screen.await(ctx, before, guestPrefix+"second")
}

func (p *play) reboot(ctx context.Context) error {
	before := p.screen.length()
	if err := p.verb(ctx, "RebootVm"); err != nil {
		return err
	}
	if err := p.screen.await(ctx, before, guest.Marker); err != nil {
		return err
	}
	seen, err := p.look(ctx)
	if err == nil && seen.BackendInfo["incarnation"] != "2" {
		err = fmt.Errorf("GetVmInfo says incarnation %q, not 2", seen.BackendInfo["incarnation"])
	}
	return err
}

func (p *play) shutdown(ctx context.Context) error {
	before := p.screen.length()
	seen, err := p.look(ctx)
	if err != nil {
		return err
	}
	if err := p.verb(ctx, "ShutdownVm"); err != nil {
		return err
	}
	if err := p.screen.await(ctx, before, guest.PoweringOff); err != nil {
		return err
	}
	return gone(seen.BackendInfo["pid"])
}

// gone checks that the VMM's process is no more: what metald reports is one thing, the kernel's word another.
func gone(pid string) error {
	n, err := strconv.Atoi(pid)
	if err != nil || n <= 0 {
		return fmt.Errorf("GetVmInfo names no pid for a VM that runs, but %q", pid)
	}
	if err := syscall.Kill(n, 0); !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("the VMM, pid %d, is still there", n)
	}
	return nil
}

func (p *play) remove(ctx context.Context) error {
	if err := p.verb(ctx, "DeleteVm"); err != nil {
		return err
	}
	if _, err := p.look(ctx); err == nil {
		return errors.New("GetVmInfo still knows the VM")
	}
	left, err := os.ReadDir(filepath.Join(p.dir, "state", "run"))
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s was left behind", left[0].Name())
	}
	return err
}

// cleanUp ends what still runs, after a failure or Ctrl-C as well.
func (p *play) cleanUp(failure error) error {
	if failure != nil {
		p.abandon()
	}
	if p.end != nil {
		p.end()
		<-p.ended
	}
	interrupted := errors.Is(failure, context.Canceled)
	return p.strike(failure != nil && !interrupted)
}

// abandon removes the VM in whatever state it is. Where metald cannot do it any more, it ends the VMM by pid.
func (p *play) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var answer struct{}
	err := p.client.call(ctx, "DeleteVm", map[string]any{"vm_id": vmID, "force": true}, &answer)
	if err != nil && gone(p.vmm) != nil {
		endVMM(ctx, p.vmm)
	}
}

// endVMM kills the process and waits, as its parent was metald, for it to be gone.
func endVMM(ctx context.Context, pid string) {
	n, err := strconv.Atoi(pid)
	if err != nil || n <= 0 {
		return
	}
	_ = syscall.Kill(n, syscall.SIGKILL) // it may end by itself at this moment
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for gone(pid) != nil && ctx.Err() == nil {
		select {
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

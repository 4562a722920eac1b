package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"connectrpc.com/connect"

	billing "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/powerloss"
)

// recoverLog says what the loss of power left, and what metald makes of it.
func recoverLog(ctx context.Context) error {
	r, err := recovery(ctx)
	if err != nil {
		r.Failed = err.Error()
	}
	say(r)
	return nil
}

func recovery(ctx context.Context) (r powerloss.Recovery, err error) {
	if r.Boot, err = boot.ID(); err != nil {
		return r, err
	}
	if r.Before, err = powerloss.ReadLog(powerloss.UsageLog); err != nil {
		return r, err
	}
	r.Said = ask(ctx, "wal", "verify", powerloss.UsageLog)
	m, err := start(ctx)
	if err != nil {
		return r, err
	}
	r.Ready = m.ready.Nanoseconds()
	if r.VMs, err = vms(ctx, m); err != nil {
		return r, err
	}
	if err := m.stop(); err != nil {
		return r, err
	}
	r.Said = append(r.Said, ask(ctx, "usage", "audit")...)
	r.After, err = powerloss.ReadLog(powerloss.UsageLog)
	return r, err
}

// ask runs one of metald's other commands, and returns what it said if it is not content.
func ask(ctx context.Context, args ...string) []string {
	cmd := exec.CommandContext(ctx, os.Getenv("METALD_TEST_METALD"), args...)
	cmd.Env = settings()
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	return []string{fmt.Sprintf("metald %s: %v: %s", strings.Join(args, " "), err, out)}
}

// vms asks metald for what it says of each VM.
func vms(ctx context.Context, m *metald) ([]powerloss.VM, error) {
	list, err := m.client.ListVms(ctx, connect.NewRequest(&pb.ListVmsRequest{}))
	if err != nil {
		return nil, err
	}
	var all []powerloss.VM
	for _, vm := range list.Msg.GetVms() {
		info, err := m.client.GetVmInfo(ctx, connect.NewRequest(&pb.GetVmInfoRequest{VmId: vm.GetVmId()}))
		if err != nil {
			return nil, err
		}
		used, err := billed(ctx, m, vm.GetVmId())
		if err != nil {
			return nil, err
		}
		all = append(all, powerloss.VM{
			ID: vm.GetVmId(), State: info.Msg.GetState().String(), Reason: info.Msg.GetBackendInfo()["exit_reason"], CPU: used,
		})
	}
	return all, nil
}

// billed is the CPU time in ns that a VM has used in all.
func billed(ctx context.Context, m *metald, id string) (ns uint64, err error) {
	resp, err := m.client.GetUsage(ctx, connect.NewRequest(&billing.GetUsageRequest{VmId: id}))
	if err != nil {
		return 0, err
	}
	for _, w := range resp.Msg.GetWindows() {
		ns += w.GetUsage().GetCpuNs().GetLo()
	}
	return ns, nil
}

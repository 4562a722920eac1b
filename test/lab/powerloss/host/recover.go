package main

import (
	"context"
	"path/filepath"

	"connectrpc.com/connect"

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
	wal := filepath.Join(powerloss.State, "wal")
	if r.Before, err = powerloss.ReadLog(wal); err != nil {
		return r, err
	}
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
	r.After, err = powerloss.ReadLog(wal)
	return r, err
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
		all = append(all, powerloss.VM{
			ID: vm.GetVmId(), State: info.Msg.GetState().String(), Reason: info.Msg.GetBackendInfo()["exit_reason"],
		})
	}
	return all, nil
}

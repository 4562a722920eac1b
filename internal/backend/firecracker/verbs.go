package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// The states that Firecracker tells of a VM.
const (
	stateNotStarted = "Not started"
	stateRunning    = "Running"
	statePaused     = "Paused"
)

// instanceInfo is what Firecracker tells of itself and its VM.
type instanceInfo struct {
	State      string `json:"state"`
	VMMVersion string `json:"vmm_version"`
}

// info asks for the state of the VM. A state that metald does not know is an error, never a guess.
func (c *client) info(ctx context.Context) (instanceInfo, error) {
	var info instanceInfo
	if err := c.read(ctx, "/", &info); err != nil {
		return instanceInfo{}, err
	}
	switch info.State {
	case stateNotStarted, stateRunning, statePaused:
		return info, nil
	}
	return instanceInfo{}, fmt.Errorf("GET /: %w: state %q", errReply, oneLine(info.State))
}

// start boots the guest: once, and after everything else was configured.
func (c *client) start(ctx context.Context) error { return c.send(ctx, putAction("InstanceStart")) }

// ctrlAltDel presses the keys. That they were pressed says nothing of what the guest does. On ARM there are none.
func (c *client) ctrlAltDel(ctx context.Context) error {
	return c.send(ctx, putAction("SendCtrlAltDel"))
}

// flushMetrics makes Firecracker write its metrics now. It needs a guest that was started, paused or not.
func (c *client) flushMetrics(ctx context.Context) error {
	return c.send(ctx, putAction("FlushMetrics"))
}

// pause and resume return nil as well if the guest is already so.
func (c *client) pause(ctx context.Context) error  { return c.send(ctx, patchVM("Paused")) }
func (c *client) resume(ctx context.Context) error { return c.send(ctx, patchVM("Resumed")) }

// configure makes calls in order until one is refused. The error is one of the seam's, with the field of the config
// that the call came from.
func (c *client) configure(ctx context.Context, calls []call) error {
	for _, cl := range calls {
		err := c.send(ctx, cl)
		var refused *fault
		switch {
		case err == nil:
		case errors.As(err, &refused):
			return types.FieldErrorf(cl.Kind, cl.Field, "%w", err)
		default:
			return types.Errorf(types.KindUnavailable, "%w", err)
		}
	}
	return nil
}

func (c *client) read(ctx context.Context, path string, into any) error {
	body, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: %w: %w", path, errReply, err)
	}
	return nil
}

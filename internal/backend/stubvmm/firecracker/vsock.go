package firecracker

import (
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

func (v *vmm) vsockCall(raw []byte) (call, error) {
	b, err := body[vsockDeviceConfig](v, raw, "put_api_requests.vsock")
	if err != nil {
		return call{}, err
	}
	c := call{do: func() (any, error) { return nil, v.setVsock(b) }}
	if b.VsockID != nil {
		v.metrics.inc("deprecated_api.deprecated_http_api_calls")
		c.deprecated = "PUT /vsock: vsock_id field is deprecated."
	}
	return c, nil
}

// setVsock makes the socket at once. Nothing comes through it: the guest has no vsock.
func (v *vmm) setVsock(c vsockDeviceConfig) error {
	const refused = "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: %s"
	if err := v.preBoot(); err != nil {
		return err
	}
	v.bootPath = true
	if old := v.vsock; old != nil {
		v.vsock = nil
		if err := unix.Unlink(old.UDSPath); err != nil {
			return faultf(refused, rust.IOError(err))
		}
	}
	if _, err := listen(c.UDSPath); err != nil {
		return faultf(refused, rust.IOError(err))
	}
	c.VsockID = nil
	v.vsock = &c
	return nil
}

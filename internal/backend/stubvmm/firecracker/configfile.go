package firecracker

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// vmFile is what the stand-in takes of a VM in a file: a trial's, which has a kernel and nothing else.
type vmFile struct {
	BootSource    bootSourceConfig    `json:"boot-source"`
	Drives        []blockDeviceConfig `json:"drives"`
	MachineConfig machineConfig       `json:"machine-config"`
}

// runFile starts the VM that is in a file, without an API, and returns when it has ended.
func (p *process) runFile(path string) int {
	v := p.vmm
	text, err := os.ReadFile(path)
	if err != nil {
		return p.fail(exitError, "RunWithoutApi", "RunWithoutApiError error: Unable to open or read from the configuration file: "+rust.IOError(err))
	}
	if code, ended := p.misbehave(); ended {
		return code
	}
	if err := v.startFile(text); err != nil {
		return p.fail(exitError, "RunWithoutApi(BuildMicroVMFromJson)",
			"RunWithoutApiError error: Failed to build MicroVM from Json: "+err.Error())
	}
	for fds := []unix.PollFd{{Fd: int32(v.kill), Events: unix.POLLIN}}; ; {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return p.leave()
		}
	}
}

func (v *vmm) startFile(text []byte) error {
	var file vmFile
	if err := rust.Decode(text, &file); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(file.Drives) > 0 {
		return fmt.Errorf("the stand-in takes no drives from a file")
	}
	v.bare = true
	if err := v.updateMachine(file.MachineConfig.update()); err != nil {
		return err
	}
	if err := v.setBootSource(file.BootSource); err != nil {
		return err
	}
	return v.start()
}

// findNoRoot is what a kernel does that finds neither disk nor initrd.
func (v *vmm) findNoRoot() {
	const words = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
	v.console.say("[    1.000000] " + words)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.end(0)
}

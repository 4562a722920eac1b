package qemu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// oldest is the first QEMU that takes devices as JSON.
var oldest = [2]int{6, 2}

// Check says what this host lacks for QEMU to work. KVM is part of it in the mode kvm only, as far as it can be checked
// without a guest.
func (b *Backend) Check(ctx context.Context) error {
	binary, err := b.binary()
	if err != nil {
		return err
	}
	// The sandbox comes first: a QEMU that was built without it refuses the option.
	out, err := ask(ctx, binary, "-sandbox", sandbox, "-version")
	if err != nil {
		return err
	}
	if err := checkVersion(out); err != nil {
		return types.Errorf(types.KindPrecondition, "%s: %w", binary, err)
	}
	if out, err = ask(ctx, binary, "-machine", "help"); err != nil {
		return err
	}
	if !regexp.MustCompile(`(?m)^microvm\b`).MatchString(out) {
		return types.Errorf(types.KindPrecondition, "%s has no machine microvm; it takes a QEMU for x86-64 with it", binary)
	}
	if v := kvm.Probe(); b.accel.mode == accelKVM && !v.Usable {
		return types.Errorf(types.KindPrecondition, "KVM cannot be used on this host: %s", v.Why)
	}
	return nil
}

// ask runs QEMU for a question that it answers at once.
func ask(ctx context.Context, binary string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env, cmd.WaitDelay = []string{}, time.Second
	out, err := cmd.Output()
	if err == nil {
		return string(out), nil
	}
	detail := err.Error()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		detail = strings.TrimSpace(string(exit.Stderr))
	}
	return "", types.Errorf(types.KindPrecondition, "%s %s: %s", binary, strings.Join(args, " "), detail)
}

var versionLine = regexp.MustCompile(`QEMU emulator version (\d+)\.(\d+)`)

func checkVersion(out string) error {
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("not QEMU: it calls itself %.60q", out)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < oldest[0] || major == oldest[0] && minor < oldest[1] {
		return fmt.Errorf("QEMU %d.%d is too old; %d.%d or newer is needed", major, minor, oldest[0], oldest[1])
	}
	return nil
}

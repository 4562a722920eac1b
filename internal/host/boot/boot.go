// Package boot tells one run of the host from the next.
package boot

import (
	"fmt"
	"os"
	"strings"
)

// ID is the kernel's random id of this boot (proc(5), /proc/sys/kernel/random/boot_id): no process is alive that
// was started under another.
func ID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id of the host: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

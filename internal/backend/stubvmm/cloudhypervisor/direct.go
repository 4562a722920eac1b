package cloudhypervisor

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// direct boots what the command line describes.
func (v *vmm) direct(a *arguments) error {
	c, f := configOf(a)
	if f != nil {
		return f
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := v.create(c); f != nil {
		return f.under("Error creating VM", "The VM could not be created")
	}
	if f := v.boot(); f != nil {
		return f.under("Error booting VM", "The VM could not boot")
	}
	return nil
}

func configOf(a *arguments) (*vmConfig, *fault) {
	c := newConfig()
	kernel := rust.Path(a.values["kernel"])
	c.Payload = &payloadConfig{Kernel: &kernel}
	if text, ok := a.values["cmdline"]; ok {
		c.Payload.Cmdline = &text
	}
	if text, ok := a.values["initramfs"]; ok {
		path := rust.Path(text)
		c.Payload.Initramfs = &path
	}
	c.PVPanic = a.has("pvpanic")
	c.Landlock = a.has("landlock")
	for _, part := range []struct {
		name string
		set  func(text string) bool
	}{
		{"cpus", c.CPUs.fromText}, {"memory", c.Memory.fromText},
		{"serial", func(s string) bool { return modeOf(s, &c.Serial.Mode, &c.Serial.File, &c.Serial.Socket) }},
		{"console", func(s string) bool { return modeOf(s, &c.Console.Mode, &c.Console.File, nil) }},
	} {
		if text, ok := a.values[part.name]; ok && !part.set(text) {
			return nil, says("Error parsing config", fmt.Sprintf("the stand-in does not understand --%s %s", part.name, text))
		}
	}
	return c, nil
}

func (c *cpusConfig) fromText(text string) bool {
	max := false
	for _, word := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseUint(value, 10, 32)
		switch {
		case err == nil && name == "boot":
			c.Boot = uint32(n)
		case err == nil && name == "max":
			c.Max, max = uint32(n), true
		default:
			return false
		}
	}
	if !max {
		c.Max = c.Boot
	}
	return true
}

func (m *memoryConfig) fromText(text string) bool {
	for _, word := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "size":
			n, ok := byteSize(value)
			if !ok {
				return false
			}
			m.Size = n
		case "shared":
			m.Shared = value == "on"
		default:
			return false
		}
	}
	return true
}

// byteSize is a number of bytes, or of what its letter says.
func byteSize(text string) (uint64, bool) {
	shift := 0
	for letter, by := range map[string]int{"K": 10, "M": 20, "G": 30} {
		if number, ok := strings.CutSuffix(text, letter); ok {
			text, shift = number, by
		}
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n << shift, err == nil
}

func modeOf(text string, mode *consoleMode, file, socket **rust.Path) bool {
	name, value, has := strings.Cut(text, "=")
	path := rust.Path(value)
	switch {
	case name == "off" && !has:
		*mode = modeOff
	case name == "null" && !has:
		*mode = modeNull
	case name == "tty" && !has:
		*mode = modeTty
	case name == "file" && has:
		*mode, *file = modeFile, &path
	case name == "socket" && has && socket != nil:
		*mode, *socket = modeSocket, &path
	default:
		return false
	}
	return true
}

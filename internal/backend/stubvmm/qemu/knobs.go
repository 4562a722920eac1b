package qemu

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// knobs are the kernel arguments that make the stand-in slow or wrong.
type knobs struct {
	Start   time.Duration // stub.start: how long it takes from exec to the greeting
	Boot    time.Duration // stub.boot: how long the guest takes to reach user space
	Die     int           // stub.die: exit with this code, and a line on stderr, before the greeting
	Garbage bool          // stub.garbage=1: something else than QMP is on the sockets
	Half    bool          // stub.half=1: replies end in the middle, and the connection with them
	Mute    string        // stub.mute: the command that is never answered, or "greeting"
	NotRun  bool          // stub.notrun=1: cont succeeds and the guest does not run
	Hold    bool          // stub.hold=1: quit succeeds and is not obeyed
	Noise   int           // stub.noise: so many KiB on stderr, whether they are taken or not, before the greeting
	Full    bool          // stub.full=1: the first time that the guest runs it is stopped, as on a full disk
	Crash   bool          // stub.crash=1: abort as soon as the guest runs
}

func parseKnobs(cmdline string) (knobs, error) {
	var k knobs
	for _, word := range strings.Fields(cmdline) {
		name, value, _ := strings.Cut(word, "=")
		if !strings.HasPrefix(name, "stub.") {
			continue
		}
		if err := k.set(name, value); err != nil {
			return k, fmt.Errorf("stub-qemu: %s: %w", word, err)
		}
	}
	return k, nil
}

func (k *knobs) set(name, value string) (err error) {
	switch name {
	case "stub.start":
		k.Start, err = time.ParseDuration(value)
	case "stub.boot":
		k.Boot, err = time.ParseDuration(value)
	case "stub.die":
		k.Die, err = strconv.Atoi(value)
	case "stub.mute":
		k.Mute = value
	case "stub.garbage":
		k.Garbage, err = strconv.ParseBool(value)
	case "stub.half":
		k.Half, err = strconv.ParseBool(value)
	case "stub.notrun":
		k.NotRun, err = strconv.ParseBool(value)
	case "stub.hold":
		k.Hold, err = strconv.ParseBool(value)
	case "stub.noise":
		k.Noise, err = strconv.Atoi(value)
	case "stub.full":
		k.Full, err = strconv.ParseBool(value)
	case "stub.crash":
		k.Crash, err = strconv.ParseBool(value)
	default:
		err = fmt.Errorf("no such knob")
	}
	return err
}

package firecracker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// KnobsSuffix is behind the executable's name in that of the file with its knobs. The stand-in for the jailer brings
// the file along.
const KnobsSuffix = ".knobs"

// knobs make the stand-in slow or wrong. In the file each is a line; among the kernel's arguments each is a word.
type knobs struct {
	Start    time.Duration // stub.start: how long it takes from exec to the socket
	Die      int           // stub.die: exit with this code, and a line on stderr, before the socket
	NoSocket bool          // stub.nosocket=1: the socket is never opened
	Noise    int           // stub.noise: so many KiB on stderr, whether they are taken or not, before the socket
	Chatter  bool          // stub.chatter=1: lines of the log without end, as many as are taken, from the start
	Slow     time.Duration // stub.slow: how long each call takes
	Mute     string        // stub.mute: the call that is never answered, nor any after it, as PUT:/boot-source or PUT:/actions/FlushMetrics
	Garbage  bool          // stub.garbage=1: what is answered is no HTTP
	Half     bool          // stub.half=1: answers end in the middle, and the connection with them
	Boot     time.Duration // stub.boot: how long the guest takes to reach user space
	NotRun   bool          // stub.notrun=1: InstanceStart succeeds and the guest does not run
	Hold     bool          // stub.hold=1: the guest ends and the process stays
	Crash    bool          // stub.crash=1: abort as soon as the guest runs
	Tap      bool          // stub.tap=1: taps are opened, as Firecracker does, instead of only remembered
	Period   time.Duration // stub.period: between two lines of metrics that nobody asked for, instead of a minute
	Traffic  uint64        // stub.traffic: so many bytes each way, on the root drive and the first interface, every 10 ms
	Truth    string        // stub.truth: a file that gets a line of JSON for each line of metrics, see truth
}

// executable is the path of this program, by which it was started where there is no /proc.
func executable() string {
	if path, err := os.Readlink("/proc/self/exe"); err == nil {
		return path
	}
	return os.Args[0]
}

// readKnobs reads the file beside the executable, if it is there.
func readKnobs() (knobs, error) {
	var k knobs
	text, err := os.ReadFile(executable() + KnobsSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	return k, k.parse(strings.Split(string(text), "\n"))
}

// parse takes what begins with "stub." and passes over everything else.
func (k *knobs) parse(words []string) error {
	for _, word := range words {
		name, value, _ := strings.Cut(strings.TrimSpace(word), "=")
		if !strings.HasPrefix(name, "stub.") {
			continue
		}
		if err := k.set(name, value); err != nil {
			return fmt.Errorf("stub-firecracker: %s: %w", word, err)
		}
	}
	return nil
}

func (k *knobs) set(name, value string) (err error) {
	switch name {
	case "stub.start":
		k.Start, err = time.ParseDuration(value)
	case "stub.slow":
		k.Slow, err = time.ParseDuration(value)
	case "stub.boot":
		k.Boot, err = time.ParseDuration(value)
	case "stub.period":
		k.Period, err = time.ParseDuration(value)
	case "stub.die":
		k.Die, err = strconv.Atoi(value)
	case "stub.noise":
		k.Noise, err = strconv.Atoi(value)
	case "stub.traffic":
		k.Traffic, err = strconv.ParseUint(value, 10, 64)
	case "stub.mute":
		k.Mute = strings.ReplaceAll(value, " ", ":")
	case "stub.truth":
		k.Truth = value
	default:
		return k.setSwitch(name, value)
	}
	return err
}

func (k *knobs) setSwitch(name, value string) (err error) {
	to := map[string]*bool{
		"stub.nosocket": &k.NoSocket, "stub.chatter": &k.Chatter, "stub.garbage": &k.Garbage, "stub.half": &k.Half,
		"stub.notrun": &k.NotRun, "stub.hold": &k.Hold, "stub.crash": &k.Crash, "stub.tap": &k.Tap,
	}[name]
	if to == nil {
		return fmt.Errorf("no such knob")
	}
	*to, err = strconv.ParseBool(value)
	return err
}

// muted says whether a call is the one that is never answered.
func (k knobs) muted(r request) bool {
	if k.Mute == "" {
		return false
	}
	call := r.Method + ":" + r.Path
	var action actionBody
	if r.Path == "/actions" && rust.Decode(r.Body, &action) == nil && k.Mute == call+"/"+string(action.ActionType) {
		return true
	}
	return k.Mute == call
}

package cloudhypervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// KnobsSuffix is behind the executable's name in that of the file with its knobs.
const KnobsSuffix = ".knobs"

// knobs make the stand-in slow or wrong. In the file each is a line; among the kernel's arguments each is a word.
type knobs struct {
	Version  int           // stub.version: 52, 53 or 54, which is the way from 53 to 54
	Start    time.Duration // stub.start: how long it takes from exec to the socket
	Die      int           // stub.die: exit with this code, and a line on stderr, before the socket
	NoSocket bool          // stub.nosocket=1: the socket is never opened
	Noise    int           // stub.noise: so many KiB on stderr, whether they are taken or not, before the socket
	Chatter  bool          // stub.chatter=1: lines of the log without end, as many as are taken, from the start
	Slow     time.Duration // stub.slow: how long each call takes
	SlowBoot time.Duration // stub.slowboot: how long vm.boot takes; nothing else is answered meanwhile
	Mute     string        // stub.mute: the call that is never answered, nor any after it, as PUT:/vm.boot
	Garbage  bool          // stub.garbage=1: what is answered is no HTTP
	Half     bool          // stub.half=1: answers end in the middle, and the connection with them
	Boot     time.Duration // stub.boot: how long the guest takes to reach user space
	NotRun   bool          // stub.notrun=1: vm.boot succeeds and the guest does not run
	Hold     bool          // stub.hold=1: the guest ends and the process stays, without a word of it
	Crash    bool          // stub.crash=1: abort as soon as the guest runs
	Traffic  uint64        // stub.traffic: so many bytes each way, on the first disk and the first interface, every 10 ms
	Silent   bool          // stub.silent=1: no events
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
	k := knobs{Version: 53}
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
			return fmt.Errorf("stub-cloud-hypervisor: %s: %w", word, err)
		}
	}
	return nil
}

func (k *knobs) set(name, value string) (err error) {
	if to := k.durations()[name]; to != nil {
		*to, err = time.ParseDuration(value)
		return err
	}
	if to := k.switches()[name]; to != nil {
		*to, err = strconv.ParseBool(value)
		return err
	}
	switch name {
	case "stub.version":
		k.Version, err = strconv.Atoi(value)
		if err == nil && (k.Version < 52 || k.Version > 54) {
			err = errors.New("it is 52, 53 or 54")
		}
	case "stub.die":
		k.Die, err = strconv.Atoi(value)
	case "stub.noise":
		k.Noise, err = strconv.Atoi(value)
	case "stub.traffic":
		k.Traffic, err = strconv.ParseUint(value, 10, 64)
	case "stub.mute":
		k.Mute = strings.ReplaceAll(value, " ", ":")
	default:
		err = errors.New("no such knob")
	}
	return err
}

func (k *knobs) durations() map[string]*time.Duration {
	return map[string]*time.Duration{
		"stub.start": &k.Start, "stub.slow": &k.Slow, "stub.slowboot": &k.SlowBoot, "stub.boot": &k.Boot,
	}
}

func (k *knobs) switches() map[string]*bool {
	return map[string]*bool{
		"stub.nosocket": &k.NoSocket, "stub.chatter": &k.Chatter, "stub.garbage": &k.Garbage, "stub.half": &k.Half,
		"stub.notrun": &k.NotRun, "stub.hold": &k.Hold, "stub.crash": &k.Crash, "stub.silent": &k.Silent,
	}
}

// versions are what each claims to be: to --version and the ping's build, and to the ping's version.
func (k knobs) versions() (build, version string) {
	if k.Version == 54 {
		return "v53.0-171-gae44c29", "54.0.0"
	}
	return fmt.Sprintf("v%d.0.0", k.Version), fmt.Sprintf("%d.0.0", k.Version)
}

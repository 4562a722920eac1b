package guest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Forever is the Burn of a guest that burns until it ends.
const Forever = time.Duration(-1)

// Options is what the kernel's command line asks of the guest.
type Options struct {
	Burn    time.Duration // 0: none; Forever: no end
	Burners int           // threads that burn; at least 1
	Write   int64         // bytes; 0: none
	WriteTo string        // a block device, or a file
	Touch   []string
	Count   bool
	Flood   bool
	Shell   bool
	Power   string // PowerHonour or PowerIgnore
	Exit    string // "", ExitPowerOff, ExitReboot or ExitPanic
	After   time.Duration
}

// ParseOptions reads the arguments named in this package from a kernel command line and passes over all others.
// Where an argument is wrong the options hold the rest, and the error names each that was left out.
func ParseOptions(cmdline string) (Options, error) {
	o := Options{Burners: 1, WriteTo: WriteFile, Power: PowerHonour}
	var bad []string
	for _, word := range strings.Fields(cmdline) {
		name, value, _ := strings.Cut(word, "=")
		if !strings.HasPrefix(name, "metald.") {
			continue
		}
		if err := o.set(name, value); err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", word, err))
		}
	}
	if bad != nil {
		return o, fmt.Errorf("kernel arguments: %s", strings.Join(bad, "; "))
	}
	return o, nil
}

func (o *Options) set(name, value string) (err error) {
	switch name {
	case ArgBurn:
		o.Burn, err = burnTime(value)
	case ArgBurners:
		o.Burners, err = parseBurners(value)
	case ArgWrite:
		o.Write, err = parseBytes(value)
	case ArgWriteTo:
		o.WriteTo, err = absolutePath(value)
	case ArgTouch:
		o.Touch = strings.Split(value, ",")
	case ArgCount:
		o.Count, err = strconv.ParseBool(value)
	case ArgFlood:
		o.Flood, err = strconv.ParseBool(value)
	case ArgShell:
		o.Shell, err = strconv.ParseBool(value)
	case ArgPower:
		o.Power, err = oneOf(value, o.Power, PowerHonour, PowerIgnore)
	case ArgExit:
		o.Exit, err = oneOf(value, o.Exit, ExitPowerOff, ExitReboot, ExitPanic)
	case ArgAfter:
		o.After, err = positive(value)
	default:
		err = fmt.Errorf("no such argument")
	}
	return err
}

package guest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseOptions(t *testing.T) {
	defaults := Options{Burners: 1, WriteTo: WriteFile, Power: PowerHonour}
	with := func(change func(*Options)) Options {
		o := defaults
		change(&o)
		return o
	}
	tests := []struct {
		name, cmdline string
		want          Options
		complaints    []string
	}{
		{"nothing asked", "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda rw", defaults, nil},
		{"empty", "", defaults, nil},
		{"burn for a time", "metald.burn=5s metald.burners=2", with(func(o *Options) { o.Burn, o.Burners = 5*time.Second, 2 }), nil},
		{"burn for ever", "metald.burn=forever", with(func(o *Options) { o.Burn = Forever }), nil},
		{"seconds without a unit", "metald.after=3", with(func(o *Options) { o.After = 3 * time.Second }), nil},
		{"write", "metald.write=8388608 metald.write_to=/dev/vdb\n", with(func(o *Options) { o.Write, o.WriteTo = 8<<20, "/dev/vdb" }), nil},
		{"touch", "metald.touch=/,/dev/vda", with(func(o *Options) { o.Touch = []string{"/", "/dev/vda"} }), nil},
		{"switches", "metald.count=1 metald.flood=1 metald.shell=1", with(func(o *Options) { o.Count, o.Flood, o.Shell = true, true, true }), nil},
		{"power and end", "metald.power=ignore metald.exit=panic", with(func(o *Options) { o.Power, o.Exit = PowerIgnore, ExitPanic }), nil},
		{"the last of two wins", "metald.burn=1s metald.burn=2s", with(func(o *Options) { o.Burn = 2 * time.Second }), nil},
		{
			"each mistake is named and the rest obeyed",
			"metald.brun=5s metald.burn=-5s metald.power=maybe metald.write=12MB metald.write_to=vdb metald.burners=0 metald.count=1",
			with(func(o *Options) { o.Count = true }),
			[]string{"metald.brun=5s", "metald.burn=-5s", "metald.power=maybe", "metald.write=12MB", "metald.write_to=vdb", "metald.burners=0"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseOptions(tt.cmdline)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			if (err != nil) != (tt.complaints != nil) {
				t.Fatalf("error %v, want complaints about %q", err, tt.complaints)
			}
			for _, c := range tt.complaints {
				if !strings.Contains(err.Error(), c) {
					t.Errorf("error %q doesn't name %s", err, c)
				}
			}
		})
	}
}

// Every line the guest says must be told from the kernel's by its prefix, and fit on one line.
func TestLinesHaveThePrefix(t *testing.T) {
	for _, line := range []string{
		Marker, PowerButton, CtrlAltDel, PoweringOff, Restarting, Panicking, ShellExited, Second(1), Wrote(5, "/dev/vdb"),
		TouchRefused("/", "EROFS"), TouchAccepted("/"), FloodLine(7, "x"), Burned(time.Second),
	} {
		if !strings.HasPrefix(line, Prefix) || strings.Contains(line, "\n") {
			t.Errorf("line %q", line)
		}
	}
}

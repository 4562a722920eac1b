package kernelargs_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelargs"
)

func TestNames(t *testing.T) {
	for line, want := range map[string][]string{
		"":                               nil,
		" ro  quiet\tpanic=1 ":           {"panic", "quiet", "ro"},
		"a=b=c a.b=1":                    {"a", "a.b"},
		`x="panic=1 root=/dev/sda -- y"`: {"x"},
		`"reboot=k" z`:                   {"reboot", "z"},
		"a -- panic=1":                   {"a"},
		"a --x b":                        {"--x", "a", "b"},
		`open="quoted to the end b=1`:    {"open"},
	} {
		got := slices.Sorted(maps.Keys(kernelargs.Names(line)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got:\n%s", line, diff)
		}
	}
}

func TestWithout(t *testing.T) {
	for line, want := range map[string]string{
		"":                         "",
		"pci=off":                  "",
		"a  pci=off b":             "a  b",
		" pci=off pci=off\tq ":     " q ",
		"pci=offset pci= xpci=off": "pci=offset pci= xpci=off",
		"pci=off a -- pci=off":     "a -- pci=off",
		`x="pci=off y" pci=off`:    `x="pci=off y" `,
		`x="a pci=off b`:           `x="a pci=off b`,
	} {
		if got := kernelargs.Without(line, "pci=off"); got != want {
			t.Errorf("%q became %q, want %q", line, got, want)
		}
	}
}

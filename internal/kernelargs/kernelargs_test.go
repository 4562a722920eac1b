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

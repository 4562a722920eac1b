package vm

import (
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestSameSpec(t *testing.T) {
	base := types.Spec{CPU: types.CPU{Count: 1}, Boot: types.Boot{KernelPath: "/k"}}
	empty := base
	empty.Metadata = map[string]string{}
	if !sameSpec(base, empty) {
		t.Error("a spec that comes back from its record, where an empty map is none, is another spec")
	}
	other := base
	other.Metadata = map[string]string{"a": "b"}
	if sameSpec(base, other) || sameSpec(other, empty) {
		t.Error("specs with and without metadata are the same")
	}
}

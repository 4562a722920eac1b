package cloudhypervisor

import (
	"encoding/json"
	"testing"
)

// Whether VMMs lock themselves in is seen in the config that they are given.
func TestLockdownFollowsTheKernel(t *testing.T) {
	r := onStub(t, false)
	v := r.create("locked", r.spec())
	info, err := v.api.info(t.Context())
	must(t, err)
	want := landlocks()
	t.Logf("Landlock: %t", want)
	if got := configHas(t, info.Config, "landlock_enable"); got != want {
		t.Errorf("the VMM locks itself in: %t, want %t", got, want)
	}
}

func configHas(t *testing.T, config json.RawMessage, key string) bool {
	t.Helper()
	var all map[string]any
	must(t, json.Unmarshal(config, &all))
	yes, _ := all[key].(bool)
	return yes
}

package config

import (
	"flag"
	"strings"
	"testing"
)

func TestBillagedHasSettingsOfItsOwn(t *testing.T) {
	read := func(environ ...string) (Billaged, error) {
		return LoadBillaged(flag.NewFlagSet("billaged", flag.ContinueOnError), nil, environ)
	}
	c, err := read("UNKEY_BILLAGED_PORT=9", "UNKEY_METALD_PORT=x")
	if err != nil || c.Port != 9 || c.StateDir != "/var/lib/billaged" {
		t.Errorf("%+v, %v", c, err)
	}
	for env, want := range map[string]string{
		"UNKEY_BILLAGED_PROT=1":          "did you mean UNKEY_BILLAGED_PORT?",
		"UNKEY_BILLAGED_QQQQQQQQQQ=1":    "billaged -help lists them",
		"UNKEY_BILLAGED_ADDRESS=0.0.0.0": "UNKEY_BILLAGED_INSECURE_BIND=true",
	} {
		if _, err := read(env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", env, err, want)
		}
	}
}

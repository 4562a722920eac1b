package boot_test

import (
	"regexp"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
)

func TestID(t *testing.T) {
	first, err := boot.ID()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(first) {
		t.Errorf("%q is not a UUID", first)
	}
	if second, err := boot.ID(); err != nil || second != first {
		t.Errorf("the same boot is %q and %q, %v", first, second, err)
	}
}

package fake_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest/onfake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestConformance(t *testing.T) {
	defer goleak.VerifyNone(t)
	host := fake.NewHost()
	conformance.Run(t, onfake.Harness(t, host, func() types.Backend { return fake.New(host) }))
	for _, fault := range host.Faults() {
		t.Error(fault)
	}
}

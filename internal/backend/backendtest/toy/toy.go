// Package toy is the backend that metald does not have: a folder and, in the tests of the wiring, a line. It shows what a
// further backend takes. Its machines are those of package fake, and what it can do is its own.
package toy

import (
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Name selects this backend.
const Name = "toy"

// Backend makes machines on a fake host.
type Backend struct{ *fake.Backend }

var _ types.Backend = Backend{}

// New returns a Backend over host, which may have machines of an earlier one.
func New(host *fake.Host) Backend { return Backend{fake.Called(Name, host)} }

// Capabilities are less than those of any other.
func (Backend) Capabilities() types.Capabilities {
	return types.Capabilities{
		MaxVCPUs: 2, MinMemoryBytes: 64 << 20, MaxDisks: 3, MaxNetworks: 0,
		Fields: map[types.Field]types.Support{
			types.FieldTopology: {Note: "a toy has one socket"},
		},
	}
}

package cloudhypervisor

import (
	"regexp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/program"
)

// executable is a cloud-hypervisor that metald starts, and what is known of it.
type executable = program.Found[version]

// cloudHypervisor is what is looked for.
var cloudHypervisor = program.Kind[version]{
	Name: "cloud-hypervisor", Says: regexp.MustCompile(`(?m)^cloud-hypervisor (v\S+)`), Parse: parseUsable,
	Missing: "install Cloud Hypervisor " + pinned.String() + ", or set UNKEY_METALD_CLOUD_HYPERVISOR_BINARY",
}

// parseUsable reads a version and refuses one that is not to be used.
func parseUsable(s string) (version, error) {
	v, err := parseVersion(s)
	if err != nil {
		return version{}, err
	}
	return v, checkVersion(v)
}

package firecracker

import (
	"regexp"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/program"
)

// binary is a program that metald starts, and what is known of it.
type binary = program.Found[version]

// firecrackerProgram and jailerProgram are what is looked for.
var firecrackerProgram, jailerProgram = programOf("firecracker", "Firecracker"), programOf("jailer", "Jailer")

func programOf(name, says string) program.Kind[version] {
	return program.Kind[version]{
		Name: name, Says: regexp.MustCompile(`(?m)^` + says + ` (v\S+)`), Parse: parseUsable,
		Missing: "install Firecracker " + pinned.String() + " or newer, or set UNKEY_METALD_" + strings.ToUpper(name) + "_BINARY",
	}
}

// parseUsable reads a version and refuses one that is not to be used.
func parseUsable(s string) (version, error) {
	v, err := parseVersion(s)
	if err != nil {
		return version{}, err
	}
	return v, checkVersion(v)
}

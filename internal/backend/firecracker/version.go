package firecracker

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
)

// version is a version of Firecracker; Pre is what follows the numbers of a build that is no release ("dev").
type version struct {
	Major, Minor, Patch int
	Pre                 string
}

// pinned is the version that metald is made for and tested with.
var pinned = version{Major: 1, Minor: 16, Patch: 1}

var versionForm = regexp.MustCompile(`^v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:[-+]([0-9A-Za-z.+-]{1,64}))?$`)

func parseVersion(s string) (version, error) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return version{}, fmt.Errorf("%q is no version of Firecracker", oneLine(s))
	}
	v := version{Pre: m[4]}
	for i, n := range []*int{&v.Major, &v.Minor, &v.Patch} {
		*n, _ = strconv.Atoi(m[i+1]) // at most four digits
	}
	return v, nil
}

func (v version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Pre != "" {
		s += "-" + v.Pre
	}
	return s
}

// before says whether v is older than w. A build on the way to a release is older than the release.
func (v version) before(w version) bool {
	order := cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
	return order < 0 || order == 0 && v.Pre != "" && w.Pre == ""
}

// unsafe lists the versions with known ways out of the VM or the jail: those from From on that are older than Fixed.
var unsafe = []struct {
	From, Fixed version
	Why         string
}{
	{version{}, version{Major: 1, Minor: 13, Patch: 2}, "its jailer follows links (CVE-2026-1386)"},
	{version{Major: 1, Minor: 14}, version{Major: 1, Minor: 14, Patch: 1}, "its jailer follows links (CVE-2026-1386)"},
	{version{Major: 1, Minor: 13}, version{Major: 1, Minor: 14, Patch: 4}, "a guest can write outside of its memory (CVE-2026-5747)"},
	{version{Major: 1, Minor: 15}, version{Major: 1, Minor: 15, Patch: 1}, "a guest can write outside of its memory (CVE-2026-5747)"},
}

// checkVersion says why a version is not to be used; nil means that nothing is known against it.
func checkVersion(v version) error {
	for _, u := range unsafe {
		if !v.before(u.From) && v.before(u.Fixed) {
			return fmt.Errorf("version %s of Firecracker is not to be used: %s; take %s", v, u.Why, pinned)
		}
	}
	return nil
}

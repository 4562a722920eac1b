package cloudhypervisor

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// version is a version of Cloud Hypervisor; Pre is what follows the numbers of a build that is no release
// ("12-gae44c29"), which is one on the way from the release of these numbers to the next.
type version struct {
	Major, Minor, Patch int
	Pre                 string
}

// pinned is the version that metald is made for and tested with.
var pinned = version{Major: 53}

var versionForm = regexp.MustCompile(`^v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[-+]([0-9A-Za-z.+-]{1,64}))?$`)

// parseVersion reads what "cloud-hypervisor --version" prints ("cloud-hypervisor v53.0.0") and both versions of a ping:
// "53.0.0", and the build's "v53.0-12-gae44c29".
func parseVersion(s string) (version, error) {
	m := versionForm.FindStringSubmatch(strings.TrimSpace(strings.TrimPrefix(s, "cloud-hypervisor ")))
	if m == nil {
		return version{}, fmt.Errorf("%q is no version of Cloud Hypervisor", oneLine(s))
	}
	v := version{Pre: m[4]}
	for i, n := range []*int{&v.Major, &v.Minor, &v.Patch} {
		*n, _ = strconv.Atoi(m[i+1]) // at most four digits; "" is 0
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

// before says whether v is older than w, by their numbers.
func (v version) before(w version) bool {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch)) < 0
}

// tooOld lists what versions before Fixed lack, the worst first. By the release notes of 51 to 53.
var tooOld = []struct {
	Fixed version
	Why   string
}{
	// A guest that writes a header of QCOW2 into its raw disk reads any file of the host at its next start.
	{version{Major: 51}, "a guest can have its raw disk taken for another format (GHSA-jmr4-g2hv-mjj6)"},
	// With it any guest with a disk can corrupt the memory of its VMM. Version 52 also brought --no-shutdown, by which a
	// VMM outlives its guest and can be asked how it ended.
	{version{Major: 52}, "a guest can use freed memory of the VMM through its disk (CVE-2026-45782)"},
}

// checkVersion says why a version is not to be used; nil means that nothing is known against it.
func checkVersion(v version) error {
	for _, old := range tooOld {
		if v.before(old.Fixed) {
			return fmt.Errorf("version %s of Cloud Hypervisor is not to be used: %s; take %s", v, old.Why, pinned)
		}
	}
	return nil
}

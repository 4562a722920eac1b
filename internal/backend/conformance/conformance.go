// Package conformance is the table of behaviour that every backend must show, as sentences. They are driven
// through the VM manager, as the API drives it, over whatever processes, sockets and files the backend makes of
// them; the few that are about the seam itself call the backend directly.
package conformance

import (
	"slices"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

// Ability is something that a harness may not have.
type Ability string

// The abilities that sentences need.
const (
	Guest      Ability = "a guest that obeys the words of package guest"
	GuestDisks Ability = "a guest that writes to its disks"
	Flood      Ability = "a guest that writes more than the console keeps"
	Mute       Ability = "a VMM that can be made to stop answering"
	Usage      Ability = "usage that grows while a guest runs"
	LastWrites Ability = "a VMM that tells of its disks what was done to the end, when its guest has powered off"
	Usable     Ability = "a host on which the backend is usable"
)

// Harness is how the suite reaches a backend and what is behind it.
type Harness struct {
	// NewBackend returns a backend over the machines that are there already. It is called again for each restart
	// of the manager; what it needs running ends with t.
	NewBackend func(t testing.TB) types.Backend

	AssetsDir string // holds Kernel and RootDisk
	Kernel    string // absolute paths
	RootDisk  string // "" for none
	// KernelArgs come before what a sentence adds.
	KernelArgs string

	UIDBase uint32 // VMMs run as users counted from this; 0: as the test's own

	SaysLast string // what a guest says last that was asked to shut down; "" is guest.PoweringOff

	BootTimeout time.Duration // for a guest to reach user space, or to power off
	Slow        bool          // VMs are processes: make few where many are a matter of scale

	// KillVMM ends the VMM of a VM as kill -9 does and returns when it is dead.
	KillVMM func(t testing.TB, info vm.Info)
	// MuteVMM makes a VMM stop answering without ending it; the function returned lets it go on.
	MuteVMM func(t testing.TB, info vm.Info) (unmute func())
	// Leftovers names what is still there of VMs below stateDir: processes, sockets. Files the suite sees itself.
	Leftovers func(t testing.TB, stateDir string) []string

	// Cannot says why, for each ability that is missing here.
	Cannot map[Ability]string
}

// sentence is one row of the table.
type sentence struct {
	says  string
	needs []Ability
	run   func(t *testing.T, s *site)
}

// chapter is a group of rows.
type chapter struct {
	title     string
	sentences []sentence
}

// table is every sentence.
func table() []chapter {
	return []chapter{
		{"Lifecycle", slices.Concat(lifecycleSentences(), togetherSentences())},
		{"Creation and refusals", slices.Concat(createSentences(), boundSentences())},
		{"Restarts of metald", slices.Concat(adoptionSentences(), interruptedSentences())},
		{"Ends and failures", slices.Concat(endSentences(), failureSentences())},
		{"Guest and console", slices.Concat(guestSentences(), consoleSentences())},
		{"Disks", slices.Concat(diskSentences(), volumeSentences())},
		{"Cancellation, deadlines, isolation", slices.Concat(isolationSentences(), deadlineSentences())},
		{"Records", storeSentences()},
		{"Usage and lists", slices.Concat(readingSentences(), usageSentences(), lastWordSentences())},
		{"Cleanup", cleanupSentences()},
		{"The seam itself", seamSentences()},
	}
}

// Chapter is a part of the table for those who print it.
type Chapter struct {
	Title     string
	Sentences []string
}

// Chapters returns what the table says, in its order.
func Chapters() []Chapter {
	var all []Chapter
	for _, c := range table() {
		out := Chapter{Title: c.title}
		for _, s := range c.sentences {
			out.Sentences = append(out.Sentences, s.says)
		}
		all = append(all, out)
	}
	return all
}

// Run checks every sentence against a backend. After each it checks that nothing is left of the VMs. What it tells about
// the host and the VMM is what `make conformance` writes into the docs.
func Run(t *testing.T, h Harness) {
	var seen witness
	for _, c := range table() {
		for _, sentence := range c.sentences {
			t.Run(sentence.says, func(t *testing.T) {
				for _, need := range sentence.needs {
					if why := h.Cannot[need]; why != "" {
						t.Skipf("this needs %s: %s", need, why)
					}
				}
				s := newSite(t, h)
				s.seen = &seen
				sentence.run(t, s)
			})
		}
	}
	t.Log(seen.report(t.Name()))
}

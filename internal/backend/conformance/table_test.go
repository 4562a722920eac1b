package conformance

import (
	"strings"
	"testing"
)

// A sentence is the name of a test, and is found again by it among the results.
func TestSentencesAreNames(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Chapters() {
		for _, s := range c.Sentences {
			if seen[s] {
				t.Errorf("%q is there twice", s)
			}
			seen[s] = true
			if s == "" || strings.ContainsAny(s, "/|_#\t\n") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q is not plain text without slash", s)
			}
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d sentences", len(seen))
	}
}

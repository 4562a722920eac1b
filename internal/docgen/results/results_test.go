package results

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var sentences = []string{"a VM boots", "a disk, that is read-only, is", "a guest that is deaf"}

const said = `=== RUN   TestConformance
=== RUN   TestConformance/stub
=== RUN   TestConformance/stub/a_VM_boots
    site.go:1: time=now level=INFO msg="a VMM ended"
=== RUN   TestConformance/stub/a_disk,_that_is_read-only,_is
    conformance.go:76: this needs a disk: the stand-in has none
=== RUN   TestConformance/stub/a_guest_that_is_deaf
=== RUN   TestConformance/stub/a_guest_that_is_deaf/one_part
    ends.go:9: it heard
    site.go:1: time=now level=INFO msg="a VMM ended"
=== RUN   TestConformance/stub/a_sentence_that_is_no_more
=== NAME  TestConformance/stub
    conformance.go:80: conformance of TestConformance/stub: VMM X 1.2; host Linux 6.1; date 2026-11-24
=== RUN   TestConformance/broken
=== RUN   TestConformance/broken/a_VM_boots
--- FAIL: TestConformance (1.00s)
    --- FAIL: TestConformance/stub (1.00s)
        --- PASS: TestConformance/stub/a_VM_boots (1.00s)
        --- SKIP: TestConformance/stub/a_disk,_that_is_read-only,_is (0.00s)
        --- FAIL: TestConformance/stub/a_guest_that_is_deaf (0.00s)
            --- PASS: TestConformance/stub/a_guest_that_is_deaf/one_part (0.00s)
        --- PASS: TestConformance/stub/a_sentence_that_is_no_more (0.00s)
    --- FAIL: TestConformance/broken (1.00s)
        --- PASS: TestConformance/broken/a_VM_boots (1.00s)
--- PASS: TestOther (1.00s)
`

func parsed(t *testing.T) Record {
	t.Helper()
	record, err := Parse(strings.NewReader(said), "x", true, sentences)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func TestParse(t *testing.T) {
	want := Record{{Backend: "x", Kind: "stub", Lab: true}: {VMM: "X 1.2", Host: "Linux 6.1", Results: map[string]Result{
		sentences[0]: {Yes, "2026-11-24", ""},
		sentences[1]: {Skip, "2026-11-24", "this needs a disk: the stand-in has none"},
		sentences[2]: {No, "2026-11-24", "it heard"},
	}}}
	if diff := cmp.Diff(want, parsed(t)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(text)
	if diff := cmp.Diff(want, again); err != nil || diff != "" {
		t.Errorf("read again: %v\n%s", err, diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, result := range []string{"", "maybe 2026-11-24", "yes", "skip 2026-11-24", "no 2026-11-24"} {
		if got, err := Decode([]byte(`{"x/stub": {"results": {"a": "` + result + `"}}}`)); err == nil {
			t.Errorf("%q was read as %v", result, got)
		}
	}
}

func TestMerge(t *testing.T) {
	column := Column{Backend: "x", Kind: "stub", Lab: true}
	record := Record{column: {VMM: "X 1.1", Results: map[string]Result{
		"a sentence that was": {Yes, "2026-11-01", ""}, sentences[0]: {No, "2026-11-01", "then"}, "new": {Yes, "2026-11-02", ""},
	}}}
	record.Merge(parsed(t), append(sentences, "new"))
	got := record[column]
	if got.VMM != "X 1.2" || len(got.Results) != 4 || got.Results[sentences[0]].Verdict != Yes || got.Results["new"].Date != "2026-11-02" {
		t.Errorf("merged to %+v", got)
	}
	record.Merge(Record{column: {VMM: "X 0.9", Results: map[string]Result{sentences[0]: {No, "2026-10-01", "before"}}}}, sentences)
	if got := record[column]; got.VMM != "X 1.2" || got.Results[sentences[0]].Verdict != Yes {
		t.Errorf("an older run counts: %+v", got)
	}
}

func TestTable(t *testing.T) {
	got := parsed(t).Table([]Chapter{{"One", sentences}, {"Two", []string{"a new sentence"}}}, []string{"x", "y"})
	for _, want := range []string{
		"| A | stand-in for x, KVM lab | says X 1.2 | Linux 6.1 | 2026-11-24 | 1 of 4 |",
		"| B | y | - | - | never | 0 of 4 |",
		"| 4 sentences | A | B |",
		"| **One** |",
		"| a VM boots | yes | - (1) |",
		"| a disk, that is read-only, is | - (2) | - (1) |",
		"| a guest that is deaf | **no** (3) | - (1) |",
		"| a new sentence | - (4) | - (1) |",
		"(1) not run: there is no result of this backend",
		"(2) this needs a disk: the stand-in has none",
		"(3) failed on 2026-11-24: it heard",
		"(4) not run since 2026-11-24",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
}

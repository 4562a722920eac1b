package lab

import "testing"

func TestReportCounts(t *testing.T) {
	r := Report{Package: "internal/x"}
	r.count([]byte("=== RUN   TestA\n    --- PASS: TestA/one (0.00s)\n--- PASS: TestA (0.01s)\n--- SKIP: TestB (0.00s)\nthe log says --- FAIL: nothing\n"))
	if r.Passed != 2 || r.Skipped != 1 || r.Failed != 0 || !r.Good() {
		t.Errorf("%s", r)
	}
	if r.Code = 2; r.Good() {
		t.Error("a test binary that ended with code 2 is good")
	}
	r = Report{}
	r.count([]byte("--- FAIL: TestC (1.00s)\n"))
	if r.Good() {
		t.Error("a failure is good")
	}
}

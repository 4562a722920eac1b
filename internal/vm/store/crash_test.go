package store_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// Where crashPathEnv is set, the test binary writes to that store until it is killed.
const (
	crashPathEnv  = "METALD_STORE_CRASH_PATH"
	crashRoundEnv = "METALD_STORE_CRASH_ROUND"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPathEnv); path != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(path, os.Getenv(crashRoundEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// crashWriters is how many goroutines of the child write; a commit has several of their records.
const crashWriters = 8

// Each id is put in steps 1 and 2 and, if it is an odd one, deleted in step 3.
const deleteStep = 3

// writeUntilKilled says on stdout what it is about to do and what was acknowledged: "begin" or "done", then id
// and step.
func writeUntilKilled(path, round string) error {
	s, err := store.OpenBolt(path)
	if err != nil {
		return err
	}
	last, err := s.LastSeq()
	if err != nil {
		return err
	}
	failed := make(chan error, crashWriters)
	for w := range crashWriters {
		go func() {
			for n := 0; ; n++ {
				id := types.VMID(fmt.Sprintf("vm-%s-%d-%d", round, w, n))
				if err := liveOnce(s, id, last+uint64(n*crashWriters+w)+1, n%2 == 1); err != nil {
					failed <- err
				}
			}
		}()
	}
	return <-failed
}

func liveOnce(s store.Store, id types.VMID, seq uint64, doomed bool) error {
	for step := 1; step <= deleteStep; step++ {
		if step == deleteStep && !doomed {
			return nil
		}
		fmt.Printf("begin %s %d %d\n", id, step, seq)
		r := record(id, seq)
		r.Incarnation = uint64(step)
		r.Spec.Boot.KernelArgs = strings.Repeat("x", rand.IntN(3000)) // pages split and merge
		op := func() error { return s.Put(r) }
		if step == deleteStep {
			op = func() error { return s.Delete(id) }
		}
		if err := op(); err != nil {
			return err
		}
		fmt.Printf("done %s %d %d\n", id, step, seq)
	}
	return nil
}

// ledger is what the children of a test said, by id: the last step begun and the last acknowledged.
type ledger struct {
	begun, done map[types.VMID]int
	lastSeq     uint64 // of what was acknowledged
}

// TestBoltKeepsWhatItAcknowledged kills a writing process 50 times. What it acknowledged is there each time, and
// what was under way is there whole or not at all.
func TestBoltKeepsWhatItAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vms.db")
	said := ledger{begun: map[types.VMID]int{}, done: map[types.VMID]int{}}
	for round := range 50 {
		said.listenAndKill(t, path, round)
		said.check(t, path)
		if t.Failed() {
			t.Fatalf("after %d kills", round+1)
		}
	}
	t.Logf("%d VMs were acknowledged", len(said.done))
	if len(said.done) < 500 {
		t.Errorf("only %d VMs were acknowledged: the children did not get to write", len(said.done))
	}
}

// listenAndKill starts a child, kills it after a random number of words, and takes in all that it said.
func (l *ledger) listenAndKill(t *testing.T, path string, round int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashPathEnv+"="+path, fmt.Sprintf("%s=%d", crashRoundEnv, round))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill := func() { once.Do(func() { _ = child.Process.Kill() }) }
	timer := time.AfterFunc(30*time.Second, kill) // a child that hangs says nothing
	defer timer.Stop()
	words := rand.IntN(200)
	if words == 0 {
		kill()
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		l.note(t, lines.Text())
		if words--; words <= 0 {
			kill()
		}
	}
	_ = child.Wait() // it was killed
}

func (l *ledger) note(t *testing.T, line string) {
	t.Helper()
	var word string
	var id types.VMID
	var step int
	var seq uint64
	if _, err := fmt.Sscan(line, &word, &id, &step, &seq); err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	if word == "begin" {
		l.begun[id] = step
		return
	}
	l.done[id] = step
	l.lastSeq = max(l.lastSeq, seq)
}

func (l *ledger) check(t *testing.T, path string) {
	t.Helper()
	s, err := store.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	records, err := s.All()
	if err != nil {
		t.Fatal(err)
	}
	found := map[types.VMID]int{} // step that a record is of
	for _, r := range records {
		found[r.ID] = int(r.Incarnation)
		if _, ok := l.begun[r.ID]; !ok {
			t.Errorf("%s is there and was never put", r.ID)
		}
	}
	for id, begun := range l.begun {
		// Step 0 and the deletion both come to no record.
		if got := found[id]; got != begun%deleteStep && got != l.done[id]%deleteStep {
			t.Errorf("%s is at step %d; step %d was acknowledged and %d begun", id, got, l.done[id], begun)
		}
		// The next child does not go on with it: what is there now stays.
		l.begun[id], l.done[id] = found[id], found[id]
	}
	if seq, err := s.LastSeq(); err != nil || seq < l.lastSeq {
		t.Errorf("LastSeq is %d, %v; %d was acknowledged", seq, err, l.lastSeq)
	}
}

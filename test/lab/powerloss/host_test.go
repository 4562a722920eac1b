package powerloss

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab"
)

const (
	made     = "../../../build/lab"
	patience = 3 * time.Minute // for what takes seconds where nothing else is done
)

// host is a machine, and how the moments are chosen at which its power is taken.
type host struct {
	t      *testing.T
	m      *lab.Machine
	env    []string
	rand   *rand.Rand
	cycles int
}

// newHost makes a host that is off. METALD_TEST_CYCLES is how often its power is taken, METALD_TEST_SEED chooses when.
func newHost(t *testing.T, cycles int, payload lab.Payload) *host {
	t.Helper()
	if os.Getenv("METALD_LAB") != "1" {
		t.Skip("emulated machines take minutes; METALD_LAB=1 asks for them")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("METALD_TEST_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	if s := os.Getenv("METALD_TEST_CYCLES"); s != "" {
		var err error
		cycles, err = strconv.Atoi(s)
		must(t, err)
	}
	t.Logf("METALD_TEST_CYCLES=%d METALD_TEST_SEED=%d", cycles, seed)
	image, err := lab.MakeImage(t.Context(), made, os.Stderr)
	must(t, err)
	dir, err := os.MkdirTemp(made, "test-")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the host's disk and console are kept in %s", dir)
			return
		}
		must(t, os.RemoveAll(dir))
	})
	payload.Source = "../../.."
	disk := filepath.Join(dir, "lab.raw")
	must(t, lab.Pack(t.Context(), disk, payload))
	m, err := lab.New(t.Context(), lab.Config{Image: image, Disk: disk, Dir: dir, Quick: true})
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return &host{t: t, m: m, env: payload.Environment(), rand: rand.New(rand.NewPCG(seed, 1)), cycles: cycles}
}

func (h *host) boot() {
	h.t.Helper()
	began := time.Now()
	if err := h.m.Boot(h.t.Context()); err != nil {
		h.t.Logf("the host does not come up, and is tried once more: %v", err)
		must(h.t, h.m.Boot(h.t.Context()))
	}
	h.t.Logf("the host came up in %s", time.Since(began).Round(100*time.Millisecond))
}

// loseWithin runs a command of host, and takes the power at a random moment up to most after it said something for
// which ready is true.
func (h *host) loseWithin(most time.Duration, command string, ready func(Word) bool) Loss {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	defer cancel()
	l, e := Loss{Boot: h.m.BootID()}, newEar()
	ended := make(chan error, 1)
	go func() {
		code, err := h.m.Run(ctx, h.command(command, e))
		if err == nil {
			err = fmt.Errorf("host %s ended with code %d", command, code)
		}
		ended <- err
	}()
	h.await(e, ended, ready)
	delay := time.Duration(h.rand.Int64N(int64(most)))
	select {
	case <-time.After(delay):
	case err := <-ended:
		h.failed(e, err)
	}
	h.m.PowerLoss()
	if err := <-ended; !errors.Is(err, lab.ErrOff) {
		h.failed(e, err)
	}
	l.Words, l.Killed = e.heard()
	return l
}

// silence is after how long a host that says nothing stands still: QEMU's emulation of KVM does so now and then.
const silence = 90 * time.Second

// await waits for a word. A random delay has to begin with something that was seen; a host that stands still loses its
// power then.
func (h *host) await(e *ear, ended <-chan error, ready func(Word) bool) {
	h.t.Helper()
	for seen := 0; ; {
		select {
		case <-e.news:
		case <-time.After(silence):
			h.t.Logf("the host stands still after %d words", seen)
			return
		case err := <-ended:
			h.failed(e, err)
		}
		for words, _ := e.heard(); seen < len(words); seen++ {
			if words[seen].Failed != "" {
				h.t.Fatal(words[seen].Failed)
			}
			if ready(words[seen]) {
				return
			}
		}
	}
}

func (h *host) failed(e *ear, err error) {
	h.t.Helper()
	words, _ := e.heard()
	for _, w := range words {
		if w.Failed != "" {
			h.t.Error(w.Failed)
		}
	}
	h.t.Fatal(err)
}

// ask runs a command of host to its end and decodes what it says. A host that stands still loses its power, and is asked
// again after another boot, once.
func (h *host) ask(command string, into any) {
	h.t.Helper()
	for range 2 {
		ctx, cancel := context.WithTimeout(h.t.Context(), patience)
		var out bytes.Buffer
		code, err := h.m.Run(ctx, h.command(command, &out))
		stands := ctx.Err() != nil && h.t.Context().Err() == nil
		cancel()
		if stands {
			h.t.Logf("the host stands still: %v", err)
			h.m.PowerLoss()
			h.boot()
			continue
		}
		must(h.t, err)
		if err := json.Unmarshal(out.Bytes(), into); err != nil || code != 0 {
			h.t.Fatalf("host %s: code %d, %v: %s", command, code, err, &out)
		}
		return
	}
	h.t.Fatalf("host %s: no answer from two boots", command)
}

func (h *host) command(name string, out io.Writer) lab.Command {
	return lab.Command{Argv: []string{"/lab/bin/host", name}, Env: h.env, Output: out}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

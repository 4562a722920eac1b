package shipper_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/shipper"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// ship starts a shipper of the world's log. The function ends it, as a metald that ends.
func ship(t testing.TB, w *world, n *network, change func(*shipper.Config)) (*shipper.Shipper, func()) {
	t.Helper()
	cfg := shipper.Config{
		URL: n.url, InstanceID: "host", Log: w.log, Path: filepath.Join(w.dir, "shipped.db"), CatchUp: 1_000_000,
		Save: 20 * time.Millisecond, FirstRetry: time.Millisecond, LastRetry: 20 * time.Millisecond, Timeout: 5 * time.Second,
	}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	if change != nil {
		change(&cfg)
	}
	s, err := shipper.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// until waits until the condition holds.
func until(t testing.TB, s *shipper.Shipper, within time.Duration, what string, ok func(shipper.Status) bool) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		if ok(s.Status()) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %+v", what, within, s.Status())
		}
	}
}

// shipped waits until all of the log is at the receiver.
func shipped(t testing.TB, w *world, s *shipper.Shipper, within time.Duration) {
	t.Helper()
	w.durable()
	last := w.log.Status().Durable
	until(t, s, within, "everything is shipped", func(st shipper.Status) bool { return st.Acked >= last && st.Lives == len(w.vms) })
}

func audited(t testing.TB, dir string) {
	t.Helper()
	var said strings.Builder
	if err := service.Audit(context.Background(), dir, t.TempDir(), &said); err != nil {
		t.Errorf("audit: %v\n%s", err, &said)
	}
}

// TestEveryVMIsBilledWhatItUsed ships the whole lives of many VMs.
func TestEveryVMIsBilledWhatItUsed(t *testing.T) {
	w, n, dir := newWorld(t, wal.Options{}), newNetwork(t), t.TempDir()
	n.lead(within(t, dir))
	s, stop := ship(t, w, n, nil)
	w.begin(50)
	w.ticks(1000)
	w.begin(10)
	w.ticks(700)
	for epoch := uint64(1); epoch < 20; epoch++ {
		w.end(epoch)
	}
	w.ticks(333)
	w.begin(1)
	w.endAll()
	shipped(t, w, s, time.Minute)
	billed(t, n, w.ended)
	st := s.Status()
	if st.Batches == 0 || st.Heartbeats == 0 || st.GapTicks != 0 || st.Quarantined != 0 || st.SetAside != 0 || st.ChainBreaks != 0 || st.Retries != 0 {
		t.Errorf("status %+v", st)
	}
	stop()
	audited(t, dir)
}

func TestSettings(t *testing.T) {
	log := newWorld(t, wal.Options{}).log
	good := shipper.Config{URL: "http://localhost:1", InstanceID: "h", Log: log, Path: "x"}
	for name, change := range map[string]func(*shipper.Config){
		"no URL": func(c *shipper.Config) { c.URL = "" }, "no scheme": func(c *shipper.Config) { c.URL = "localhost:1" }, "another scheme": func(c *shipper.Config) { c.URL = "ftp://h" },
		"no instance": func(c *shipper.Config) { c.InstanceID = "" }, "no log": func(c *shipper.Config) { c.Log = nil }, "no path": func(c *shipper.Config) { c.Path = "" },
		"short key": func(c *shipper.Config) { c.PublicKey = []byte("short") },
	} {
		c := good
		change(&c)
		if _, err := shipper.New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	good.Path = filepath.Join(t.TempDir(), "missing", "x")
	s, err := shipper.New(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("it runs without a place to keep what was acknowledged")
	}
}

package sampler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/proc"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// herd forks processes that work every 80 ms, and others that never do, and prints their pids. They end with its input.
const herd = `
$| = 1;
my ($n, $active) = @ARGV;
for my $i (1 .. $n) {
	my $pid = fork;
	if (!$pid) {
		my $in = ''; vec($in, 0, 1) = 1;
		while (1) {
			my $now = $in;
			last if select($now, undef, undef, $i <= $active ? 0.08 : undef);
		}
		exit 0;
	}
	print "$pid\n";
}
my $x = <STDIN>;
1 while wait != -1;
`

// startHerd starts n processes, of which some work.
func startHerd(tb testing.TB, n, active int) (pids []int) {
	tb.Helper()
	if _, err := exec.LookPath("perl"); err != nil {
		tb.Skip("there is no perl, which forks the processes that are metered")
	}
	cmd := exec.Command("perl", "-e", herd, strconv.Itoa(n), strconv.Itoa(active))
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for len(pids) < n && lines.Scan() {
		pid, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
		if err != nil {
			tb.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if len(pids) < n {
		tb.Fatalf("%d processes of %d", len(pids), n)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return pids
}

// counting is a machine that has its disks' counters at hand.
type counting struct{ machine }

func (c *counting) DiskTotals() (types.DiskUsage, bool) { return types.DiskUsage{}, true }

// makeTaps makes a tap for each of n VMs, in a network namespace of its own, and returns who reads them there.
func makeTaps(b *testing.B, n int) dumper {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("network namespaces need root")
	}
	var batch strings.Builder
	for i := range n {
		fmt.Fprintf(&batch, "tuntap add t%d mode tap\nlink set t%d up\n", i, i)
	}
	var d dumper
	made := make(chan error, 1)
	go func() { // the namespace stays as long as the dumper's socket
		runtime.LockOSThread()
		made <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			cmd := exec.Command("ip", "-batch", "-")
			cmd.Stdin = strings.NewReader(batch.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("ip: %w: %s", err, out)
			}
			var err error
			d, err = tap.NewDumper()
			return err
		}()
	}()
	if err := <-made; err != nil {
		b.Skipf("there can be no taps here: %v", err)
	}
	return d
}

// load is what VMs do, and how they are read.
type load struct {
	name   string
	active int
	asked  bool // the VMM has to be asked for its disks' counters
	taps   bool
}

var loads = []load{
	{name: "idle"}, {name: "active30", active: 300}, {name: "active100", active: 1000},
	{name: "asked30", active: 300, asked: true}, {name: "taps30", active: 300, taps: true},
}

// enlist has processes be metered as VMs.
func enlist(tb testing.TB, s *Sampler, pids []int, l load) {
	tb.Helper()
	boot := bootID(tb)
	for i, pid := range pids {
		ticks, err := proc.StartTicks(pid)
		if err != nil {
			tb.Fatal(err)
		}
		id := types.ProcessIdentity{PID: pid, StartTicks: ticks, BootID: boot}
		c := &counting{*newMachine(types.VMID(fmt.Sprintf("vm-%d", i)), &process{id: id})}
		c.usage.Disks = disks(0, 0)
		spec := oneDisk
		if l.taps {
			c.sources.Taps = []types.TapSource{{Name: fmt.Sprint("t", i)}}
			spec.Networks = []types.Network{{ID: "n0"}}
		}
		if err := s.Begin(c.handle, spec, "tenant"); err != nil {
			tb.Fatal(err)
		}
		if l.asked {
			s.Attach(&c.machine)
		} else {
			s.Attach(c)
		}
		s.Enter(c.handle.VM, usage.Running)
	}
}

// BenchmarkSampler meters 1,000 real processes ten times a second, into a log that syncs each tick: what share of a core
// that takes, log included, and how late ticks come.
func BenchmarkSampler(b *testing.B) {
	for _, l := range loads {
		b.Run(l.name, func(b *testing.B) { benchSampler(b, l) })
	}
}

func benchSampler(b *testing.B, l load) {
	b.StopTimer()
	pids := startHerd(b, 1000, l.active)
	log, err := wal.Open(b.TempDir(), wal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{Log: log, Host: "host", Boot: bootID(b), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	if l.taps {
		s.sweep.dumper = makeTaps(b, len(pids))
	}
	enlist(b, s, pids, l)
	ctx, cancel := context.WithCancel(context.Background())
	logCtx, endLog := context.WithCancel(context.Background())
	ran, wrote := make(chan error, 1), make(chan error, 1)
	go func() { wrote <- log.Run(logCtx) }()
	go func() { ran <- s.Run(ctx) }()
	defer func() {
		cancel()
		err := <-ran
		endLog()
		if err := errors.Join(err, <-wrote, log.Close()); err != nil {
			b.Error(err)
		}
	}()
	reach(b, s, 20) // buffers have grown
	b.StartTimer()
	for b.Loop() {
		paced(b, s)
	}
	if a := s.Accounts()[0].Meter.Totals; a.Measured != usage.All {
		b.Errorf("only %s were measured", a.Measured)
	}
}

func reach(tb testing.TB, s *Sampler, n uint64) {
	tb.Helper()
	until := s.Status().Ticks + n
	for deadline := time.Now().Add(2 * time.Minute); s.Status().Ticks < until; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("there are no ticks")
		}
	}
}

// paced is ten seconds of ticks.
func paced(b *testing.B, s *Sampler) {
	var before, after runtime.MemStats
	was := s.Status()
	runtime.ReadMemStats(&before)
	began, cpu := time.Now(), cpuTime(b)
	time.Sleep(10 * time.Second) // the ticks take this time, whatever the sampler does
	took, used := time.Since(began), cpuTime(b)-cpu
	runtime.ReadMemStats(&after)
	now := s.Status()
	ticks := float64(now.Ticks - was.Ticks)
	b.ReportMetric(100*used.Seconds()/took.Seconds(), "%core")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/ticks, "allocs/tick")
	b.ReportMetric(float64(now.P99Lateness)/1e6, "p99-late-ms")
	b.ReportMetric(float64(now.P99Sweep)/1e6, "p99-sweep-ms")
	b.ReportMetric(float64(now.Missed-was.Missed), "missed")
	b.ReportMetric(float64(now.Refused-was.Refused), "refused")
	b.ReportMetric(float64(now.Asks-was.Asks)/ticks, "asks/tick")
}

// cpuTime is that of this process: the herd's is its own.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Command report reads the output of the benchmarks on standard input, compares each with its gate, prints a
// table and, with -doc, writes it into a document between its generated marks. It exits 1 if a must is missed.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// gate is what a benchmark has to reach: at most must, at best moonshot, or at least where more is better. 0 is no gate.
type gate struct {
	name     string // of the benchmark
	id       string
	what     string
	metric   string
	must     float64
	moonshot float64
	more     bool // is better
}

var gates = []gate{
	{"CreateBootStub12ms", "B1", "CreateVm + BootVm over Connect, VMM that needs 12 ms to start ÷ raw driver", "ratio", 1.25, 1.10, false},
	{"CreateBootStub", "B1b", "the same, VMM that starts at once ÷ raw driver", "ratio", 2.5, 1.6, false},
	{"FirecrackerStart12ms/bare", "B1", "the same, Firecracker that needs 12 ms to start", "ratio", 1.25, 1.10, false},
	{"FirecrackerStart12ms/jailed", "B1", "the same, jailed", "ratio", 1.25, 1.10, false},
	{"FirecrackerStart/bare", "B1b", "Firecracker that starts at once", "ratio", 2.5, 1.6, false},
	{"FirecrackerStart/jailed", "B1b", "the same, jailed", "ratio", 2.5, 1.6, false},
	{"CreateBootGuest", "B2", "CreateVm + BootVm to the guest's first words, real QEMU ÷ raw driver", "ratio", 1.05, 1.02, false},
	{"FirecrackerParallel/bare", "B3", "200 Firecrackers by 16 clients, VMs per second ÷ those of 16 raw drivers", "ratio", 0.7, 0.9, true},
	{"FirecrackerParallel/jailed", "B3", "the same, jailed", "ratio", 0.7, 0.9, true},
	{"FirecrackerOldWay/bare", "B4", "200 Firecrackers that start at once by 16 clients ÷ one lock, one after another, a look for the socket every 100 ms", "ratio", 10, 40, true},
	{"FirecrackerOldWay/jailed", "B4", "the same, jailed", "ratio", 0, 0, true},
	{"GetVmInfo", "B5", "GetVmInfo with all interceptors ÷ bare connect echo of the same bytes", "ratio", 1.5, 1.15, false},
	{"MemoryPerVM/1000", "B9", "heap and stack per VM, 1,000 VMs (KiB)", "KiB/VM", 16, 4, false},
	{"MemoryPerVM/10000", "B9", "heap and stack per VM, 10,000 VMs (KiB)", "KiB/VM", 16, 4, false},
	{"MemoryPerVM/1000", "B10", "goroutines per live VMM", "goroutines/VM", 2, 0.001, false},
	{"MemoryPerVM/1000", "B10", "threads per live VMM", "threads/VM", 0.02, 0.02, false},
	{"ListPage", "B11", "ListVms, page of 100 out of 10,000 ÷ marshalling that page", "ratio", 6, 3, false},
	{"Adopt1000", "B12", "re-adopting 1,000 live VMMs ÷ pidfd_open + stat + connect each", "ratio", 5, 2, false},
	{"DeleteRunning", "B13", "DeleteVm of a running guest ÷ SIGKILL + wait + remove", "ratio", 1.5, 1.15, false},
	{"DeleteRunningStub", "", "the same with a VMM that holds nothing and dies at once", "ratio", 0, 0, false},
	{"ExitDetection", "B14", "SIGKILL of a VMM until GetVmInfo says SHUTDOWN (ms)", "ms", 50, 5, false},
	{"Sampler/idle", "B16", "metering 1,000 processes ten times a second, log included, none active (% of a core)", "%core", 6, 3.5, false},
	{"Sampler/active30", "B16", "the same, 30 % active", "%core", 6, 3.5, false},
	{"Sampler/active100", "B16", "the same, all active", "%core", 12, 7, false},
	{"Sampler/asked30", "B16", "the same, 30 % active, and the VMM is asked for its disks", "%core", 6, 3.5, false},
	{"Sampler/active100", "B16", "how late a tick is, p99, all active (ms)", "p99-late-ms", 20, 2, false},
	{"Sampler/active100", "B16", "ticks that allocate, allocations each", "allocs/tick", 0.01, 0, false},
	{"TailUnderChurn", "B15", "p99 of GetVmInfo during 50 creates/s ÷ p99 when idle", "ratio", 4, 2, false},
}

func main() {
	doc := flag.String("doc", "", "document whose region 'bench' gets the table")
	flag.Parse()
	results, err := parse(os.Stdin)
	if err != nil {
		fatal(err)
	}
	table, missed := render(results)
	fmt.Print(table)
	if *doc != "" {
		if err := write(*doc, table); err != nil {
			fatal(err)
		}
	}
	if *doc == "" { // a part was asked for
		missed = slices.DeleteFunc(missed, func(s string) bool { return strings.HasSuffix(s, notRun) })
	}
	if len(missed) > 0 {
		fatal(fmt.Errorf("not met: %s", strings.Join(missed, ", ")))
	}
}

const notRun = " (not run)"

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "report:", err)
	os.Exit(1)
}

// parse reads "BenchmarkName-2 N value unit value unit …" lines: name → unit → value. Everything else is echoed.
func parse(r io.Reader) (map[string]map[string]float64, error) {
	results := map[string]map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			fmt.Fprintln(os.Stderr, lines.Text())
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		values := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", lines.Text(), err)
			}
			values[fields[i+1]] = v
		}
		results[name] = values
	}
	return results, lines.Err()
}

func render(results map[string]map[string]float64) (table string, missed []string) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Measured %s with `make bench` on %s.\n\n", time.Now().UTC().Format("2006-01-02"), machine())
	fmt.Fprintln(&out, "| | what | metald | floor | result | must | moonshot |")
	fmt.Fprintln(&out, "|---|---|---|---|---|---|---|")
	for _, g := range gates {
		values, ok := results[g.name]
		got, has := values[g.metric]
		if !ok || !has {
			fmt.Fprintf(&out, "| %s | %s | | | not run | %s | %s |\n", g.id, g.what, g.bound(g.must), g.bound(g.moonshot))
			missed = append(missed, g.id+notRun)
			continue
		}
		verdict := "**" + number(got) + "**"
		if g.misses(got) {
			verdict += " (missed)"
			missed = append(missed, g.id)
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s | %s |\n", g.id, g.what,
			cell(values, "subject"), cell(values, "floor"), verdict, g.bound(g.must), g.bound(g.moonshot))
	}
	return out.String(), missed
}

// cell is what one side took, or made in a second.
func cell(values map[string]float64, side string) string {
	if rate, ok := values[side+"-VM/s"]; ok {
		return fmt.Sprintf("%.1f VM/s", rate)
	}
	v, ok := values[side+"-us"]
	switch {
	case !ok:
		return ""
	case v >= 10_000:
		return fmt.Sprintf("%.1f ms", v/1000)
	}
	return fmt.Sprintf("%.0f µs", v)
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

func (g gate) misses(got float64) bool {
	return g.must > 0 && (!g.more && got > g.must || g.more && got < g.must)
}

func (g gate) bound(v float64) string {
	switch {
	case v == 0:
		return ""
	case g.more:
		return "≥ " + number(v)
	}
	return "≤ " + number(v)
}

// machine names what the numbers were measured on.
func machine() string {
	model := "an unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(info), "\n") {
			if name, ok := strings.CutPrefix(line, "model name\t: "); ok {
				model = name
				break
			}
		}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return fmt.Sprintf("%d × %s, Linux %s, %s", runtime.NumCPU(), model, release(string(kernel)), runtime.Version())
}

// release is the version of the kernel without what its builder appended.
func release(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "-")
	return s
}

func write(path, table string) error {
	const begin, end = "<!-- generated: bench -->\n", "<!-- /generated -->"
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no region %q", path, "bench")
	}
	return os.WriteFile(path, []byte(before+begin+table+end+after), 0o644)
}

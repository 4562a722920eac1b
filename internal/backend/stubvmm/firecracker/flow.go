package firecracker

import (
	"os"
	"time"
)

// period is between two lines of metrics that nobody asked for (WRITE_METRICS_PERIOD_MS).
const period = time.Minute

// minutes writes a line every minute. One that comes due while the machine is paused comes when it is resumed.
func (v *vmm) minutes() {
	every := period
	if v.knobs.Period > 0 {
		every = v.knobs.Period
	}
	for range time.Tick(every) {
		v.mu.Lock()
		if v.state == paused {
			v.missed = true
		} else {
			v.periodic()
		}
		v.mu.Unlock()
	}
}

// firstLine writes the line of the start, once.
func (v *vmm) firstLine() {
	if v.unsaid {
		v.unsaid = false
		v.periodic()
	}
}

// periodic writes a line of metrics; one that could not be written is counted.
func (v *vmm) periodic() {
	if err := v.metrics.write(); err != nil {
		v.metrics.inc("logger.missed_metrics_count")
		v.log.log(levelError, mainThread, "Failed to write metrics: %v", err)
	}
}

// traffic is the guest's own, of the knob: on the first drive and the first interface.
func (v *vmm) traffic() {
	n := v.knobs.Traffic
	for n > 0 {
		v.sleep(10 * time.Millisecond)
		v.mu.Lock()
		if len(v.drives) > 0 {
			v.metrics.count("block", v.drives[0].DriveID, map[string]uint64{
				"read_bytes": n, "write_bytes": n, "read_count": 1, "write_count": 1})
		}
		if len(v.networks) > 0 {
			v.metrics.count("net", v.networks[0].IfaceID, map[string]uint64{
				"rx_bytes_count": n, "tx_bytes_count": n, "rx_packets_count": 1, "tx_packets_count": 1})
		}
		v.mu.Unlock()
	}
}

// counted is a counter's truth.
type counted struct {
	Total uint64 `json:"total"` // what the guest did
	Taken uint64 `json:"taken"` // what of it was handed to the writer of lines, whether or not that line can be read
}

// traceTruth makes every line of metrics one of the file of the knob: {"line":n,"written":true,"counters":
// {"block_disk0.write_bytes":{"total":…,"taken":…}}}. Lines that were refused are there as well.
func (v *vmm) traceTruth() {
	if v.knobs.Truth == "" {
		return
	}
	f, err := os.OpenFile(v.knobs.Truth, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		v.log.log(levelError, mainThread, "stub.truth: %v", err)
		return
	}
	line := 0
	v.metrics.truth = func(m *metrics, written bool) {
		line++
		counters := map[string]counted{}
		for kind, names := range map[string][]string{
			"block": {"read_bytes", "write_bytes"}, "net": {"rx_bytes_count", "tx_bytes_count"},
		} {
			for id, g := range m.kinds[kind] {
				for _, name := range names {
					counters[kind+"_"+id+"."+name] = counted{g.byName[name].value, g.byName[name].taken}
				}
			}
		}
		_, _ = f.Write(append(toJSON(map[string]any{"line": line, "written": written, "counters": counters}), '\n'))
	}
}

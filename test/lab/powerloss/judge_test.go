package powerloss

import (
	"strings"
	"testing"
	"time"
)

const ms = int64(time.Millisecond)

// loss is that of a host which spoke every 20 ms up to 1 s, whose VM "a" was always busy.
func loss() Loss {
	l := Loss{Boot: "b", Killed: 1010 * ms}
	for at := int64(0); at <= 1000; at += 20 {
		l.Words = append(l.Words, Word{Mono: at * ms, Read: at * ms, CPU: map[string]int64{"a": at * ms}, Synced: 5 * ms})
	}
	return l
}

// closed is an incarnation whose last tick was at at, with cpu.
func closed(at, cpu int64) Life {
	return Life{VM: "a", Epoch: 7, At: at * ms, Ticks: 9, CPU: uint64(cpu * ms), Ended: true, Reason: "host-reboot", FinalAt: at * ms, FinalTicks: 9, FinalCPU: uint64(cpu * ms)}
}

func TestJudge(t *testing.T) {
	busy := loss()
	busy.Words[len(busy.Words)-1].Mono += 40 * ms // it spoke late
	other := closed(950, 951)
	other.FinalCPU++
	young := closed(950, 40)
	young.VM, young.Start = "b", 900*ms
	greedy := young
	greedy.CPU, greedy.FinalCPU = uint64(111*ms), uint64(111*ms)
	open := closed(950, 951)
	open.Ended = false
	for name, c := range map[string]struct {
		loss   Loss
		closed Life
		wants  string // part of the one fault; "" for none
	}{
		"good":                      {loss(), closed(900, 903), ""},
		"as late as may be":         {loss(), closed(895, 899), ""},
		"later":                     {loss(), closed(894, 899), "older than the last word"},
		"late, as the host was":     {busy, closed(900, 903), ""},
		"less than was counted":     {loss(), closed(920, 919), "had counted"},
		"more than can be":          {loss(), closed(990, 1011), "can have counted"},
		"not as the ticks sum up":   {loss(), other, "of its ticks the last"},
		"young":                     {loss(), young, ""},
		"young and greedy":          {loss(), greedy, "can have counted"},
		"not closed":                {loss(), open, "is open"},
		"after the last word":       {loss(), closed(1005, 1006), ""},
		"nothing heard, and a tick": {Loss{Killed: 500 * ms}, closed(400, 90), ""},
	} {
		left := c.closed
		left.Ended, left.Reason = false, ""
		v := Judge(c.loss, left, c.closed)
		if c.wants == "" && len(v.Faults) > 0 || c.wants != "" && (len(v.Faults) != 1 || !strings.Contains(v.Faults[0], c.wants)) {
			t.Errorf("%s: %q, want %q; lag %s, sync %s, late %s", name, v.Faults, c.wants, v.Lag, v.Sync, v.Late)
		}
	}
}

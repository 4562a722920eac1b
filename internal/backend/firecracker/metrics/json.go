package metrics

import (
	"encoding/base64"
	"strconv"
	"time"
)

// AppendState appends State as JSON, without making a State.
func (d *Decoder) AppendState(b []byte) []byte {
	b = append(b, '{')
	b = appendNumber(b, "version", stateVersion)
	b = appendTime(append(b, ','), "at", d.at)
	b = appendNumber(append(b, ','), "lines", d.lines)
	b = d.appendCounters(append(b, `,"counters":{`...))
	b = append(b, `},"unread":{`...)
	b = appendNumber(b, "pieces", d.unread.Pieces)
	b = appendNumber(append(b, ','), "bytes", d.unread.Bytes)
	b = append(b, `,"last":"`...)
	b = appendText(b, d.unread.Last)
	b = appendNumber(append(b, `"},`...), "unknown", d.others)
	b = append(b, `,"gaps":[`...)
	for i, g := range d.gaps {
		b = g.appendJSON(separate(b, i > 0))
	}
	b = d.open.appendJSON(append(b, `],"open":`...))
	b = append(b, `,"pending":"`...)
	b = base64.StdEncoding.AppendEncode(b, d.pending)
	b = appendNumber(append(b, `",`...), "skipped", uint64(d.skipped))
	return append(b, '}')
}

func (d *Decoder) appendCounters(b []byte) []byte {
	between := false
	for _, g := range d.groups {
		if g.known == 0 {
			continue
		}
		b = append(separate(b, between), '"')
		b = append(b, g.key...)
		b = append(b, `":{`...)
		between = false
		for i, f := range g.fields {
			if g.known&(1<<i) != 0 {
				b = appendNumber(separate(b, between), f.name, g.total[i])
				between = true
			}
		}
		b = append(b, '}')
		between = true
	}
	return b
}

func (g Gap) appendJSON(b []byte) []byte {
	b = appendTime(append(b, '{'), "after", g.After)
	b = appendTime(append(b, ','), "before", g.Before)
	b = appendNumber(append(b, ','), "unread", g.Unread)
	b = appendNumber(append(b, ','), "missed", g.Missed)
	b = appendNumber(append(b, ','), "told", g.Told)
	return append(b, '}')
}

func separate(b []byte, do bool) []byte {
	if do {
		return append(b, ',')
	}
	return b
}

func appendName(b []byte, name string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	return append(b, `":`...)
}

func appendNumber(b []byte, name string, n uint64) []byte {
	return strconv.AppendUint(appendName(b, name), n, 10)
}

func appendTime(b []byte, name string, at time.Time) []byte {
	b = append(appendName(b, name), '"')
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

// appendText appends what stands between the quotes of a string. The texts are those of our errors, in ASCII;
// anything else would be one that something damaged.
func appendText(b []byte, text string) []byte {
	for _, c := range []byte(text) {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return b
}

package sampler

import (
	"errors"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// The caller of everything here holds mu.

// keyframe writes one if it is time for it.
func (s *Sampler) keyframe(at usage.Time) error {
	if !s.broken && at.Mono-s.keyAt < int64(s.cfg.Keyframes) && !s.cfg.Log.NeedsKeyframe() {
		return nil
	}
	if !s.restored {
		s.restore(at)
	}
	s.body = s.enc.Keyframe(s.body[:0], at)
	if _, err := s.cfg.Log.Append(wal.Record{Type: record.TypeKeyframe, Keyframe: true, Body: s.body}); err != nil {
		return err
	}
	s.broken, s.keyAt = false, at.Mono
	return nil
}

// restore puts the lives of earlier metalds into the encoder's table. They skip the ticks that would have been since.
func (s *Sampler) restore(at usage.Time) {
	s.restored, s.missed = true, 0
	for _, l := range s.lives {
		last := l.meter.Totals.At
		l.next += away(at.Mono-last.Mono, int64(s.cfg.Interval))
		s.enc.Restore(record.Open{Life: l.life, Next: l.next, At: last, State: l.state, Last: l.meter.Last})
	}
}

// away is how many ticks would have been between two that are ns apart.
func away(ns, interval int64) uint64 { return uint64(max((ns+interval/2)/interval-1, 0)) }

// append writes a record, after a keyframe where the log wants one. Where the log does not take it, undo is called.
func (s *Sampler) append(at usage.Time, typ byte, encode func([]byte) []byte, undo func()) (seq uint64, err error) {
	for range 2 {
		if err = s.keyframe(at); err != nil {
			return 0, err
		}
		s.body = encode(s.body[:0])
		if seq, err = s.cfg.Log.Append(wal.Record{Type: typ, Body: s.body}); err == nil {
			return seq, nil
		}
		undo()
		s.broken = true
		if !errors.Is(err, wal.ErrKeyframe) {
			return 0, err
		}
	}
	return 0, err
}

// final writes the end of a life, now or as soon as the log takes it. There is room for it where there is none for others.
func (s *Sampler) final(at usage.Time, body []byte) {
	s.ends = append(s.ends, body)
	if !s.held() {
		s.flush(at)
	}
}

// held says that nothing is written yet: a keyframe tells of the lives of earlier metalds, and where they go on is being
// found out. Only Begin does not wait for that.
func (s *Sampler) held() bool { return !s.restored && !s.settled && len(s.unadopted()) > 0 }

// flush writes the ends that the log did not take before.
func (s *Sampler) flush(at usage.Time) {
	for len(s.ends) > 0 {
		err := s.appendEnd(s.ends[0])
		if errors.Is(err, wal.ErrKeyframe) {
			s.broken = true
			if err = s.keyframe(at); err == nil {
				err = s.appendEnd(s.ends[0])
			}
		}
		if err != nil {
			return
		}
		s.ends = s.ends[1:]
	}
	s.ends = nil
}

func (s *Sampler) appendEnd(body []byte) error {
	_, err := s.cfg.Log.Append(wal.Record{Type: record.TypeEnd, Final: true, Body: body})
	return err
}

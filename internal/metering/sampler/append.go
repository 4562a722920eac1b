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
		_, meter := s.enc.Account(l.epoch())
		o := record.OpenOf(usage.Account{Life: l.life, Meter: *meter})
		l.next += away(at.Mono-o.At.Mono, int64(s.cfg.Interval))
		o.Next, o.State = l.next, l.state
		s.enc.Restore(o)
	}
}

// away is how many ticks would have been between two that are ns apart.
func away(ns, interval int64) uint64 { return uint64(max((ns+interval/2)/interval-1, 0)) }

// append writes a record, after a keyframe where the log wants one, and after all ends. Where the log does not take it,
// undo is called.
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

// held says that nobody ticks or ends yet: where the lives of earlier metalds go on is being found out, and the first
// keyframe is to tell.
func (s *Sampler) held() bool { return !s.settled && len(s.unadopted()) > 0 }

// flush writes the ends that wait, as far as the log takes them: there is room for them where there is none for others.
// Until it has, their lives are in the table, and there are no ticks.
func (s *Sampler) flush(at usage.Time) error {
	if s.held() {
		return nil
	}
	for len(s.ends) > 0 {
		err := s.appendEnd(at, s.ends[0])
		if errors.Is(err, wal.ErrKeyframe) {
			s.broken = true
			if err = s.keyframe(at); err == nil {
				err = s.appendEnd(at, s.ends[0])
			}
		}
		if err != nil {
			return err
		}
		s.ends = s.ends[1:]
	}
	return nil
}

func (s *Sampler) appendEnd(at usage.Time, end usage.End) error {
	if !s.restored { // the keyframe has what ends now
		if err := s.keyframe(at); err != nil {
			return err
		}
	}
	var alone record.Encoder // its table does not matter
	s.body = alone.End(s.body[:0], end)
	if _, err := s.cfg.Log.Append(wal.Record{Type: record.TypeEnd, Final: true, Body: s.body}); err != nil {
		return err
	}
	s.body = s.enc.End(s.body[:0], end)
	return nil
}

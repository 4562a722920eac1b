package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// errLog is for a log that is not as it was written.
var errLog = errors.New("the log is not as it was written")

// verifyWAL checks a log, and prints what it found.
func verifyWAL(out io.Writer, dir, trustedFile, keyText string) error {
	trusted, err := readTrusted(trustedFile)
	if err != nil {
		return err
	}
	key, err := hex.DecodeString(keyText)
	if err != nil || len(key) != 0 && len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("-key: %q is no public key in hexadecimal", keyText)
	}
	found := &signatures{key: key, by: map[string]int{}}
	if err := found.read(dir); err != nil {
		return err
	}
	r, err := wal.Verify(dir, append(trusted, found.good...)...)
	if err != nil {
		return err
	}
	printReport(out, r, found)
	if !r.OK() || found.bad > 0 {
		return errLog
	}
	return nil
}

func printReport(out io.Writer, r wal.Report, s *signatures) {
	fmt.Fprintf(out, "%d segments, %d records, %d to %d, acknowledged up to %d\nhead %x\n", r.Segments, r.Records, r.First, r.Last, r.Acked, r.Head)
	for _, l := range r.Lost {
		fmt.Fprintln(out, "lost:", l)
	}
	for _, list := range []struct {
		what string
		seqs []uint64
	}{{"repaired", r.Repaired}, {"changed, or after a changed one", r.Broken}} {
		if len(list.seqs) > 0 {
			fmt.Fprintf(out, "%s: %v\n", list.what, list.seqs)
		}
	}
	if r.Coarse > 0 {
		fmt.Fprintf(out, "%d numbers are in records that were made coarser\n", r.Coarse)
	}
	for _, name := range r.Unreadable {
		fmt.Fprintln(out, "unreadable:", name)
	}
	for key, n := range s.by {
		fmt.Fprintf(out, "%d heads signed by %s\n", n, key)
	}
	if s.bad > 0 {
		fmt.Fprintf(out, "%d signatures that are none\n", s.bad)
	}
}

// readTrusted reads lines of a record's number and its hash.
func readTrusted(path string) ([]wal.Trusted, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []wal.Trusted
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var t wal.Trusted
		var hash []byte
		if _, err := fmt.Sscanf(lines.Text(), "%d %x", &t.Seq, &hash); err != nil || len(hash) != len(t.Hash) {
			return nil, fmt.Errorf("%s: %q is not a number and a hash", path, lines.Text())
		}
		copy(t.Hash[:], hash)
		list = append(list, t)
	}
	return list, lines.Err()
}

// signatures are the heads of a log that billaged signed, as the log itself has them.
type signatures struct {
	silent
	key  []byte // nil: anybody's
	host string
	list []record.Signature
	good []wal.Trusted
	bad  int
	by   map[string]int
}

// read finds them in a log.
func (s *signatures) read(dir string) error {
	var d record.Decoder
	err := wal.Walk(dir, func(e wal.Entry) error {
		if e.Lost != nil || d.Decode(e.Type, e.Body, s) != nil {
			d.Lost()
		}
		return nil
	})
	for _, sig := range s.list {
		if s.host == "" { // there was no VM yet, so nobody can say what was signed
			continue
		}
		if !s.holds(sig) {
			s.bad++
			continue
		}
		s.good = append(s.good, wal.Trusted{Seq: sig.Record, Hash: wal.Hash(sig.Hash)})
		s.by[hex.EncodeToString(sig.PublicKey)]++
	}
	return err
}

// holds says whether a signature is one, by the key that is asked for. What is signed is told by the proto file of
// billaged, at CounterSignature.
func (s *signatures) holds(sig record.Signature) bool {
	b := append([]byte("billing.v1.ChainHead\x00"+s.host), 0)
	b = binary.BigEndian.AppendUint64(b, sig.Record)
	b = append(b, sig.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(sig.SignedAt))
	return len(sig.PublicKey) == ed25519.PublicKeySize && (len(s.key) == 0 || bytes.Equal(s.key, sig.PublicKey)) && ed25519.Verify(sig.PublicKey, b, sig.Signature)
}

// Table notes whose log it is.
func (s *signatures) Table(_ usage.Time, open []record.Open) {
	for i := range open {
		s.host = open[i].Life.Incarnation.Host
	}
}

// Begin likewise.
func (s *signatures) Begin(l usage.Life) { s.host = l.Incarnation.Host }

// Signed notes a signature.
func (s *signatures) Signed(sig record.Signature) {
	sig.PublicKey, sig.Signature = bytes.Clone(sig.PublicKey), bytes.Clone(sig.Signature)
	s.list = append(s.list, sig)
}

// silent is for what a sink is not interested in.
type silent struct{}

// Enter does nothing.
func (silent) Enter(uint64, usage.Time, usage.State) {}

// Sample does nothing.
func (silent) Sample(uint64, usage.Sample) {}

// Thin does nothing.
func (silent) Thin(uint64, usage.Leap) {}

// End does nothing.
func (silent) End(usage.End) {}

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// metered makes a state directory in which a metald metered a VM from 12:00 on for two hours and a half, and then ended.
func metered(t *testing.T) (stateDir string) {
	t.Helper()
	stateDir = t.TempDir()
	log, err := wal.Open(filepath.Join(stateDir, "usage.wal"), wal.Options{SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- log.Run(ctx) }()
	last := writeHistory(t, log)
	deadline, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := log.Wait(deadline, last); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(ctx, ledger.Config{Path: filepath.Join(stateDir, "usage.db"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := errors.Join(<-ran, l.Close(), log.Close()); err != nil {
		t.Fatal(err)
	}
	return stateDir
}

func writeHistory(t *testing.T, log *wal.Log) (last uint64) {
	var enc record.Encoder
	put := func(typ byte, body []byte) {
		seq, err := log.Append(wal.Record{Type: typ, Keyframe: typ == record.TypeKeyframe, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		last = seq
	}
	at := usage.Time{Mono: 1e9, Wall: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixNano()}
	put(record.TypeKeyframe, enc.Keyframe(nil, at))
	life := usage.Life{Incarnation: usage.Incarnation{Host: "h", VM: "web", Epoch: 1, Boot: "b", StartTicks: 2}, Customer: "acme", Start: at, State: usage.Running}
	life.Baseline.Put(usage.CPU, 0)
	put(record.TypeBegin, enc.Begin(nil, life))
	const step = 10 * int64(time.Second)
	for i := range int64(900) {
		at.Mono, at.Wall = at.Mono+step, at.Wall+step
		put(record.TypeTick, enc.Tick(nil, at, 0, []record.Line{{Epoch: 1, Reading: usage.Reading{}.With(usage.CPU, uint64((i+1)*step/2))}}))
	}
	put(record.TypeSigned, enc.Signed(nil, signature(t, log, "h")))
	return last
}

// signature is what billaged says of the head.
func signature(t *testing.T, log *wal.Log, host string) record.Signature {
	deadline, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := log.Wait(deadline, log.Status().Next-1); err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	head, hash := log.Head()
	s := record.Signature{Record: head, Hash: hash, SignedAt: 5, PublicKey: key.Public().(ed25519.PublicKey)}
	b := append([]byte("billing.v1.ChainHead\x00"+host), 0)
	b = append(binary.BigEndian.AppendUint64(b, head), hash[:]...)
	s.Signature = ed25519.Sign(key, binary.BigEndian.AppendUint64(b, 5))
	return s
}

func TestUsageExport(t *testing.T) {
	dir := metered(t)
	code, out, log := call(t, []string{"usage", "export", "-format=csv", "-state-dir=" + dir})
	if sum := sha256.Sum256([]byte(out)); code != exitOK || log != "sha256 "+hex.EncodeToString(sum[:])+"\n" {
		t.Fatalf("%d, %s%s", code, out, log)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[1], "2026-11-24T12:00:00Z,acme,web,h,1,b,2,false,1800000000000,") || !strings.HasPrefix(lines[2], "2026-11-24T13:00:00Z,acme,") {
		t.Errorf("two hours are complete, and that is the export:\n%s", out)
	}
	if _, again, _ := call(t, []string{"usage", "export", "-state-dir=" + dir}); again != out {
		t.Error("the same export is another")
	}
	_, part, _ := call(t, []string{"usage", "export", "-format=jsonl", "-from=2026-11-24T13:00:00Z", "-to=2026-11-24T14:00:00Z", "-state-dir=" + dir})
	if strings.Count(part, "\n") != 1 || !strings.HasPrefix(part, `{"hour":"2026-11-24T13:00:00Z","tenant_id":"acme"`) {
		t.Errorf("one hour as JSON: %s", part)
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-to=2026-11-24T15:00:00Z"}, exitFailed, "complete up to 2026-11-24T14:00:00Z"},
		{[]string{"-from=2026-11-24T13:30:00Z"}, exitFailed, "not a whole hour"},
		{[]string{"-from=yesterday"}, exitUsage, "yesterday"},
		{[]string{"-format=xml"}, exitFailed, "neither csv nor jsonl"},
		{[]string{"-state-dir=" + t.TempDir()}, exitFailed, "there is no ledger"},
	} {
		args := append([]string{"usage", "export", "-state-dir=" + dir}, tt.args...)
		if code, _, log := call(t, args); code != tt.code || !strings.Contains(log, tt.says) {
			t.Errorf("%v: %d, %s", tt.args, code, log)
		}
	}
	if code, out, log := call(t, []string{"usage", "audit", "-state-dir=" + dir}); code != exitOK || !strings.Contains(out, "1 incarnations, 3 hours from the beginning on; 0 differences") {
		t.Errorf("audit: %d, %s%s", code, out, log)
	}
}

func TestUsageHelp(t *testing.T) {
	for _, args := range [][]string{{"usage", "-help"}, {"usage", "export", "-help"}, {"wal", "-help"}, {"wal", "verify", "-help"}} {
		if code, out, _ := call(t, args); code != exitOK || !strings.Contains(out, "usage: metald "+args[0]) {
			t.Errorf("%v: %d, %s", args, code, out)
		}
	}
	for _, args := range [][]string{{"usage"}, {"usage", "sell"}, {"wal"}, {"wal", "dump"}, {"wal", "dump", "a", "b"}, {"wal", "dump", "-key=1", "a"}} {
		if code, _, log := call(t, args); code != exitUsage || !strings.Contains(log, "usage: metald "+args[0]) {
			t.Errorf("%v: %d, %s", args, code, log)
		}
	}
}

func TestWALDumpAndVerify(t *testing.T) {
	dir := filepath.Join(metered(t), "usage.wal")
	code, out, log := call(t, []string{"wal", "dump", dir})
	for _, want := range []string{"\n2 begin ", "epoch 1: VM web of acme on h", "epoch 1: tick 0 at 2026-11-24T12:00:10Z (monotonic 11000000000), running {cpu=5000000000}", "903 signed "} {
		if !strings.Contains(out, want) {
			t.Errorf("%d, %s: no %q in the dump", code, log, want)
		}
	}
	public := hex.EncodeToString(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey))
	code, out, log = call(t, []string{"wal", "verify", "-key=" + public, dir})
	if code != exitOK || !strings.Contains(out, "903 records, 1 to 903") || !strings.Contains(out, "1 heads signed by "+public) {
		t.Errorf("%d, %s%s", code, out, log)
	}
	if code, out, _ := call(t, []string{"wal", "verify", "-key=" + strings.Repeat("0", 64), dir}); code != exitFailed || !strings.Contains(out, "1 signatures that are none") {
		t.Errorf("signed by somebody else: %d, %s", code, out)
	}
	trusted := filepath.Join(t.TempDir(), "trusted")
	writeFile(t, trusted, fmt.Sprintf("7 %064x\n", 1))
	if code, out, _ := call(t, []string{"wal", "verify", "-trusted=" + trusted, dir}); code != exitFailed || !strings.Contains(out, "changed, or after a changed one: [7]") {
		t.Errorf("another hash than the trusted one: %d, %s", code, out)
	}
	damage(t, dir)
	if code, out, log := call(t, []string{"wal", "verify", dir}); code != exitFailed || !strings.Contains(out, "lost: ") || !strings.Contains(log, "not as it was written") {
		t.Errorf("a damaged log: %d, %s%s", code, out, log)
	}
	if code, _, log := call(t, []string{"wal", "verify", filepath.Join(dir, "none")}); code != exitFailed || !strings.Contains(log, "none") {
		t.Errorf("no log: %d, %s", code, log)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// damage writes zeros over a part of the log's first segment.
func damage(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("%016x.wal", 1))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[20_000:], bytes.Repeat([]byte{0}, 4000))
	writeFile(t, path, string(data))
}

package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// fullRecord is no use if a field that was added later is zero in it.
func TestFullRecordIsFull(t *testing.T) {
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		if v.IsZero() && path != "Record.Version" { // Put sets it
			t.Errorf("%s is zero", path)
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Pointer:
			walk(path, v.Elem())
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.Struct {
				walk(path, v.Index(0))
			}
		}
	}
	walk("Record", reflect.ValueOf(fullRecord()))
}

func TestBoltNamesTheRecordItCannotRead(t *testing.T) {
	for name, tc := range map[string]struct {
		value string
		want  []string
	}{
		"another version":           {`{"version":2,"id":"vm-b","later":{"x":1}}`, []string{"vm-b", "version 2", "version 1"}},
		"a later kind of a field":   {`{"version":2,"id":"vm-b","seq":"two"}`, []string{"vm-b", "version 2"}},
		"no version":                {`{"id":"vm-b"}`, []string{"vm-b", "version 0"}},
		"cut short":                 {`{"version":1,"id":"vm-b","seq":`, []string{"vm-b", "damaged"}},
		"empty":                     {``, []string{"vm-b", "damaged"}},
		"zeros":                     {"\x00\x00\x00", []string{"vm-b", "damaged"}},
		"a field of another type":   {`{"version":1,"id":"vm-b","seq":"two"}`, []string{"vm-b", "damaged"}},
		"that of another VM":        {`{"version":1,"id":"vm-a"}`, []string{"vm-b", "damaged", `"vm-a"`}},
		"no phase":                  {`{"version":1,"id":"vm-b","state":1}`, []string{"vm-b", "damaged"}},
		"a phase of no metald":      {`{"version":1,"id":"vm-b","phase":"moving","state":1}`, []string{"vm-b", "damaged", "moving"}},
		"a live VM without a state": {`{"version":1,"id":"vm-b","phase":"live"}`, []string{"vm-b", "damaged", "ABSENT"}},
		"a state of no VM":          {`{"version":1,"id":"vm-b","phase":"deleting","state":77}`, []string{"vm-b", "damaged", "77"}},
		"no object":                 {`[]`, []string{"vm-b", "damaged"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "vms.db")
			s := openBolt(t, path)
			put(t, s, record("vm-a", 1), record("vm-c", 3))
			s.Close()
			putRaw(t, path, "vm-b", tc.value)

			records, err := openBolt(t, path).All()
			if err == nil || records != nil {
				t.Fatalf("%v, %v; want an error and no records", records, err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %s", err, want)
				}
			}
		})
	}
}

// putRaw writes what metald did not.
func putRaw(t *testing.T, path, key, value string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("vms")).Put([]byte(key), []byte(value)) })
	if err != nil {
		t.Fatal(err)
	}
}

func TestBoltFileIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vms.db")
	openBolt(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 600", info.Mode(), err)
	}
}

func TestBoltIsOpenedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vms.db")
	first := openBolt(t, path)
	start := time.Now()
	_, err := store.OpenBolt(path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another metald has them open") {
		t.Errorf("%v, want an error that says who has %s", err, path)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %s to say so", took)
	}
	put(t, first, record("vm", 1))
	first.Close()
	wantRecords(t, openBolt(t, path), record("vm", 1))
}

func TestBoltRefusesAFileThatIsNone(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no database "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{text, dir, filepath.Join(dir, "missing", "vms.db")} {
		s, err := store.OpenBolt(path)
		if err == nil {
			s.Close()
			t.Errorf("%s was opened", path)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%q does not name %s", err, path)
		}
	}
	if content, err := os.ReadFile(text); err != nil || !bytes.HasPrefix(content, []byte("no database ")) {
		t.Errorf("the file was overwritten: %v", err)
	}
}

// Once closed nothing is acknowledged, whoever waits in line.
func TestBoltClosedUnderWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vms.db")
	s := openBolt(t, path)
	var mu sync.Mutex
	acknowledged := map[uint64]bool{}
	var writers sync.WaitGroup
	for w := range uint64(16) {
		writers.Go(func() {
			for i := uint64(1); ; i++ {
				seq := w*1_000_000 + i
				if err := s.Put(record(types.VMID(fmt.Sprintf("vm-%d", seq)), seq)); err != nil {
					return
				}
				mu.Lock()
				acknowledged[seq] = true
				mu.Unlock()
			}
		})
	}
	for {
		mu.Lock()
		n := len(acknowledged)
		mu.Unlock()
		if n > 200 {
			break
		}
		runtime.Gosched()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	writers.Wait()
	records, err := openBolt(t, path).All()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		delete(acknowledged, r.Seq)
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged records are lost", len(acknowledged))
	}
}

package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// claim is a backend that can do nothing but say whether it is usable.
type claim struct {
	types.Backend
	name  string
	lacks error
}

func (c claim) Name() string                { return c.name }
func (c claim) Check(context.Context) error { return c.lacks }

func list(claims ...claim) []backend.Descriptor {
	var out []backend.Descriptor
	for _, c := range claims {
		out = append(out, backend.Descriptor{Name: c.name, New: func(backend.Host) (types.Backend, error) { return c, nil }})
	}
	return out
}

func TestChoose(t *testing.T) {
	noKVM := errors.New("there is no /dev/kvm")
	for _, tt := range []struct {
		name, asked string
		list        []backend.Descriptor
		want        string
		says        string // in the log, or in the error where want is ""
	}{
		{"auto takes the first", "auto", list(claim{name: "a"}, claim{name: "b"}), "a", "the first of the list is usable"},
		{"auto passes over", "auto", list(claim{name: "a", lacks: noKVM}, claim{name: "b"}), "b", "the backend a is not usable on this host: there is no /dev/kvm"},
		{"auto finds none", "auto", list(claim{name: "a", lacks: noKVM}, claim{name: "b", lacks: noKVM}), "", "the backend b is not usable"},
		{"by name", "b", list(claim{name: "a"}, claim{name: "b"}), "b", "UNKEY_METALD_BACKEND=b"},
		{"by name is no wish", "a", list(claim{name: "a", lacks: noKVM}, claim{name: "b"}), "", "there is no /dev/kvm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			got, err := choose(t.Context(), tt.asked, tt.list, backend.Host{}, slog.New(slog.NewTextHandler(&log, nil)))
			said := log.String()
			if tt.want == "" {
				if err == nil {
					t.Fatalf("chose %s", got.Name())
				}
				said = err.Error()
			} else if err != nil || got.Name() != tt.want {
				t.Fatalf("got %v, %v, want %s", got, err, tt.want)
			}
			if !strings.Contains(said, tt.says) {
				t.Errorf("it said %q, want …%s…", said, tt.says)
			}
		})
	}
}

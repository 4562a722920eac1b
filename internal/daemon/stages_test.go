package daemon

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diary notes what happens in which order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

// until returns a stage that runs until it is ended, and says when.
func (d *diary) until(name string) stage {
	return stage{name, func(ctx context.Context) error {
		<-ctx.Done()
		d.note(name)
		return ctx.Err()
	}}
}

func TestStagesEndInOrder(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	d := &diary{}
	begun := make(chan struct{})
	last := stage{"last", func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		d.note("last")
		return nil
	}}
	result := make(chan error, 1)
	go func() { result <- runStages(ctx, d.until("first"), d.until("second"), last) }()
	<-begun
	stop()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if got := strings.Join(d.lines, " "); got != "first second last" {
		t.Errorf("they ended in the order %s", got)
	}
}

func TestAStageThatFailsEndsAll(t *testing.T) {
	d := &diary{}
	broken := errors.New("it broke")
	err := runStages(t.Context(), d.until("first"), stage{"middle", func(context.Context) error { return broken }}, d.until("last"))
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "middle: ") {
		t.Errorf("got %v", err)
	}
	if got := strings.Join(d.lines, " "); got != "first last" {
		t.Errorf("they ended in the order %s", got)
	}
}

func TestAStageThatEndsUnaskedIsAFault(t *testing.T) {
	err := runStages(t.Context(), stage{"one", func(context.Context) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "one: ended although metald runs") {
		t.Errorf("got %v", err)
	}
}

func TestErrorsOfEndingAreKept(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	stuck := errors.New("a call did not return")
	err := runStages(ctx, stage{"API", func(ctx context.Context) error { <-ctx.Done(); return stuck }})
	if !errors.Is(err, stuck) {
		t.Errorf("got %v", err)
	}
}

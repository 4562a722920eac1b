package harness

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
)

// AwaitConsole follows the console of a VM until text has appeared times times, and fails the test after timeout.
func (d *Daemon) AwaitConsole(tb testing.TB, id, text string, times int, timeout time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if seen, err := d.FollowConsole(ctx, id, text, times); err != nil {
		tb.Fatalf("%s: %q was not on the console %d times within %s: %v; the console:\n%s", id, text, times, timeout, err, seen)
	}
}

// FollowConsole follows the console of a VM until text has appeared times times. It returns what it saw.
func (d *Daemon) FollowConsole(ctx context.Context, id, text string, times int) (string, error) {
	stream, err := d.Client.StreamConsole(ctx, connect.NewRequest(&pb.StreamConsoleRequest{VmId: id, Follow: true}))
	if err != nil {
		return "", err
	}
	defer stream.Close()
	var seen strings.Builder
	for stream.Receive() {
		seen.Write(stream.Msg().Data)
		if strings.Count(seen.String(), text) >= times {
			return seen.String(), nil
		}
	}
	return seen.String(), stream.Err()
}

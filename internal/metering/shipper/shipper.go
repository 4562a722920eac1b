package shipper

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// Log is what a shipper needs of a wal.Log.
type Log interface {
	NewReader(after uint64) *wal.Reader
	Ack(seq uint64) error
	Head() (seq uint64, hash wal.Hash)
}

// Config is what a shipper is made of. URL, InstanceID, Log and Path are required; zero values of the rest are replaced
// by what is said.
type Config struct {
	URL        string // of billaged, such as http://127.0.0.1:8081
	Token      string // sent as a bearer token; "" sends none
	InstanceID string // the host id that incarnations have
	Log        Log
	Path       string // of the file that keeps what was acknowledged

	// Accounts returns the lives that there are and what each used, for heartbeats. It is called from any goroutine.
	Accounts func() []usage.Account
	// PublicKey is the key of the receiver's countersignatures. Nil: the first that is seen holds from then on.
	PublicKey ed25519.PublicKey
	// Signed is given each countersignature that was found right, and must not wait.
	Signed func(record.Signature)
	Logger *slog.Logger

	BatchTicks int           // ticks in a batch: 600
	InFlight   int           // requests under way at a time: 8
	CatchUp    int           // how many times faster than they came old ticks are sent at most: 100
	Heartbeat  time.Duration // 30 s
	Timeout    time.Duration // of a request: 30 s
	Save       time.Duration // how often what was acknowledged is kept: 1 s
	FirstRetry time.Duration // the first pause after a failure, on average half of it: 250 ms
	LastRetry  time.Duration // what pauses double up to: 60 s
	Parked     time.Duration // how long a life rests whose requests are refused: 10 min
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{
		{&c.Heartbeat, 30 * time.Second}, {&c.Timeout, 30 * time.Second}, {&c.Save, time.Second},
		{&c.FirstRetry, 250 * time.Millisecond}, {&c.LastRetry, time.Minute}, {&c.Parked, 10 * time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.otherwise
		}
	}
	for _, n := range []struct {
		value     *int
		otherwise int
	}{{&c.BatchTicks, 600}, {&c.InFlight, 8}, {&c.CatchUp, 100}} {
		if *n.value <= 0 {
			*n.value = n.otherwise
		}
	}
	if c.Accounts == nil {
		c.Accounts = func() []usage.Account { return nil }
	}
	if c.Signed == nil {
		c.Signed = func(record.Signature) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Shipper sends a log to a receiver. Status may be called at any time from any goroutine.
type Shipper struct {
	cfg    Config
	client billingv1connect.BillingServiceClient
	codec  *batch.Codec
	after  atomic.Int64 // ns since 1970: the receiver asked for silence until then

	mu     sync.Mutex
	status Status
	seenAt time.Time // when status was made
}

// New returns a shipper that does nothing before Run. The error says which setting cannot be used.
func New(cfg Config) (*Shipper, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("billing endpoint %q: an http or https URL is needed, such as http://127.0.0.1:8081", cfg.URL)
	}
	if cfg.InstanceID == "" || cfg.Log == nil || cfg.Path == "" {
		return nil, errors.New("a shipper needs an instance id, a log and a path for what was acknowledged")
	}
	if n := len(cfg.PublicKey); n != 0 && n != ed25519.PublicKeySize {
		return nil, fmt.Errorf("the receiver's public key has %d bytes: an Ed25519 key has %d", n, ed25519.PublicKeySize)
	}
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, err
	}
	s := &Shipper{cfg: cfg.withDefaults(), codec: codec}
	return s, nil
}

// Run sends until ctx ends, and returns when nothing of it runs any more. It fails where the file of what was
// acknowledged cannot be used; a receiver that is away is no failure.
func (s *Shipper) Run(ctx context.Context) error {
	kept, err := openKept(s.cfg.Path)
	if err != nil {
		return err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: s.cfg.InFlight + 2, IdleConnTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	s.client = billingv1connect.NewBillingServiceClient(&patient{&http.Client{Transport: transport}, s}, s.cfg.URL, connect.WithReadMaxBytes(64<<20))
	e, err := newEngine(s, kept)
	if err == nil {
		err = e.run(ctx)
	}
	return errors.Join(err, kept.close())
}

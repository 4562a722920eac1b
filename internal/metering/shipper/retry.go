package shipper

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
)

// pause is how long to wait after the nth failure in a row, from 0: a random time of up to first, doubled each time,
// and never more than last.
func pause(n int, first, last time.Duration) time.Duration {
	most := last
	if n < 32 && first<<n > 0 && first<<n < last {
		most = first << n
	}
	return 1 + rand.N(most)
}

// patient is the HTTP client. It presents the token, and notes for how long the receiver asks for silence.
type patient struct {
	client *http.Client
	s      *Shipper
}

// Do sends a request.
func (p *patient) Do(r *http.Request) (*http.Response, error) {
	if p.s.cfg.Token != "" {
		r.Header.Set("Authorization", "Bearer "+p.s.cfg.Token)
	}
	resp, err := p.client.Do(r)
	if err == nil && resp.StatusCode != http.StatusOK {
		if wait := retryAfter(resp.Header.Get("Retry-After"), time.Now()); wait > 0 {
			p.s.after.Store(time.Now().Add(wait).UnixNano())
		}
	}
	return resp, err
}

// maxSilence bounds what a receiver can ask for.
const maxSilence = time.Hour

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(text); err == nil {
		wait = date.Sub(now)
	}
	return min(wait, maxSilence)
}

// verdict is what became of a request.
type verdict uint8

const (
	accepted verdict = iota
	unopened         // the receiver does not know the life
	astray           // it expects something else: ask what
	broken           // the batch does not continue its chain
	refused          // it will never take the request
	failed           // it did not answer, or cannot now
)

// judge says what an error of a call means.
func judge(err error) verdict {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodePermissionDenied, connect.CodeOutOfRange:
		if connect.IsWireError(err) {
			return refused
		}
	case connect.CodeFailedPrecondition:
		return astray
	}
	return failed
}

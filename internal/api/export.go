package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// sumTrailer is where the SHA-256 of an export comes, behind it: who has it has the whole.
const sumTrailer = "Usage-Sha256"

// serveExport answers GET /usage/export?format=csv&from=…&to=… with the ledger's rows of hours that are complete. It is
// what `metald usage export` asks a metald that runs.
func (s *service) serveExport(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	from, err := moment("from", query.Get("from"))
	to, err2 := moment("to", query.Get("to"))
	if err == nil {
		err = err2
	}
	if err == nil && s.ledger == nil {
		err = errUnmetered
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Trailer", sumTrailer)
	out := bufio.NewWriterSize(flushed{w}, 64<<10)
	sum, err := s.ledger.Export(r.Context(), out, query.Get("format"), from, to)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set(sumTrailer, sum)
}

var errUnmetered = types.Errorf(types.KindUnavailable, "this metald does not meter usage")

func moment(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, types.FieldErrorf(types.KindInvalid, name, "%q is not a time such as 2026-11-24T13:00:00Z", text)
	}
	return t, nil
}

// flushed lets the client have a bounded time for each piece, and not for the whole.
type flushed struct{ w http.ResponseWriter }

// Write sends p.
func (f flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if flusher, ok := f.w.(http.Flusher); ok && err == nil {
		flusher.Flush()
	}
	return n, err
}

// serveAudit answers GET /usage/audit with what came out when the log was read again.
func (s *service) serveAudit(w http.ResponseWriter, r *http.Request) {
	if s.ledger == nil {
		s.refuse(w, r, errUnmetered)
		return
	}
	audit, err := s.ledger.Audit(r.Context())
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(audit)
}

// refuse answers with an error, or ends the connection of an answer that has begun.
func (s *service) refuse(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	if c != nil {
		c.err, c.code = err, codeOf(kindOf(err)).code
		if c.status != 0 {
			panic(http.ErrAbortHandler)
		}
	}
	w.Header().Del("Trailer")
	status, _ := strconv.Atoi(httpStatus(codeOf(kindOf(err)).code))
	http.Error(w, fmt.Sprint(s.faults.toConnect(err, "").Message()), status)
}

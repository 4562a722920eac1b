package powerloss

import (
	"bytes"
	"fmt"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// Where things are on the host.
const (
	Disk     = "/lab" // the mount of the one disk that is written to
	State    = Disk + "/state"
	UsageLog = State + "/usage.wal"
	Assets   = Disk + "/guests"
	PlainLog = Disk + "/plain" // a log that nobody but this package writes
)

// Tick is how often metald reads what VMs use.
const Tick = 100 * time.Millisecond

// PlainBody is what a record of PlainLog holds.
func PlainBody(seq uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "record %d.", seq), 1+int(seq*seq%500))
}

// ReadPlain reads PlainLog and checks every record.
func ReadPlain(dir string) (Log, error) {
	report, err := wal.Verify(dir)
	if err != nil {
		return Log{}, err
	}
	log := Log{Records: report.Records, Last: report.Last}
	if !report.OK() {
		log.Bad = append(log.Bad, fmt.Sprintf("lost %v, broken %v, unreadable %v", report.Lost, report.Broken, report.Unreadable))
	}
	err = wal.Walk(dir, func(e wal.Entry) error {
		if e.Lost == nil && !bytes.Equal(e.Body, PlainBody(e.Seq)) {
			log.Bad = append(log.Bad, fmt.Sprintf("record %d has another body than it was written with", e.Seq))
		}
		return nil
	})
	return log, err
}

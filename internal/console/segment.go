package console

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// segment is one file of a log, or none.
type segment struct {
	start, size int64
	made        bool
}

// segmentName is the offset of the first byte in 20 digits, so that names sort as offsets do.
const (
	segmentName = "%020d.log"
	segmentExt  = ".log"
)

func (s segment) end() int64   { return s.start + s.size }
func (s segment) name() string { return fmt.Sprintf(segmentName, s.start) }

// parseSegmentName returns false for every name that name() does not make.
func parseSegmentName(name string) (start int64, ok bool) {
	digits, found := strings.CutSuffix(name, segmentExt)
	start, err := strconv.ParseInt(digits, 10, 64)
	return start, found && err == nil && start >= 0 && segment{start: start}.name() == name
}

// findSegments returns the segments in dir by offset; none where dir is missing. Only regular files count.
func findSegments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var found []segment
	for _, e := range entries {
		start, ok := parseSegmentName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		found = append(found, segment{start: start, size: info.Size(), made: true})
	}
	// ReadDir sorts by name. A segment never reaches into the next one, whatever its file says.
	for i := range len(found) - 1 {
		found[i].size = min(found[i].size, found[i+1].start-found[i].start)
	}
	return slices.Clip(found), nil
}

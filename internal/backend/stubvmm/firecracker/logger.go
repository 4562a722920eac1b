package firecracker

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// level is how much is logged.
type level int

const (
	levelOff level = iota
	levelError
	levelWarn
	levelInfo
	levelDebug
	levelTrace
)

var levelNames = [...]string{"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"}

// parseLevel takes the names in any case, and "Warning".
func parseLevel(s string) (level, bool) {
	s = strings.ToUpper(s)
	if s == "WARNING" {
		s = "WARN"
	}
	for i, name := range levelNames {
		if s == name {
			return level(i), true
		}
	}
	return 0, false
}

// logger writes lines to a file, or to standard output. What is not taken at once is counted and lost.
type logger struct {
	id      string
	metrics *metrics

	mu         sync.Mutex // guards all below
	fd         int
	level      level
	showLevel  bool
	showOrigin bool
}

func newLogger(id string, m *metrics) *logger {
	return &logger{id: id, metrics: m, fd: 1, level: levelInfo}
}

// configure sets what is given; a level that is not given is Info.
func (l *logger) configure(c loggerConfig) error {
	fd := -1
	if c.LogPath != nil {
		var err error
		if fd, err = openNonblock(string(*c.LogPath)); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = levelInfo
	if c.Level != nil {
		l.level = c.Level.level
	}
	if fd >= 0 {
		l.fd = fd // the file before stays open, as it is nobody's to close
	}
	if c.ShowLevel != nil {
		l.showLevel = *c.ShowLevel
	}
	if c.ShowLogOrigin != nil {
		l.showOrigin = *c.ShowLogOrigin
	}
	return nil
}

// The threads that speak.
const (
	mainThread = "main"
	apiThread  = "fc_api"
)

func (l *logger) log(at level, thread, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at > l.level {
		return
	}
	name, origin := "", ""
	if l.showLevel {
		name = ":" + levelNames[at]
	}
	if l.showOrigin {
		origin = ":?:?"
	}
	line := fmt.Sprintf("%s [%s:%s%s%s] %s\n", time.Now().Format("2006-01-02T15:04:05.000000000"),
		l.id, thread, name, origin, fmt.Sprintf(format, args...))
	for b := []byte(line); len(b) > 0; {
		n, err := writeFD(l.fd, b)
		if err != nil {
			l.metrics.inc("logger.missed_log_count")
			return
		}
		b = b[n:]
	}
}

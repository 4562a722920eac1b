package daemon

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// NewLog returns the log that cfg asks for.
func NewLog(w io.Writer, cfg config.Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		panic(fmt.Sprintf("daemon: config let the log level %q pass", cfg.LogLevel))
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

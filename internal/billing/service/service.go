// Package service puts billaged together: the directory, the key, the ledger and the API.
package service

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/export"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/receiver"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// Run serves until ctx ends, and returns when everything of it has stopped.
func Run(ctx context.Context, cfg config.Billaged, log *slog.Logger) (err error) {
	lock, err := lockDir(cfg.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	key, err := loadKey(filepath.Join(cfg.StateDir, "ed25519.key"))
	if err != nil {
		return err
	}
	ledger, err := store.Open(ctx, cfg.StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ledger.Close()) }()
	if last := ledger.LastRaw(); last != nil {
		if err := receiver.Replay(ctx, ledger, last); err != nil {
			return fmt.Errorf("the last raw batch of an earlier billaged: %w", err)
		}
	}
	audits := &auditor{dir: cfg.StateDir, ledger: ledger, log: log}
	if err := sweep(cfg.StateDir); err != nil {
		return err
	}
	handler, err := receiver.New(receiver.Config{
		Store: ledger, Key: key, Unreachable: cfg.UnreachableAfter, Log: log, Hosts: cfg.AllowedHosts, Audited: audits.status, Token: cfg.Token.Reveal(),
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)))
	if err != nil {
		return err
	}
	if cfg.AuditEvery > 0 {
		ctx, cancel := context.WithCancel(ctx)
		var auditing sync.WaitGroup
		auditing.Go(func() { audits.run(ctx, cfg.AuditEvery) })
		defer auditing.Wait()
		defer cancel()
	}
	log.Info("serving", "address", listener.Addr().String(), "state", cfg.StateDir)
	return serve(ctx, listener, handler, cfg.StopTimeout)
}

// serve answers until ctx ends; then calls under way get time to end.
func serve(ctx context.Context, listener net.Listener, handler http.Handler, patience time.Duration) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		stopped <- errors.Join(server.Shutdown(bounded), server.Close())
	})
	err := server.Serve(listener)
	if !stop() {
		err = <-stopped
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // calls were cut: their batches are sent again
	}
	return err
}

// Export writes the ledger's rows of [from, to), in unix seconds, and the checksum to sum.
func Export(ctx context.Context, dir, format string, from, to int64, out, sum io.Writer) error {
	ledger, err := store.OpenForReading(filepath.Join(dir, "ledger.db"))
	if err != nil {
		return err
	}
	digest, err := export.Write(ctx, out, ledger, format, from, to)
	if err == nil {
		_, err = fmt.Fprintln(sum, "sha256", digest)
	}
	return errors.Join(err, ledger.Close())
}

// lockDir makes the directory where it is missing and locks it; the lock ends with the process.
func lockDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another billaged; end it, or give this one a directory of its own: %w", path, err), lock.Close())
	}
	return lock, nil
}

// loadKey reads the key that countersigns chain heads, or makes one.
func loadKey(path string) (ed25519.PrivateKey, error) {
	seed, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		seed = make([]byte, ed25519.SeedSize)
		if _, err := rand.Read(seed); err != nil {
			return nil, err
		}
		if err := writeKey(path, seed); err != nil {
			return nil, err
		}
		return ed25519.NewKeyFromSeed(seed), nil
	}
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is no Ed25519 seed of %d bytes; heads that were signed with the key that was there cannot be checked without it", path, ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func writeKey(path string, seed []byte) error {
	temp, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = temp.Write(seed)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// NewLog returns the log that cfg asks for.
func NewLog(w io.Writer, cfg config.Billaged) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
)

// Head is the head of a host's hash chain, and the receiver's signature of it.
type Head struct {
	Records   uint64
	Hash      []byte
	SignedAt  int64 // ns since 1970, by the receiver's clock
	Signature []byte
}

// Hear notes that a host was heard at now, in ns since 1970.
func (s *Store) Hear(ctx context.Context, host string, now int64) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO hosts(host, heard) VALUES(?,?)", host, now)
		return err
	})
}

// Heard returns when a host was heard last, in ns since 1970; 0 for never.
func (s *Store) Heard(ctx context.Context, host string) (at int64, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT heard FROM hosts WHERE host=?", host).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return at, err
}

// Sign keeps a head that sign signs, and returns it. The same head is signed once. A head that contradicts one that was
// signed before, by being shorter or another of the same length, is not signed: the second result is false.
func (s *Store) Sign(ctx context.Context, host string, head Head, sign func(Head) Head) (Head, bool, error) {
	signed := false
	err := s.change(ctx, func(tx *sql.Tx) error {
		var last Head
		var records int64
		err := tx.QueryRowContext(ctx, "SELECT records, hash, signed_at, signature FROM heads WHERE host=? ORDER BY records DESC LIMIT 1", host).
			Scan(&records, &last.Hash, &last.SignedAt, &last.Signature)
		last.Records = uint64(records)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case head.Records < last.Records || head.Records == last.Records && !bytes.Equal(head.Hash, last.Hash):
			return nil
		case head.Records == last.Records:
			head, signed = last, true
			return nil
		}
		head, signed = sign(head), true
		_, err = tx.ExecContext(ctx, "INSERT INTO heads(host, records, hash, signed_at, signature) VALUES(?,?,?,?,?)", host, int64(head.Records), head.Hash, head.SignedAt, head.Signature)
		return err
	})
	return head, signed, err
}

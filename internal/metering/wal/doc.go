// Package wal is the write-ahead log of metering: numbered records in segment files. It knows bytes, and not what they
// mean; FORMAT.md beside it tells how to read them in any language.
//
// What it promises:
//
//   - Append never waits for a disk. One goroutine, Log.Run, writes what has come in and syncs once for all of it.
//   - What was said to be durable is there after a crash, whatever instruction or write it happened at.
//   - Damage costs no more than the records it hit, and their numbers are told. One damaged record in a stripe is
//     made again from its parity, so that records which are coded against it can still be decoded.
//   - An error of a write or sync is never followed by another sync of the same file: Linux marks pages clean that it
//     could not write, and a second fsync succeeds without them (PostgreSQL's "fsyncgate", 2018). The segment is left
//     alone, and what was not durable is written to another one, from memory.
//   - What Open finds is made durable before it is told, since the process before may have ended without that.
//   - A full disk leaves room for final records, which was put aside before.
//   - A quota is kept by replacing the oldest records that were not acknowledged by coarser ones, made by a Thinner.
//   - Records are a hash chain. Its head, told to somebody else, makes later changes visible.
package wal

// Package ledger is metald's own account of what was used. It follows the write-ahead log and keeps in one bbolt file,
// for every incarnation that ever was on this host: what is said of it, its meter or its final totals, and a row per
// hour in which something was used.
//
// The log is the truth and the ledger a view of it: it changes by nothing but the log's records, in their order. What
// it saves is of one moment, with the number of the last record that is in it, so a ledger that is opened goes on
// after that record, and one that is made anew of the whole log is the same to the last byte.
//
// Hours are kept for good. Windows that begin or end within an hour are made on demand: the ledger keeps, every few
// minutes, a mark, which is the state of all meters after a record; from there the log is read again, and gives the
// same spans as it did the first time. Where the log is shorter than that, the hours are all there is.
package ledger

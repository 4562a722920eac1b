// Package shipper sends what metald's log has to billaged, by billing.v1.
//
// It follows the log with a reader of its own. Per life it collects ticks and transitions until a batch is full, each
// with the totals up to its end and the life's hash chain; a meter of its own makes the totals, the same that the
// receiver has, so both come to the same sums. A life has one request under way at a time, and the next batch is not
// read from the log before the one before it is at most waiting: what does not fit into memory stays in the log.
//
// What was acknowledged is kept in one small file: per life the meter, the tick that comes next, the chain, and up to
// which record of the log it holds. A crash at any point costs nothing but batches that are sent twice, which the
// receiver knows by their numbers. The log is told what it may forget when that file is on the disk.
//
// Whenever the receiver was away, and at every start, the shipper greets it: it asks what the receiver expects of each
// life, opens those that it does not know, and sends the totals of all in a heartbeat. History follows, from the tick
// that the receiver expects; where that is before what was acknowledged, because the receiver was put back to an older
// backup, the log is read again as far as it goes and the rest is told as a gap.
package shipper

// Package metrics reads the stream of metrics that a Firecracker writes, one JSON object per line and flush, and adds
// its deltas up.
//
// Nearly every number of a line is what happened since the line before, there is no sequence number, and a full pipe
// tears a line: the numbers in it were handed over and are never said again, and what stayed in Firecracker's buffer
// (up to 1 KiB) is glued to the front of the next line. So a line counts as a whole or not at all, and whatever could
// not be read is counted and marks a Gap. Totals may then be below the truth inside of a gap; they are never above.
//
// Lines carry no identity. Two that are alike are two flushes, and both count.
package metrics

// Package sampler reads what VMs use, ten times a second, and writes it into the log of metering.
//
// One goroutine, Sampler.Run, takes the ticks by an absolute timer: a tick that comes late has its true time, and ticks
// that did not come at all are counted as missed. At each it reads the CPU clock of every VMM; of those whose clock has
// not moved nothing else can have changed but by the host's doing, and they are read in full once a second. The taps of
// all VMs are read by one question to the kernel. Disks that only the VMM knows are asked for by a few workers, and are
// UNKNOWN at the ticks between. Counters are cumulative, so what is UNKNOWN at one tick is in the next that knows it.
//
// What was not read is UNKNOWN: never zero, and never what it was before.
//
// A life is told by its runner: Begin, Attach, Ready, Enter, End; Adopt and Lost after a restart of metald. Records are
// made under one mutex that no reading and no disk is waited for with, so the log has them in the order in which they
// were told.
package sampler

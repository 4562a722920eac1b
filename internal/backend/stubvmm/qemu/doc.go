// Package qemu is a stand-in for qemu-system-x86_64: it takes the command line that metald gives, speaks QMP as QEMU
// 7.2 was seen to speak it, and plays a guest that says and does what cmd/guest-init would. It runs no code of a guest
// and reads no disk.
//
// What it is strict about: an option, a key or a value that metald doesn't use ends it with code 1 and a line on
// stderr; a file that is missing, an image that another process has locked, or a kernel that is none do so before QMP
// appears; QMP takes nothing but qmp_capabilities first; a second client of a socket waits until the first has left;
// stop and cont succeed whatever the state and say nothing where they change nothing; system_powerdown always
// succeeds; with -S the guest waits for cont; a guest that ends leaves QEMU waiting in the state shutdown, which only quit
// and a signal end.
//
// The guest obeys the kernel arguments of the package guest. Those that begin with "stub." make QEMU itself misbehave,
// see knobs.
package qemu

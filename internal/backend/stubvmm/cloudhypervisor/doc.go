// Package cloudhypervisor is a stand-in for Cloud Hypervisor 53.0: it takes its command line, serves its API in its own
// words, writes its events, and plays a guest that says and does what cmd/guest-init would. It runs no code of a guest;
// kernels, disks and taps are opened as Cloud Hypervisor opens them.
//
// What it knows is the answers of that release, the order in which its vm.boot looks at things, and the form of what
// its libraries say: micro-http and serde_json. What it was not taught it refuses in words of its own, which begin with
// "the stand-in": devices that metald has no use for, snapshots and migrations.
//
// The guest obeys the kernel arguments of the package guest, and speaks on the console that the last console= of the
// kernel's arguments names: ttyS0 is the serial port, hvc0 the console of virtio.
//
// Knobs make Cloud Hypervisor itself misbehave, or be another version. They are kernel arguments that begin with
// "stub.", or, for what happens before there are any, lines of a file that is named as the executable with ".knobs"
// behind it. See knobs.
package cloudhypervisor

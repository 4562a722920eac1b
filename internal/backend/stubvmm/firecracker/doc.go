// Package firecracker is a stand-in for Firecracker 1.16.1: it takes its command line, serves its API as it does, from
// the 1024 bytes that it reads at a time to the words of its errors, writes its metrics and its log, and plays a guest
// that says and does what cmd/guest-init would. It runs no code of a guest, and of disks it takes no more than that
// they can be opened.
//
// What it knows is the source of that release, in the words of Firecracker's own error types, and of the two libraries
// of which the form of its answers is: micro-http and serde_json. What it was not taught it refuses: more of a VM in
// a file (--config-file) than its kernel, memory from a user fault handler, and disks of other processes (vhost-user).
//
// The guest obeys the kernel arguments of the package guest, and has a console if the kernel's arguments give it one.
// Firecracker's machine has no power to switch off: a guest that does so halts, and the process stays. Ctrl-Alt-Del is
// its button.
//
// Knobs make Firecracker itself misbehave. They are kernel arguments that begin with "stub.", or, for what happens
// before there are any, lines of a file that is named as the executable with ".knobs" behind it. See knobs.
package firecracker

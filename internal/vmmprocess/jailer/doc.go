// Package jailer is what metald knows of Firecracker's jailer, as of v1.16.1, without touching the host: the arguments
// that start a jail, and where things are in it, seen from the host and from the VMM.
//
// The jailer is never told to daemonize: it then executes the VMM in its own process, whose exit status metald gets.
package jailer

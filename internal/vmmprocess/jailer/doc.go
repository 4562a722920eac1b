// Package jailer is what metald knows of Firecracker's jailer, as of v1.16.1, without touching the host: the arguments
// that start a jail, and where things are in it. Who writes there and who reads there ask here.
//
// The jailer is never told to daemonize or to make a PID namespace: it then executes the VMM in its own process, whose
// exit status metald gets. Namespaces come with the process, see package vmmprocess.
package jailer

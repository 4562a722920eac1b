// Package lab makes emulated machines in which real KVM runs, on any machine: QEMU's TCG emulates AMD SVM with nested
// paging. A lab machine is a Debian with systemd and cgroup v2; tests run in it as root, on what a production host has.
// It is slow, so it is for truth and not for figures.
//
// A Machine is also a host that can lose its power, see Machine.PowerLoss; package powerloss below takes it from a host
// with metered VMs, again and again: METALD_LAB=1 go test ./test/lab/powerloss -timeout 3h.
package lab

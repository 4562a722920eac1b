// Package qemu runs VMs on QEMU's microvm machine: one qemu-system-x86_64 per VM, by KVM where a trial boot proved
// that it works and by TCG, QEMU's own translator, elsewhere.
//
// metald makes the sockets it talks over (two QMP monitors and the console), and QEMU inherits them together with the
// kernel, the disks and the taps as open files. So there is nothing to poll for, a QEMU that runs as an unprivileged
// user needs no access to any path, and a metald that restarted finds the sockets in the run directory.
package qemu

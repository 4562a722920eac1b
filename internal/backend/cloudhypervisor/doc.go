// Package cloudhypervisor speaks to Cloud Hypervisor, one process per VM: the client of its API, and the translation of
// a spec into the config that makes the VM.
//
// The API is that of version 53.0, and the client gets along with 52 and with what is to be 54, which differ in the
// status of a refusal. Cloud Hypervisor ignores fields that it doesn't know, and looks at the config only when the guest
// is to start: what a client of metald can do wrong is found here, before there is a process.
package cloudhypervisor

// Package firecracker speaks to Firecracker, one process per VM: the client of its API, and the translation of a spec
// into the calls that make the VM.
//
// The API is that of version 1.16.1. Nothing is sent that a later version added, because Firecracker refuses a request
// with a field that it doesn't know; what a later version is asked for has to be behind the version it tells.
package firecracker

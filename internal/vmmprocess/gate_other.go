//go:build !amd64

package vmmprocess

// gateProgram is nil: on this architecture the start gate is a shell.
func gateProgram() []byte { return nil }

// Package tools pins what the project is built, linted and booted with; nothing of it is linked into metald.
package tools

import _ "github.com/gokrazy/kernel.amd64" // the default guest kernel: a Go module made to carry one, checksummed by go.sum

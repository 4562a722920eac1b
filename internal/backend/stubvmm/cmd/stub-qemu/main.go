// Command stub-qemu is a stand-in for qemu-system-x86_64 in tests: it runs no guest.
package main

import (
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/qemu"
)

func main() { os.Exit(qemu.Main(os.Args[1:], os.Stdout, os.Stderr)) }

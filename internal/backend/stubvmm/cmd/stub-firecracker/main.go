// Command stub-firecracker is a stand-in for Firecracker in tests: it runs no guest.
package main

import (
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/firecracker"
)

func main() { os.Exit(firecracker.Main(os.Args[1:], os.Stdout, os.Stderr)) }

// Command stub-jailer is a stand-in for Firecracker's jailer in tests.
package main

import (
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/jailer"
)

func main() { os.Exit(jailer.Main(os.Args[1:], os.Stdout, os.Stderr)) }

// Command stub-cloud-hypervisor is a stand-in for Cloud Hypervisor in tests: it runs no guest.
package main

import (
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/cloudhypervisor"
)

func main() { os.Exit(cloudhypervisor.Main(os.Args[1:], os.Stdout, os.Stderr)) }

package cloudhypervisor

import "github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"

// newKernels looks at kernel files. Cloud Hypervisor boots a bzImage, and an ELF file by its PVH note (its loader is
// that of vmm/src/vm.rs, load_kernel), and says so only at the boot.
func newKernels() *kernelimage.Opener { return &kernelimage.Opener{VMM: "Cloud Hypervisor"} }

// bootable returns the path of a kernel that Cloud Hypervisor boots: path, or that of its twin beside it. What is no
// kernel is KindInvalid and names the field.
func bootable(kernels *kernelimage.Opener, path string) (string, error) {
	file, err := kernels.Open(path)
	if err != nil {
		return "", err
	}
	return file.Name(), file.Close()
}

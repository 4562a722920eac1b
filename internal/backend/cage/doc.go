// Package cage is what keeps VMMs apart from each other and from the host, and within limits, as far as backends do it
// alike: cgroups, the files of a VM in the directory that is its VMM's root, what is lent to the VM's user meanwhile, and
// the removal of all of it. What a jailer of a VMM's own does on top is its backend's.
package cage

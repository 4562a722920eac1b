package jailer

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// hashed is how much of an id that is too long stays readable, in bytes.
const hashed = 32

// IDOf is the id of the jail of one incarnation of a VM: its own, so that what an earlier one left is in no one's way.
// VM ids have no capital letters, so that no other VM's can look like one that was shortened.
func IDOf(vm string, incarnation uint64) string {
	suffix := "-" + strconv.FormatUint(incarnation, 10)
	if len(vm)+len(suffix) <= maxID {
		return vm + suffix
	}
	sum := sha256.Sum256([]byte(vm))
	return vm[:min(hashed, len(vm))] + "X" + hex.EncodeToString(sum[:5]) + suffix
}

package types_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	. "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestRootDiskComesFirst(t *testing.T) {
	plain, root := Disk{ID: "a"}, Disk{ID: "r", Root: true}
	for _, tc := range []struct {
		disks []Disk
		root  int
		order []int
	}{
		{nil, -1, nil},
		{[]Disk{plain}, 0, []int{0}},
		{[]Disk{plain, plain}, -1, []int{0, 1}},
		{[]Disk{root, plain}, 0, []int{0, 1}},
		{[]Disk{plain, plain, root, plain}, 2, []int{2, 0, 1, 3}},
	} {
		spec := Spec{Disks: tc.disks}
		if got := spec.RootDisk(); got != tc.root {
			t.Errorf("%v: root disk %d, want %d", tc.disks, got, tc.root)
		}
		if diff := cmp.Diff(tc.order, spec.DiskOrder()); diff != "" {
			t.Errorf("%v: -want +got:\n%s", tc.disks, diff)
		}
	}
}

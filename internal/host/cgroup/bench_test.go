package cgroup_test

import (
	"context"
	"crypto/rand"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

func benchParent(b *testing.B) *cgroup.Parent {
	root, err := cgroup.Find()
	if err != nil {
		b.Skip(err)
	}
	parent, err := root.Open("metald-bench-" + rand.Text())
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() {
		if err := parent.Remove(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return parent
}

// BenchmarkMakeRemove is what a group adds to the life of a VM, without the move of its process.
func BenchmarkMakeRemove(b *testing.B) {
	parent := benchParent(b)
	for b.Loop() {
		g, err := parent.Make("vm", cgroup.Limits{MemoryBytes: 256 << 20, CPUQuota: 100, PIDs: 64})
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUsage(b *testing.B) {
	g, err := benchParent(b).Make("vm", cgroup.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := g.Usage(); err != nil {
			b.Fatal(err)
		}
	}
	if err := g.Remove(b.Context()); err != nil {
		b.Fatal(err)
	}
}

package cloudhypervisor

import (
	"encoding/json"
	"math"
)

// counts are the numbers of a device. They begin with it, at 0 but for the times.
type counts map[string]uint64

// diskCounts are those of a disk on which nothing was done: the times are at the end of their numbers.
func diskCounts() counts {
	c := counts{"read_bytes": 0, "read_ops": 0, "write_bytes": 0, "write_ops": 0}
	for _, way := range []string{"read", "write"} {
		c[way+"_latency_min"], c[way+"_latency_max"] = math.MaxUint64, math.MaxUint64
		c[way+"_latency_avg"] = math.MaxUint64 / 10000
	}
	return c
}

func netCounts() counts {
	return counts{"rx_bytes": 0, "rx_frames": 0, "tx_bytes": 0, "tx_frames": 0}
}

// did counts what was done on a disk: ops operations of n bytes together, each of which took 50 microseconds.
func (c counts) did(way string, n, ops uint64) {
	const latency = 50
	c[way+"_bytes"] += n
	c[way+"_ops"] += ops
	for _, name := range []string{"min", "max", "avg"} {
		c[way+"_latency_"+name] = latency
	}
}

// counters are refused unless there is a VM.
func (v *vmm) counters() (any, *fault) {
	if v.machine == nil {
		return nil, notRunning()
	}
	return v.machine.count, nil
}

// info tells the config as it is by now.
func (v *vmm) info() (any, *fault) {
	if v.config == nil {
		return nil, says("VM is not created").as(noVM)
	}
	told := struct {
		Config  *vmConfig       `json:"config"`
		State   string          `json:"state"`
		Memory  uint64          `json:"memory_actual_size"`
		Devices map[string]node `json:"device_tree,omitempty"`
	}{Config: v.config, State: created, Memory: v.config.Memory.Size}
	if b := v.config.Balloon; b != nil && v.machine != nil {
		told.Memory -= b.Size
	}
	if v.machine != nil {
		told.State, told.Devices = v.machine.state, v.machine.tree()
	}
	return json.RawMessage(toJSON(told)), nil
}

// node is a device in the tree. The stand-in's have no registers.
type node struct {
	ID        string   `json:"id"`
	Resources []string `json:"resources"`
	Parent    string   `json:"parent,omitempty"`
	Children  []string `json:"children"`
}

func (m *machine) tree() map[string]node {
	tree := map[string]node{"__serial": {ID: "__serial", Resources: []string{}, Children: []string{}}}
	for id := range m.count {
		on := "_virtio-pci-" + id
		tree[on] = node{ID: on, Resources: []string{}, Children: []string{id}}
		tree[id] = node{ID: id, Resources: []string{}, Parent: on, Children: []string{}}
	}
	return tree
}

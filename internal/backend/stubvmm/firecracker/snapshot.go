package firecracker

import (
	"encoding/json"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// snapshot is the stand-in's own: how large the machine was, to the snapshot's end.
type snapshot struct {
	Stub    string        `json:"stub"`
	Machine machineConfig `json:"machine"`
	Cmdline string        `json:"cmdline"`
}

func (v *vmm) snapshotCall(kind string, raw []byte) (call, error) {
	switch kind {
	case "create":
		return put(v, raw, "", v.createSnapshot)
	case "load":
		return v.loadCall(raw)
	case "":
		return call{}, faultf("Missing snapshot operation type.")
	}
	return call{}, noRoute("PUT", "/snapshot/"+kind)
}

// createSnapshot writes the two files, whatever was in them.
func (v *vmm) createSnapshot(c createSnapshotParams) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	if v.state != paused {
		return faultf("Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running")
	}
	state := toJSON(snapshot{Stub: Version, Machine: v.machine, Cmdline: v.cmdline})
	if err := os.WriteFile(string(c.SnapshotPath), state, 0o644); err != nil {
		return faultf("Create snapshot error: Cannot perform open on the snapshot backing file: %s", rust.IOError(err))
	}
	memory, err := os.Create(string(c.MemFilePath))
	if err == nil {
		err = memory.Truncate(int64(v.machine.MemSizeMiB) << 20)
		memory.Close()
	}
	if err != nil {
		return faultf("Create snapshot error: Cannot perform open on the memory backing file: %s", rust.IOError(err))
	}
	return nil
}

func (v *vmm) loadCall(raw []byte) (call, error) {
	b, err := body[loadSnapshotConfig](v, raw, "")
	if err != nil {
		return call{}, err
	}
	switch {
	case b.MemBackend != nil && b.MemFilePath != nil:
		return call{}, bothOrNone("too many fields: either `mem_backend` or `mem_file_path` exclusively is required")
	case b.MemBackend == nil && b.MemFilePath == nil:
		return call{}, bothOrNone("missing field: either `mem_backend` or `mem_file_path` is required")
	}
	c := call{do: func() (any, error) { return nil, v.loadSnapshot(b) }}
	if b.MemFilePath != nil || b.EnableDiffSnapshots {
		v.metrics.inc("deprecated_api.deprecated_http_api_calls")
		c.deprecated = "PUT /snapshot/load: mem_file_path and enable_diff_snapshots fields are deprecated."
	}
	return c, nil
}

// bothOrNone is an error without a place.
func bothOrNone(message string) error {
	f := faultf("An error occurred when deserializing the json body of a request: %s.", message)
	f.Debug = "SerdeJson(Error(\"" + message + "\", line: 0, column: 0))"
	return f
}

// loadSnapshot ends the process if it fails, once that is answered.
func (v *vmm) loadSnapshot(c loadSnapshotConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	if v.bootPath {
		return faultf("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
	}
	const refused = "Load snapshot error: Failed to restore from snapshot: "
	text, err := os.ReadFile(string(c.SnapshotPath))
	if err != nil {
		v.end(1)
		return faultf("%sFailed to get snapshot state from file: Failed to open snapshot file: %s", refused, rust.IOError(err))
	}
	memory := c.MemFilePath
	if c.MemBackend != nil {
		memory = &c.MemBackend.BackendPath
	}
	var s snapshot
	if json.Unmarshal(text, &s) != nil || s.Stub != Version {
		v.end(1)
		return faultf("%sFailed to get snapshot state from file: Failed to load snapshot state from file: it is not the stand-in's", refused)
	}
	if _, err := os.Stat(string(*memory)); err != nil {
		v.end(1)
		return faultf("%sFailed to load guest memory: Error creating guest memory from file: %s", refused, rust.IOError(err))
	}
	v.machine, v.cmdline, v.restore = s.Machine, s.Cmdline, true
	v.machine.SMT, v.machine.CPUTemplate = false, nil
	if c.ResumeVM {
		v.begin(running)
	} else {
		v.begin(paused)
	}
	return nil
}

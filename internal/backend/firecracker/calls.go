package firecracker

import (
	"encoding/json"
	"net/http"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// call is one request to Firecracker's API.
type call struct {
	Method string
	Path   string
	Body   []byte // JSON; nil for a GET

	// What a refusal of the call means to the client: the field of the config that it comes from, "" for none, and the
	// kind of the error.
	Field string
	Kind  types.Kind
}

func (c call) String() string { return c.Method + " " + c.Path }

// about says which field of the config the call comes from, and what its refusal is.
func (c call) about(kind types.Kind, field string) call {
	c.Kind, c.Field = kind, field
	return c
}

// The bodies of the requests, as src/firecracker/swagger/firecracker.yaml of 1.16.1 has them. Fields that metald leaves
// to Firecracker's default are not there.
type (
	serialDevice struct {
		SerialOutPath string `json:"serial_out_path"`
	}
	metricsConfig struct {
		MetricsPath string `json:"metrics_path"`
	}
	machineConfig struct {
		VCPUCount  int   `json:"vcpu_count"`
		MemSizeMiB int64 `json:"mem_size_mib"`
	}
	bootSource struct {
		KernelImagePath string `json:"kernel_image_path"`
		InitrdPath      string `json:"initrd_path,omitempty"`
		BootArgs        string `json:"boot_args"`
	}
	drive struct {
		DriveID      string `json:"drive_id"`
		PathOnHost   string `json:"path_on_host"`
		IsRootDevice bool   `json:"is_root_device"`
		IsReadOnly   bool   `json:"is_read_only"`
		CacheType    string `json:"cache_type,omitempty"`
	}
	networkInterface struct {
		IfaceID     string `json:"iface_id"`
		HostDevName string `json:"host_dev_name"`
		GuestMAC    string `json:"guest_mac"`
	}
	entropyDevice struct{}
	action        struct {
		ActionType string `json:"action_type"`
	}
	vmState struct {
		State string `json:"state"`
	}
)

func putSerial(c serialDevice) call         { return request(http.MethodPut, "/serial", c) }
func putMetrics(c metricsConfig) call       { return request(http.MethodPut, "/metrics", c) }
func putMachineConfig(c machineConfig) call { return request(http.MethodPut, "/machine-config", c) }
func putBootSource(c bootSource) call       { return request(http.MethodPut, "/boot-source", c) }
func putDrive(c drive) call                 { return request(http.MethodPut, "/drives/"+c.DriveID, c) }
func putNetwork(c networkInterface) call {
	return request(http.MethodPut, "/network-interfaces/"+c.IfaceID, c)
}
func putEntropy(c entropyDevice) call { return request(http.MethodPut, "/entropy", c) }
func putAction(name string) call      { return request(http.MethodPut, "/actions", action{name}) }
func patchVM(state string) call       { return request(http.MethodPatch, "/vm", vmState{state}) }

func request(method, path string, body any) call {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // structs of strings, numbers and booleans
	}
	return call{Method: method, Path: path, Body: b}
}

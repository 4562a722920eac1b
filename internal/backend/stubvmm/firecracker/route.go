package firecracker

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// call is a request that was understood: what the machine is asked to do. Do returns what is told, or nil.
type call struct {
	do         func() (any, error)
	deprecated string // what about the request is; "" for nothing
}

// route understands a request (src/firecracker/src/api_server/parsed_request.rs).
func (v *vmm) route(r request) (call, error) {
	tokens := strings.Split(strings.TrimLeft(r.Path, "/"), "/")
	if n := len(tokens); tokens[n-1] == "" {
		tokens = tokens[:n-1]
	}
	tokens = append(tokens, "", "", "")
	first, second := tokens[0], tokens[1]
	has := r.Body != nil
	switch {
	case r.Method == "GET" && !has:
		return v.routeGet(first, second, tokens[2])
	case r.Method == "GET":
		return call{}, faultf("GET request cannot have a body.")
	case r.Method == "PUT" && has:
		return v.routePut(first, second, r.Body)
	case r.Method == "PUT":
		return call{}, faultf("Empty PUT request.")
	case r.Method == "PATCH" && (has || first == "balloon" && second == "hinting"):
		return v.routePatch(first, second, r.Body)
	case r.Method == "PATCH":
		return call{}, faultf("Empty PATCH request.")
	case has:
		return call{}, faultf("Empty Delete request.")
	}
	switch first {
	case "drives":
		return v.unplug("block", second)
	case "network-interfaces":
		return v.unplug("net", second)
	case "pmem":
		return v.unplug("pmem", second)
	}
	return call{}, noRoute(r.Method, first)
}

func noRoute(method, path string) error {
	f := faultf("Invalid request method and/or path: %s %s.", method, path)
	f.Debug = fmt.Sprintf("InvalidPathMethod(%q, %s)", path, camel(method))
	return f
}

// camel is how a method is named in the log.
func camel(method string) string { return method[:1] + strings.ToLower(method[1:]) }

func (v *vmm) routeGet(first, second, third string) (call, error) {
	count := func(name string, do func() (any, error)) (call, error) {
		v.metrics.inc("get_api_requests." + name)
		return call{do: do}, nil
	}
	switch {
	case first == "":
		return count("instance_info_count", v.instanceInfo)
	case first == "version":
		return count("vmm_version_count", v.version)
	case first == "vm" && second == "config":
		return call{do: v.fullConfig}, nil
	case first == "machine-config":
		return count("machine_cfg_count", func() (any, error) { return v.machine, nil })
	case first == "mmds":
		return count("mmds_count", v.getMMDS)
	case first == "hotplug" && second == "memory":
		return count("hotplug_memory_count", v.getMemoryHotplug)
	case first == "balloon":
		return v.routeGetBalloon(second, third)
	}
	return call{}, noRoute("GET", first)
}

func (v *vmm) routeGetBalloon(second, third string) (call, error) {
	switch {
	case second == "":
		return call{do: v.getBalloon}, nil
	case second == "statistics":
		return call{do: v.balloonStats}, nil
	case second == "hinting" && third == "status":
		return call{do: v.hinting}, nil
	case second == "hinting":
		return call{}, faultf("Unrecognized GET request path `/hinting/%s`.", third)
	}
	return call{}, faultf("Unrecognized GET request path `%s`.", second)
}

// body reads a body. Failures are counted where there is a counter.
func body[T any](v *vmm, raw []byte, counter string) (T, error) {
	var into T
	if counter != "" {
		v.metrics.inc(counter + "_count")
	}
	err := rust.Decode(raw, &into)
	if err == nil {
		return into, nil
	}
	if counter != "" {
		v.metrics.inc(counter + "_fails")
	}
	return into, badJSON(err)
}

func badJSON(err error) error {
	f := faultf("An error occurred when deserializing the json body of a request: %v.", err)
	var j *rust.JSONError
	if errors.As(err, &j) {
		f.Debug = fmt.Sprintf("SerdeJson(Error(%q, line: %d, column: %d))", j.Message, j.Line, j.Column)
	}
	return f
}

// put makes a call of a body and of what is done with it.
func put[T any](v *vmm, raw []byte, counter string, do func(T) error) (call, error) {
	b, err := body[T](v, raw, counter)
	if err != nil {
		return call{}, err
	}
	return call{do: func() (any, error) { return nil, do(b) }}, nil
}

// named is a put of something that has an id in its path, too.
func named[T any](v *vmm, raw []byte, counter, id string, of func(T) string, do func(T) error) (call, error) {
	if err := checkID(id); err != nil {
		v.metrics.inc(counter + "_count")
		if id == "" {
			v.metrics.inc(counter + "_fails")
		}
		return call{}, err
	}
	b, err := body[T](v, raw, counter)
	if err != nil {
		return call{}, err
	}
	if inBody := of(b); inBody != id {
		v.metrics.inc(counter + "_fails")
		if strings.HasSuffix(counter, "network") {
			return call{}, faultf("The id from the path [%s] does not match the id from the body [%s]!", id, inBody)
		}
		return call{}, faultf("The id from the path does not match the id from the body!")
	}
	return call{do: func() (any, error) { return nil, do(b) }}, nil
}

// checkID takes letters and digits of all alphabets, and the underscore.
func checkID(id string) error {
	if id == "" {
		return &fault{Status: 400, Message: "The ID cannot be empty.", Debug: "EmptyID"}
	}
	for _, c := range id {
		if c != '_' && !unicode.IsLetter(c) && !unicode.IsNumber(c) {
			return &fault{Status: 400, Debug: "InvalidID",
				Message: "API Resource IDs can only contain alphanumeric characters and underscores."}
		}
	}
	return nil
}

func (v *vmm) routePut(first, second string, raw []byte) (call, error) {
	const of = "put_api_requests."
	switch first {
	case "actions":
		return put(v, raw, of+"actions", v.action)
	case "boot-source":
		return put(v, raw, of+"boot_source", v.setBootSource)
	case "machine-config":
		c, err := body[machineConfig](v, raw, of+"machine_cfg")
		return v.machineCall("PUT", c.update(), err)
	case "drives":
		return named(v, raw, of+"drive", second, func(c blockDeviceConfig) string { return c.DriveID }, v.putDrive)
	case "network-interfaces":
		return named(v, raw, of+"network", second, func(c networkInterfaceConfig) string { return c.IfaceID }, v.putNetwork)
	case "logger":
		return put(v, raw, of+"logger", v.setLogger)
	case "metrics":
		return put(v, raw, of+"metrics", v.setMetrics)
	case "serial":
		return put(v, raw, of+"serial", v.setSerial)
	case "entropy":
		return put(v, raw, "", v.setEntropy)
	}
	return v.routePutMore(first, second, raw)
}

func (v *vmm) routePutMore(first, second string, raw []byte) (call, error) {
	const of = "put_api_requests."
	switch {
	case first == "vsock":
		return v.vsockCall(raw)
	case first == "balloon":
		return put(v, raw, "", v.setBalloon)
	case first == "pmem":
		return named(v, raw, of+"pmem", second, func(c pmemConfig) string { return c.ID }, v.putPmem)
	case first == "hotplug" && second == "memory":
		return put(v, raw, of+"hotplug_memory", v.setMemoryHotplug)
	case first == "cpu-config":
		return v.anyJSON(raw, of+"cpu_cfg", v.setCPUConfig)
	case first == "mmds" && second == "":
		return v.anyJSON(raw, of+"mmds", v.putMMDS)
	case first == "mmds" && second == "config":
		return v.mmdsCall(raw)
	case first == "mmds":
		v.metrics.inc(of + "mmds_count")
		v.metrics.inc(of + "mmds_fails")
		return call{}, faultf("Unrecognized PUT request path `%s`.", second)
	case first == "snapshot":
		return v.snapshotCall(second, raw)
	}
	return call{}, noRoute("PUT", first)
}

// anyJSON takes JSON of any form.
func (v *vmm) anyJSON(raw []byte, counter string, do func(any) error) (call, error) {
	v.metrics.inc(counter + "_count")
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		v.metrics.inc(counter + "_fails")
		return call{}, badJSON(&rust.JSONError{Message: "expected value", Line: 1, Column: 1})
	}
	return call{do: func() (any, error) { return nil, do(value) }}, nil
}

func (v *vmm) routePatch(first, second string, raw []byte) (call, error) {
	const of = "patch_api_requests."
	switch {
	case first == "vm":
		return put(v, raw, "", v.setState)
	case first == "machine-config":
		c, err := body[machineConfigUpdate](v, raw, of+"machine_cfg")
		if err == nil && c == (machineConfigUpdate{}) {
			err = faultf("Empty PATCH request.")
		}
		return v.machineCall("PATCH", c, err)
	case first == "drives":
		return named(v, raw, of+"drive", second, func(c blockDeviceUpdateConfig) string { return c.DriveID }, v.patchDrive)
	case first == "network-interfaces":
		return named(v, raw, of+"network", second, func(c networkInterfaceUpdateConfig) string { return c.IfaceID }, v.patchNetwork)
	case first == "pmem":
		return named(v, raw, of+"pmem", second, func(c pmemDeviceUpdateConfig) string { return c.ID }, v.patchPmem)
	case first == "mmds":
		return v.anyJSON(raw, of+"mmds", v.patchMMDS)
	case first == "hotplug" && second == "memory":
		return put(v, raw, of+"hotplug_memory", v.patchMemoryHotplug)
	case first == "balloon" && second == "statistics":
		return put(v, raw, "", v.patchBalloonStats)
	case first == "balloon" && second == "hinting":
		return call{do: v.hinting}, nil
	case first == "balloon":
		return put(v, raw, "", v.patchBalloon)
	}
	return call{}, noRoute("PATCH", first)
}

package cloudhypervisor

import (
	"encoding/json"
	"strings"
)

const root = "/api/v1"

func trimRoot(path string) string { return strings.TrimPrefix(path, root) }

// action is a call by PUT that has an answer or none.
type action struct {
	failed string // what is said first if it does not work
	body   bool   // it needs one; otherwise it may have none
	do     func(v *vmm, r request) (any, *fault)
}

func actions() map[string]action {
	plain := func(failed string, do func(v *vmm) *fault) action {
		return action{failed: failed, do: func(v *vmm, _ request) (any, *fault) { return nil, do(v) }}
	}
	withBody := func(failed string, do func(v *vmm, r request) (any, *fault)) action {
		return action{failed: failed, body: true, do: do}
	}
	return map[string]action{
		"/vm.boot":          plain("The VM could not boot", (*vmm).boot),
		"/vm.shutdown":      plain("The VM could not shutdown", (*vmm).shutdown),
		"/vm.reboot":        plain("The VM could not reboot", (*vmm).reboot),
		"/vm.pause":         plain("The VM could not be paused", (*vmm).pause),
		"/vm.resume":        plain("The VM could not resume", (*vmm).resume),
		"/vm.delete":        plain("The VM could not be deleted", (*vmm).delete),
		"/vm.power-button":  plain("Error triggering power button", (*vmm).powerButton),
		"/vm.nmi":           plain("Error triggering NMI", (*vmm).nmi),
		"/vm.resize":        withBody("The VM could not be resized", (*vmm).resize),
		"/vm.add-net":       withBody("The network device could not be added to the VM", (*vmm).addNet),
		"/vm.add-disk":      withBody("The disk could not be added to the VM", (*vmm).addDisk),
		"/vm.remove-device": withBody("The device could not be removed from the VM", (*vmm).removeDevice),
		"/vm.snapshot":      withBody("The VM could not be snapshotted", (*vmm).snapshot),
		"/vm.restore":       withBody("The VM could not be restored", (*vmm).restore),
		"/vm.resize-disk":   withBody("The disk could not be resized", (*vmm).untaught),
		"/vm.resize-zone":   withBody("The memory zone could not be resized", (*vmm).untaught),
		"/vm.add-device":    withBody("The device could not be added to the VM", (*vmm).untaught),

		"/vm.add-user-device":        withBody("The user device could not be added to the VM", (*vmm).untaught),
		"/vm.add-fs":                 withBody("The fs could not be added to the VM", (*vmm).untaught),
		"/vm.add-generic-vhost-user": withBody("The generic vhost-user device could not be added to the VM", (*vmm).untaught),
		"/vm.add-pmem":               withBody("The pmem device could not be added to the VM", (*vmm).untaught),
		"/vm.add-vdpa":               withBody("The vDPA device could not be added to the VM", (*vmm).untaught),
		"/vm.add-vsock":              withBody("The vsock device could not be added to the VM", (*vmm).untaught),
		"/vm.receive-migration":      withBody("Error starting migration receiver", (*vmm).untaught),
		"/vm.send-migration":         withBody("Error starting migration sender", (*vmm).untaught),
	}
}

// refused is a request that is answered with 400 and no more, whatever is wrong with it.
func refused() *fault { return says("Bad Request").as(badRequest) }

func (v *vmm) route(r request) (response, *fault) {
	path, ok := strings.CutPrefix(r.Path, root)
	if !ok {
		return response{}, says("Not Found").as(notFound)
	}
	switch path {
	case "/vmm.ping":
		return v.get(r, "", func() (any, *fault) { return v.ping(), nil })
	case "/vm.info":
		return v.get(r, "The VM info is not available", v.info)
	case "/vm.counters":
		return v.get(r, "The VM info is not available", v.counters)
	case "/vm.create":
		return v.routeCreate(r)
	case "/vmm.shutdown":
		return v.routeShutdown(r)
	}
	a, ok := actions()[path]
	switch {
	case !ok:
		return response{}, says("Not Found").as(notFound)
	case r.Method != "PUT", a.body != (r.Body != nil):
		return response{}, refused()
	}
	return v.run(a.failed, func() (any, *fault) { return a.do(v, r) })
}

func (v *vmm) get(r request, failed string, do func() (any, *fault)) (response, *fault) {
	if r.Method != "GET" {
		return response{}, refused()
	}
	return v.run(failed, do)
}

// run does a call in the thread of the VM, which may be gone.
func (v *vmm) run(failed string, do func() (any, *fault)) (response, *fault) {
	if v.lost {
		return response{}, says("Error from API", "API request send error", "sending on a closed channel")
	}
	out, f := do()
	switch {
	case f != nil && (v.lost || f.kind == badRequest):
		return response{}, f
	case f != nil:
		return response{}, f.under("Error from API", failed)
	case out == nil:
		return response{Status: 204}, nil
	}
	return response{Status: 200, Body: toJSON(out)}, nil
}

func (v *vmm) routeCreate(r request) (response, *fault) {
	if r.Method != "PUT" {
		return response{}, refused()
	}
	if r.Body == nil {
		return response{}, says("").as(empty)
	}
	c := newConfig()
	if f := decode(r.Body, c); f != nil {
		return response{}, f
	}
	for _, n := range c.Net {
		if n.MAC == nil {
			v.forbidden() // one is drawn, by the thread of the API
		}
	}
	if name := untaughtField(r.Body); name != "" {
		return response{}, says("the stand-in has no " + name + " in a config").as(badRequest)
	}
	return v.run("The VM could not be created", func() (any, *fault) { return nil, v.create(c) })
}

// routeShutdown answers 200 without a body, which is what its success is.
func (v *vmm) routeShutdown(r request) (response, *fault) {
	if r.Method != "PUT" {
		return response{}, refused()
	}
	resp, f := v.run("The VMM could not shutdown", func() (any, *fault) { v.end(); return nil, nil })
	if f == nil && v.knobs.Version <= 53 {
		resp = response{Status: 200}
	}
	return resp, f
}

func (v *vmm) snapshot(r request) (any, *fault) {
	if v.machine == nil {
		return nil, notRunning()
	}
	return v.untaught(r)
}

func (v *vmm) restore(r request) (any, *fault) {
	if v.config != nil {
		return nil, says("VM is already created")
	}
	return v.untaught(r)
}

func (v *vmm) untaught(request) (any, *fault) {
	return nil, says("the stand-in was not taught it")
}

// untaughtField is the name of a field of a config that the stand-in would have to drop, "" if there is none.
func untaughtField(body []byte) string {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil {
		return ""
	}
	for _, name := range []string{
		"rate_limit_groups", "fs", "generic_vhost_user", "pmem", "devices", "user_devices", "vdpa", "vsock", "numa",
		"pci_segments", "platform", "tpm", "ivshmem", "preserved_fds",
	} {
		if value := string(all[name]); value != "" && value != "null" && value != "[]" {
			return name
		}
	}
	return ""
}

package qemu

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
)

// monitor is a QMP server: one client at a time, the others wait.
type monitor struct {
	vmm      *vmm
	listener *net.UnixListener

	mu         sync.Mutex
	conn       net.Conn // nil without a client
	negotiated bool     // it gets events
}

const greetingLine = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "stub"}, "capabilities": ["oob"]}}`

func (m *monitor) serve() {
	for {
		conn, err := m.listener.Accept()
		if err != nil {
			return
		}
		m.take(conn)
		m.talk(conn)
		m.take(nil)
		conn.Close()
	}
}

func (m *monitor) take(conn net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn, m.negotiated = conn, false
}

type request struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
}

func (m *monitor) talk(conn net.Conn) {
	k := m.vmm.knobs
	switch {
	case k.Garbage:
		fmt.Fprint(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		return
	case k.Mute == "greeting":
		select {}
	}
	m.write(conn, greetingLine)
	for in := json.NewDecoder(conn); ; {
		var req request
		if err := in.Decode(&req); err != nil {
			return
		}
		if req.Execute == k.Mute {
			continue
		}
		reply := m.answer(req)
		if len(req.ID) > 0 {
			reply["id"] = req.ID
		}
		line, err := json.Marshal(reply)
		if err != nil {
			return
		}
		if k.Half {
			conn.Write(line[:len(line)/2])
			return
		}
		m.write(conn, string(line))
		if req.Execute == "quit" && !k.Hold {
			m.vmm.shutdown("host-qmp-quit")
		}
	}
}

func (m *monitor) write(conn net.Conn, line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = conn.Write([]byte(line + "\r\n"))
}

func (m *monitor) event(e map[string]any) {
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.negotiated {
		_, _ = m.conn.Write(append(line, '\r', '\n'))
	}
}

func (m *monitor) answer(req request) map[string]any {
	m.mu.Lock()
	negotiated := m.negotiated
	if !negotiated && req.Execute == "qmp_capabilities" {
		m.negotiated = true
		m.mu.Unlock()
		return result(struct{}{})
	}
	m.mu.Unlock()
	v := m.vmm
	if negotiated {
		v.console.begin()
	}
	switch {
	case !negotiated:
		return failure("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
	case req.Execute == "qmp_capabilities":
		return failure("CommandNotFound", "Capabilities negotiation is already complete, command ignored")
	case len(req.Arguments) > 0:
		return failure("GenericError", "Parameter is unexpected")
	}
	switch req.Execute {
	case "query-status":
		v.mu.Lock()
		defer v.mu.Unlock()
		return result(map[string]any{"status": v.status, "singlestep": false, "running": v.status == "running"})
	case "query-blockstats":
		return result(v.blockStats())
	case "cont":
		if v.guestOver() {
			return failure("GenericError", "Resetting the Virtual Machine is required")
		}
		v.cont()
	case "stop":
		v.stop()
	case "system_powerdown":
		v.powerdown()
	case "quit":
	default:
		return failure("CommandNotFound", fmt.Sprintf("The command %s has not been found", req.Execute))
	}
	return result(struct{}{})
}

func result(v any) map[string]any { return map[string]any{"return": v} }

func failure(class, desc string) map[string]any {
	return map[string]any{"error": map[string]string{"class": class, "desc": desc}}
}

// blockStats reports what the guest is said to have written to its first disk.
func (v *vmm) blockStats() []map[string]any {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := []map[string]any{}
	for i, d := range v.opts.disks {
		stats := map[string]any{"rd_bytes": 0, "wr_bytes": 0, "rd_operations": 0, "wr_operations": 0}
		if v.began { // a guest has read what it started from
			stats["rd_bytes"], stats["rd_operations"] = 1<<20, 16
		}
		if i == 0 {
			stats["wr_bytes"], stats["wr_operations"] = v.wrote, (v.wrote+(1<<20)-1)>>20
		}
		all = append(all, map[string]any{
			"device": "", "node-name": d.node, "qdev": "/machine/peripheral/" + d.id + "/virtio-backend", "stats": stats,
		})
	}
	return all
}

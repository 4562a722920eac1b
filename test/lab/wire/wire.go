// Package wire is what the maker of a lab machine and the agent inside say to each other over a virtio-serial port:
// JSON values, one after the other. The agent begins, with Reply.Boot.
package wire

// PortName is the name of the port, below /dev/virtio-ports in the machine.
const PortName = "metald.lab"

// Request asks for a command to be run, or for one that runs to be killed.
type Request struct {
	ID   int      `json:"id"`             // of the command, chosen by who asks
	Kill bool     `json:"kill,omitempty"` // the command and all that it started in its process group
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"` // beyond the agent's own
	Dir  string   `json:"dir,omitempty"`
}

// Reply is a piece of what a command wrote, or its end.
type Reply struct {
	Boot   string `json:"boot,omitempty"` // the id of the machine's boot: the agent has just started
	ID     int    `json:"id,omitempty"`
	Output []byte `json:"output,omitempty"` // of stdout and stderr
	Ended  bool   `json:"ended,omitempty"`
	Code   int    `json:"code,omitempty"`  // exit code; 128 and the signal for one that a signal ended
	Error  string `json:"error,omitempty"` // why it could not be started
}

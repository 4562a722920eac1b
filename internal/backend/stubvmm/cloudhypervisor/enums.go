package cloudhypervisor

// The words that a config may have in a place.
type (
	consoleMode    string
	imageType      string
	hotplugMethod  string
	coreScheduling string
	cpuProfile     string
	granularity    string
	vhostMode      string
)

const (
	modeOff    consoleMode = "Off"
	modePty    consoleMode = "Pty"
	modeTty    consoleMode = "Tty"
	modeFile   consoleMode = "File"
	modeSocket consoleMode = "Socket"
	modeNull   consoleMode = "Null"

	imageRaw     imageType = "Raw"
	imageQCOW2   imageType = "Qcow2"
	imageUnknown imageType = "Unknown"
)

// Variants lists the words.
func (consoleMode) Variants() []string {
	return []string{"Off", "Pty", "Tty", "File", "Socket", "Null"}
}

// Variants lists the words.
func (imageType) Variants() []string {
	return []string{"FixedVhd", "Qcow2", "Raw", "Vhdx", "Unknown"}
}

// Variants lists the words.
func (hotplugMethod) Variants() []string { return []string{"Acpi", "VirtioMem"} }

// Variants lists the words.
func (coreScheduling) Variants() []string { return []string{"Vm", "Vcpu", "Off"} }

// Variants lists the words.
func (cpuProfile) Variants() []string { return []string{"Host"} }

// Variants lists the words.
func (granularity) Variants() []string { return []string{"ByteRange", "Full"} }

// Variants lists the words.
func (vhostMode) Variants() []string { return []string{"Client", "Server"} }

// Package config reads metald's settings. One struct is the only list of them: its tags give each field's name,
// default, choices, bounds and text, and -help, the docs' table and the environment file of the service are
// printed from the same tags.
//
// A field named "state-dir" is the flag -state-dir and the variable UNKEY_METALD_STATE_DIR, by rule. A default
// gives way to the environment and the environment to the flag. Whatever cannot be right stops the start: every
// bad value is reported at once, and a UNKEY_METALD_ variable that nobody reads is an error too.
package config

import "time"

// Prefix starts the name of every environment variable that metald reads.
const Prefix = "UNKEY_METALD_"

// Config is everything that can be set.
//
// Tags: name (required), doc (required), default (as text), oneof (choices, separated by commas; "@backends"
// stands for the list of backends), min and max (of numbers, durations and sizes, as text), abs (the path must
// be absolute).
type Config struct {
	Backend string `name:"backend" default:"auto" oneof:"auto,@backends" doc:"hypervisor of VMs that ask for none; auto takes the first of the list that is usable on this host"`

	Address           string   `name:"address" default:"127.0.0.1" doc:"IP address to listen on; one that other hosts can reach needs insecure-bind"`
	Port              int      `name:"port" default:"8080" min:"0" max:"65535" doc:"TCP port of the API; 0 takes a free one, which the log names"`
	InsecureBind      bool     `name:"insecure-bind" default:"false" doc:"allow an address beyond loopback although the API has neither TLS nor authentication"`
	AllowedHosts      []string `name:"allowed-hosts" default:"" doc:"host names that requests may carry beside localhost and loopback addresses, separated by commas"`
	ReflectionEnabled bool     `name:"reflection-enabled" default:"false" doc:"serve gRPC reflection"`

	StateDir   string `name:"state-dir" default:"/var/lib/metald" abs:"true" doc:"directory of everything that metald keeps; one metald per directory"`
	RuntimeDir string `name:"runtime-dir" default:"" abs:"true" doc:"directory of what VMMs need only while they run, their sockets, FIFOs and counters, for this metald alone; best a tmpfs that stays when metald stops. Empty is run in the state directory"`
	AssetsDir  string `name:"assets-dir" default:"/opt/vm-assets" abs:"true" doc:"directory of kernels and disk templates; its files are never written to"`
	VolumesDir string `name:"volumes-dir" default:"" abs:"true" doc:"directory of disks that are attached as they are; empty is volumes in the state directory"`

	MaxVMs          int      `name:"max-vms" default:"1000" min:"1" max:"100000" doc:"most VMs that may exist at once"`
	ConsoleLogBytes ByteSize `name:"console-log-bytes" default:"1MiB" min:"4KiB" max:"1GiB" doc:"most console output kept per VM"`
	VMMUIDBase      int      `name:"vmm-uid-base" default:"700000" min:"0" max:"2000000000" doc:"where metald is root, each VMM runs as a user of its own, counted from this uid; 0 runs them as metald's user"`

	QEMUBinary string `name:"qemu-binary" default:"" abs:"true" doc:"path of qemu-system-x86_64; empty looks on PATH"`
	QEMUAccel  string `name:"qemu-accel" default:"auto" oneof:"auto,kvm,tcg" doc:"QEMU's accelerator; auto takes KVM where a trial boot has shown that it works, TCG elsewhere"`

	FirecrackerBinary string `name:"firecracker-binary" default:"" abs:"true" doc:"path of firecracker; empty looks on PATH"`

	CloudHypervisorBinary string `name:"cloud-hypervisor-binary" default:"" abs:"true" doc:"path of cloud-hypervisor; empty looks on PATH"`

	JailerEnabled     bool     `name:"jailer-enabled" default:"true" doc:"run each Firecracker in a jail, and each Cloud Hypervisor in namespaces and a cgroup of its own, which takes root; false is for development"`
	JailerBinary      string   `name:"jailer-binary" default:"" abs:"true" doc:"path of Firecracker's jailer, of the same release; empty looks on PATH"`
	JailerUID         int      `name:"jailer-uid" default:"700000" min:"1" max:"2000000000" doc:"each jailed VMM runs as a user of its own, counted from this uid; the range is as long as max-vms"`
	JailerGID         int      `name:"jailer-gid" default:"700000" min:"1" max:"2000000000" doc:"and in a group of its own, counted from this gid"`
	JailerChrootDir   string   `name:"jailer-chroot-dir" default:"" abs:"true" doc:"directory of the jails of Firecracker, for this metald alone; empty is jail in the state directory, whose file system spares copies"`
	JailerNetNS       bool     `name:"jailer-netns" default:"true" doc:"give each jailed VMM an empty network namespace; VMs with network interfaces on Firecracker need false, because the host's tap devices are not in it"`
	JailerPIDNS       bool     `name:"jailer-pidns" default:"true" doc:"make each jailed VMM the first process of a PID namespace"`
	JailerMemoryLimit ByteSize `name:"jailer-memory-limit" default:"0" min:"0" max:"64TiB" doc:"most memory that the cgroup of a jailed VM may need; a VM that needs more is refused. 0 is no bound: each VM has its guest's memory, a 64th of it and 64 MiB for Firecracker, 96 MiB for Cloud Hypervisor"`
	JailerCPUQuota    int      `name:"jailer-cpu-quota" default:"0" min:"0" max:"1000000" doc:"CPU time of a jailed VM in percent of one CPU, its VMM included; 0 is no limit"`
	JailerFDLimit     int      `name:"jailer-fd-limit" default:"2048" min:"64" max:"1048576" doc:"most files that a jailed VMM may have open"`
	JailerIOLimit     ByteSize `name:"jailer-io-limit" default:"0" min:"0" max:"1TiB" doc:"most bytes per second that a jailed VM may read, and write, on each device that its disks are on; 0 is no limit"`

	HostID          string        `name:"host-id" default:"" doc:"name under which this host bills what its VMs use, at most 128 characters; empty is one that is made once and kept in the state directory"`
	BillingEndpoint string        `name:"billing-endpoint" default:"" doc:"URL of the billaged that usage is sent to, such as http://127.0.0.1:8081; empty sends it nowhere, and keeps it in metald's own ledger"`
	BillingToken    Secret        `name:"billing-token" default:"" doc:"what the billaged wants to be presented as a bearer token (its UNKEY_BILLAGED_TOKEN)"`
	AuditEvery      time.Duration `name:"audit-every" default:"24h" min:"0s" max:"720h" doc:"how often the ledger of usage is compared with what its log comes to when it is read again, beside the work; 0s never does"`
	WALQuotaBytes   ByteSize      `name:"wal-quota-bytes" default:"32GiB" min:"64MiB" max:"64TiB" doc:"how large the write-ahead log of usage may become while nobody takes it; beyond four fifths of it the oldest ticks are made coarser, and totals never change"`
	WALRetention    time.Duration `name:"wal-retention" default:"24h" min:"0s" max:"8760h" doc:"how long the log keeps each tick after it was billed, for usage in windows shorter than an hour"`

	LogLevel  string `name:"log-level" default:"info" oneof:"debug,info,warn,error" doc:"least severe messages to log"`
	LogFormat string `name:"log-format" default:"text" oneof:"text,json" doc:"form of the log on stderr"`

	StopTimeout time.Duration `name:"stop-timeout" default:"10s" min:"100ms" max:"5m" doc:"how long requests under way may take to end when metald stops; VMs run on"`

	OTelEnabled bool `name:"otel-enabled" default:"false" doc:"export telemetry by OTLP; not in this build"`
}

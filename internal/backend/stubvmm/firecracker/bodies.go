package firecracker

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// The bodies of the requests (src/vmm/src/vmm_config/*.rs). Their names are Firecracker's, since its errors have them.
type (
	actionBody struct {
		ActionType actionType `json:"action_type"`
	}
	vm struct {
		State newState `json:"state"`
	}
	loggerConfig struct {
		LogPath       *rust.Path   `json:"log_path"`
		Level         *levelFilter `json:"level"`
		ShowLevel     *bool        `json:"show_level"`
		ShowLogOrigin *bool        `json:"show_log_origin"`
		Module        *string      `json:"module"`
	}
	metricsConfig struct {
		_           struct{}  `serde:"open"`
		MetricsPath rust.Path `json:"metrics_path"`
	}
	serialConfig struct {
		SerialOutPath *rust.Path         `json:"serial_out_path"`
		RateLimiter   *tokenBucketConfig `json:"rate_limiter"`
	}
	machineConfig struct {
		VCPUCount       uint8        `json:"vcpu_count"`
		MemSizeMiB      rust.USize   `json:"mem_size_mib"`
		SMT             bool         `json:"smt" serde:"default"`
		CPUTemplate     *cpuTemplate `json:"cpu_template,omitempty"`
		TrackDirtyPages bool         `json:"track_dirty_pages" serde:"default"`
		HugePages       hugePages    `json:"huge_pages" serde:"default"`
	}
	machineConfigUpdate struct {
		VCPUCount       *uint8       `json:"vcpu_count"`
		MemSizeMiB      *rust.USize  `json:"mem_size_mib"`
		SMT             *bool        `json:"smt"`
		CPUTemplate     *cpuTemplate `json:"cpu_template"`
		TrackDirtyPages *bool        `json:"track_dirty_pages"`
		HugePages       *hugePages   `json:"huge_pages"`
	}
	bootSourceConfig struct {
		KernelImagePath string  `json:"kernel_image_path"`
		InitrdPath      *string `json:"initrd_path"`
		BootArgs        *string `json:"boot_args"`
	}
	blockDeviceConfig struct {
		DriveID      string             `json:"drive_id"`
		PartUUID     *string            `json:"partuuid"`
		IsRootDevice bool               `json:"is_root_device"`
		CacheType    cacheType          `json:"cache_type" serde:"default"`
		IsReadOnly   *bool              `json:"is_read_only"`
		PathOnHost   *string            `json:"path_on_host"`
		RateLimiter  *rateLimiterConfig `json:"rate_limiter"`
		IOEngine     *fileEngineType    `json:"io_engine"`
		Socket       *string            `json:"socket"`
	}
	blockDeviceUpdateConfig struct {
		DriveID     string             `json:"drive_id"`
		PathOnHost  *string            `json:"path_on_host"`
		RateLimiter *rateLimiterConfig `json:"rate_limiter"`
	}
	networkInterfaceConfig struct {
		IfaceID       string             `json:"iface_id"`
		HostDevName   string             `json:"host_dev_name"`
		GuestMAC      *macAddr           `json:"guest_mac"`
		MTU           *uint16            `json:"mtu"`
		RxRateLimiter *rateLimiterConfig `json:"rx_rate_limiter"`
		TxRateLimiter *rateLimiterConfig `json:"tx_rate_limiter"`
	}
	networkInterfaceUpdateConfig struct {
		IfaceID       string             `json:"iface_id"`
		RxRateLimiter *rateLimiterConfig `json:"rx_rate_limiter"`
		TxRateLimiter *rateLimiterConfig `json:"tx_rate_limiter"`
	}
	rateLimiterConfig struct {
		Bandwidth *tokenBucketConfig `json:"bandwidth"`
		Ops       *tokenBucketConfig `json:"ops"`
	}
	tokenBucketConfig struct {
		_            struct{} `serde:"open"`
		Size         uint64   `json:"size"`
		OneTimeBurst *uint64  `json:"one_time_burst"`
		RefillTime   uint64   `json:"refill_time"`
	}
	entropyDeviceConfig struct {
		RateLimiter *rateLimiterConfig `json:"rate_limiter"`
	}
	vsockDeviceConfig struct {
		VsockID  *string `json:"vsock_id,omitempty"`
		GuestCID uint32  `json:"guest_cid"`
		UDSPath  string  `json:"uds_path"`
	}
)

// The bodies of what metald asks for rarely or never.
type (
	balloonDeviceConfig struct {
		AmountMiB             uint32 `json:"amount_mib"`
		DeflateOnOOM          bool   `json:"deflate_on_oom"`
		StatsPollingIntervalS uint16 `json:"stats_polling_interval_s" serde:"default"`
		FreePageHinting       bool   `json:"free_page_hinting" serde:"default"`
		FreePageReporting     bool   `json:"free_page_reporting" serde:"default"`
	}
	balloonUpdateConfig struct {
		AmountMiB uint32 `json:"amount_mib"`
	}
	balloonUpdateStatsConfig struct {
		StatsPollingIntervalS uint16 `json:"stats_polling_interval_s"`
	}
	memoryHotplugConfig struct {
		TotalSizeMiB rust.USize `json:"total_size_mib"`
		BlockSizeMiB rust.USize `json:"block_size_mib" serde:"default"`
		SlotSizeMiB  rust.USize `json:"slot_size_mib" serde:"default"`
	}
	memoryHotplugSizeUpdate struct {
		RequestedSizeMiB rust.USize `json:"requested_size_mib"`
	}
	pmemConfig struct {
		ID          string             `json:"id"`
		PathOnHost  string             `json:"path_on_host"`
		RootDevice  bool               `json:"root_device" serde:"default"`
		ReadOnly    bool               `json:"read_only" serde:"default"`
		RateLimiter *rateLimiterConfig `json:"rate_limiter"`
	}
	pmemDeviceUpdateConfig struct {
		ID          string             `json:"id"`
		RateLimiter *rateLimiterConfig `json:"rate_limiter"`
	}
	mmdsConfig struct {
		Version           mmdsVersion `json:"version" serde:"default"`
		NetworkInterfaces []string    `json:"network_interfaces"`
		IPv4Address       *ipv4Addr   `json:"ipv4_address"`
		IMDSCompat        bool        `json:"imds_compat" serde:"default"`
	}
	createSnapshotParams struct {
		SnapshotType snapshotType `json:"snapshot_type" serde:"default"`
		SnapshotPath rust.Path    `json:"snapshot_path"`
		MemFilePath  rust.Path    `json:"mem_file_path"`
	}
	loadSnapshotConfig struct {
		SnapshotPath        rust.Path         `json:"snapshot_path"`
		MemFilePath         *rust.Path        `json:"mem_file_path"`
		MemBackend          *memBackendConfig `json:"mem_backend"`
		EnableDiffSnapshots bool              `json:"enable_diff_snapshots" serde:"default"`
		TrackDirtyPages     bool              `json:"track_dirty_pages" serde:"default"`
		ResumeVM            bool              `json:"resume_vm" serde:"default"`
		NetworkOverrides    []networkOverride `json:"network_overrides" serde:"default"`
		VsockOverride       *vsockOverride    `json:"vsock_override"`
		ClockRealtime       bool              `json:"clock_realtime" serde:"default"`
	}
	memBackendConfig struct {
		BackendPath rust.Path      `json:"backend_path"`
		BackendType memBackendType `json:"backend_type"`
	}
	networkOverride struct {
		_           struct{} `serde:"open"`
		IfaceID     string   `json:"iface_id"`
		HostDevName string   `json:"host_dev_name"`
	}
	vsockOverride struct {
		_       struct{} `serde:"open"`
		UDSPath string   `json:"uds_path"`
	}
)

// What has a few values.
type (
	actionType     string
	newState       string
	cpuTemplate    string
	hugePages      string
	cacheType      string
	fileEngineType string
	mmdsVersion    string
	snapshotType   string
	memBackendType string
)

func (actionType) Variants() []string {
	return []string{"FlushMetrics", "InstanceStart", "SendCtrlAltDel"}
}
func (newState) Variants() []string { return []string{"Paused", "Resumed"} }
func (cpuTemplate) Variants() []string {
	return []string{"C3", "T2", "T2S", "None", "T2CL", "T2A"}
}
func (hugePages) Variants() []string      { return []string{"None", "2M"} }
func (cacheType) Variants() []string      { return []string{"Unsafe", "Writeback"} }
func (fileEngineType) Variants() []string { return []string{"Async", "Sync"} }
func (mmdsVersion) Variants() []string    { return []string{"V1", "V2"} }
func (snapshotType) Variants() []string   { return []string{"Diff", "Full"} }
func (memBackendType) Variants() []string { return []string{"File", "Uffd"} }

// levelFilter is a level in any of its spellings.
type levelFilter struct{ level level }

// Parse reads a level.
func (f *levelFilter) Parse(s string) error {
	l, ok := parseLevel(s)
	if !ok {
		return says("Invalid LevelFilter")
	}
	f.level = l
	return nil
}

// macAddr is six bytes in hexadecimal.
type macAddr [6]byte

// Parse reads an address.
func (m *macAddr) Parse(s string) error {
	parts := strings.Split(s, ":")
	if len(parts) != len(m) {
		return says("The provided MAC address is invalid.")
	}
	for i, part := range parts {
		b, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) != 2 {
			return says("The provided MAC address is invalid.")
		}
		m[i] = byte(b)
	}
	return nil
}

func (m macAddr) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText writes the address as it is read.
func (m macAddr) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// ipv4Addr is an address of IP version 4.
type ipv4Addr struct{ netip.Addr }

// Parse reads an address.
func (a *ipv4Addr) Parse(s string) error {
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Is4() {
		return says("invalid IPv4 address syntax")
	}
	a.Addr = addr
	return nil
}

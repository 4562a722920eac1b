package qemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// options is the command line, checked.
type options struct {
	name       string
	accel      string
	paused     bool // -S
	noReboot   bool
	memory     int64 // MiB
	kernel     string
	initrd     string
	append     string
	chardevs   map[string]chardev
	monitors   []string // chardevs
	serial     string   // chardev; "" for none
	fdsets     map[int]int
	blockdevs  []blockdev // in order
	disks      []disk
	netdevs    map[string]int // open files
	nics       []string       // netdevs in use
	deviceIDs  map[string]bool
	virtio     int // devices
	objects    map[string]bool
	nodefaults bool
	sandboxed  bool
}

// chardev is a socket that listens, or standard output (fd 1).
type chardev struct{ fd int }

type blockdev struct {
	Driver   string `json:"driver"`
	Node     string `json:"node-name"`
	Filename string `json:"filename"`
	File     string `json:"file"`
	ReadOnly bool   `json:"read-only"`
}

// disk is a virtio-blk device.
type disk struct{ id, node string }

type device struct {
	Driver string `json:"driver"`
	ID     string `json:"id"`
	Drive  string `json:"drive"`
	Serial string `json:"serial"`
	NetDev string `json:"netdev"`
	MAC    string `json:"mac"`
	RNG    string `json:"rng"`
}

// flags take no value.
var flags = map[string]func(*options){
	"-S":              func(o *options) { o.paused = true },
	"-no-reboot":      func(o *options) { o.noReboot = true },
	"-nodefaults":     func(o *options) { o.nodefaults = true },
	"-no-user-config": func(*options) {},
}

// values take one.
var values = map[string]func(*options, string) error{
	"-name":     (*options).setName,
	"-machine":  (*options).setMachine,
	"-accel":    (*options).setAccel,
	"-cpu":      (*options).setCPU,
	"-smp":      (*options).setSMP,
	"-m":        (*options).setMemory,
	"-display":  func(_ *options, v string) error { return oneOf(v, "none") },
	"-sandbox":  (*options).setSandbox,
	"-chardev":  (*options).addChardev,
	"-mon":      (*options).addMonitor,
	"-serial":   (*options).setSerial,
	"-kernel":   func(o *options, v string) error { o.kernel = v; return nil },
	"-initrd":   func(o *options, v string) error { o.initrd = v; return nil },
	"-append":   func(o *options, v string) error { o.append = v; return nil },
	"-add-fd":   (*options).addFD,
	"-blockdev": (*options).addBlockdev,
	"-device":   (*options).addDevice,
	"-netdev":   (*options).addNetdev,
	"-object":   (*options).addObject,
	"-action":   func(_ *options, v string) error { return oneOf(v, "panic=none,shutdown=pause") },
}

func parse(args []string) (*options, error) {
	o := &options{
		chardevs: map[string]chardev{}, fdsets: map[int]int{}, netdevs: map[string]int{},
		deviceIDs: map[string]bool{}, objects: map[string]bool{},
	}
	for len(args) > 0 {
		option := args[0]
		args = args[1:]
		if set, ok := flags[option]; ok {
			set(o)
			continue
		}
		set, ok := values[option]
		if !ok {
			return nil, fmt.Errorf("%s: invalid option", option)
		}
		if len(args) == 0 {
			return nil, fmt.Errorf("%s: requires an argument", option)
		}
		if err := set(o, args[0]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", option, args[0], err)
		}
		args = args[1:]
	}
	return o, o.complete()
}

// complete checks what QEMU would only miss later, and what a VM of metald must have.
func (o *options) complete() error {
	if o.accel == "" || o.memory == 0 || o.kernel == "" || !o.nodefaults || !o.sandboxed || !o.noReboot {
		return fmt.Errorf("stub-qemu: an option is missing that metald always gives")
	}
	return nil
}

// pairs splits "first,key=value,…", with ",," for a comma.
func pairs(value string) (first string, rest map[string]string, err error) {
	parts := strings.Split(strings.ReplaceAll(value, ",,", "\x00"), ",")
	rest = map[string]string{}
	for i, part := range parts {
		part = strings.ReplaceAll(part, "\x00", ",")
		key, v, ok := strings.Cut(part, "=")
		switch {
		case i == 0 && !ok:
			first = part
		case !ok:
			return "", nil, fmt.Errorf("%q has no value", part)
		default:
			if _, twice := rest[key]; twice {
				return "", nil, fmt.Errorf("%q is given twice", key)
			}
			rest[key] = v
		}
	}
	return first, rest, nil
}

// want parses a value and demands exactly first and the keys.
func want(value, first string, keys ...string) (map[string]string, error) {
	f, m, err := pairs(value)
	if err != nil {
		return nil, err
	}
	if f != first || len(m) != len(keys) {
		return nil, says("Parameter mismatch: wanted %q and %v", first, keys)
	}
	for _, k := range keys {
		if m[k] == "" {
			return nil, says("Parameter '%s' is missing", k)
		}
	}
	return m, nil
}

func oneOf(value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return says("Parameter %q is not supported", value)
	}
	return nil
}

func (o *options) setName(v string) error {
	m, err := want(v, "", "guest", "debug-threads")
	o.name = m["guest"]
	return err
}

func (o *options) setMachine(v string) error {
	m, err := want(v, "microvm", "acpi", "rtc")
	if err != nil {
		return err
	}
	return oneOf(m["acpi"]+m["rtc"], "onon")
}

func (o *options) setAccel(v string) (err error) {
	if v == "kvm" {
		o.accel = v
		return nil
	}
	m, err := want(v, "tcg", "tb-size")
	if err != nil {
		return err
	}
	o.accel = "tcg"
	_, err = strconv.Atoi(m["tb-size"])
	return err
}

func (o *options) setCPU(v string) error {
	parts := strings.Split(v, ",")
	if err := oneOf(parts[0], "max", "host"); err != nil {
		return err
	}
	for i, part := range parts[1:] {
		if i == 0 && part == "enforce" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.") != "" {
			return fmt.Errorf("can't apply global max-x86_64-cpu.%s: Property not found", part)
		}
		if err := oneOf(value, "on", "off"); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) setSMP(v string) error {
	cpus, m, err := pairs(v)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(cpus)
	if err != nil || n < 1 {
		return says("Invalid SMP CPUs %s", cpus)
	}
	if n > 288 {
		return says("Invalid SMP CPUs %d. The max CPUs supported by machine 'microvm' is 288", n)
	}
	if len(m) == 0 {
		return nil
	}
	product := 1
	for _, key := range []string{"sockets", "cores", "threads"} {
		k, err := strconv.Atoi(m[key])
		if err != nil || len(m) != 3 {
			return says("Invalid CPU topology")
		}
		product *= k
	}
	if product != n {
		return says("Invalid CPU topology: product of the hierarchy must match maxcpus: %d != maxcpus (%d)", product, n)
	}
	return nil
}

func (o *options) setMemory(v string) (err error) {
	mib, ok := strings.CutSuffix(v, "M")
	if !ok {
		return fmt.Errorf("stub-qemu: metald gives memory in MiB")
	}
	o.memory, err = strconv.ParseInt(mib, 10, 64)
	if err == nil && o.memory > 1<<20 {
		return fmt.Errorf("cannot set up guest memory 'microvm.ram': Cannot allocate memory")
	}
	return err
}

func (o *options) setSandbox(v string) error {
	o.sandboxed = true
	return oneOf(v, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
}

func (o *options) addChardev(v string) error {
	if v == "stdio,id=console,signal=off" {
		o.chardevs["console"] = chardev{fd: 1}
		return nil
	}
	m, err := want(v, "socket", "id", "fd", "server", "wait")
	if err != nil {
		return err
	}
	if err := oneOf(m["server"]+m["wait"], "onoff"); err != nil {
		return err
	}
	if _, twice := o.chardevs[m["id"]]; twice {
		return says("Duplicate ID '%s' for chardev", m["id"])
	}
	fd, err := strconv.Atoi(m["fd"])
	o.chardevs[m["id"]] = chardev{fd: fd}
	return err
}

func (o *options) addMonitor(v string) error {
	m, err := want(v, "", "chardev", "mode")
	if err != nil {
		return err
	}
	o.monitors = append(o.monitors, m["chardev"])
	if _, ok := o.chardevs[m["chardev"]]; !ok {
		return fmt.Errorf("chardev \"%s\" not found", m["chardev"])
	}
	return oneOf(m["mode"], "control")
}

func (o *options) setSerial(v string) error {
	if v == "none" {
		return nil
	}
	o.serial = strings.TrimPrefix(v, "chardev:")
	if _, ok := o.chardevs[o.serial]; !ok {
		return fmt.Errorf("could not connect serial device to character backend '%s'", v)
	}
	return nil
}

func (o *options) addFD(v string) error {
	m, err := want(v, "", "set", "fd")
	if err != nil {
		return err
	}
	set, err := strconv.Atoi(m["set"])
	if err != nil {
		return err
	}
	o.fdsets[set], err = strconv.Atoi(m["fd"])
	return err
}

func (o *options) addBlockdev(v string) error {
	var b blockdev
	if err := strict(v, &b); err != nil {
		return err
	}
	if slices.ContainsFunc(o.blockdevs, func(other blockdev) bool { return other.Node == b.Node }) {
		return says("Duplicate nodes with node-name='%s'", b.Node)
	}
	switch b.Driver {
	case "file":
	case "raw":
		if o.node(b.File) == nil {
			return says("Cannot find device='' nor node-name='%s'", b.File)
		}
	default:
		return says("Parameter 'driver' does not accept value '%s'", b.Driver)
	}
	o.blockdevs = append(o.blockdevs, b)
	return nil
}

func (o *options) node(name string) *blockdev {
	for i := range o.blockdevs {
		if o.blockdevs[i].Node == name {
			return &o.blockdevs[i]
		}
	}
	return nil
}

func (o *options) addDevice(v string) error {
	var d device
	if err := strict(v, &d); err != nil {
		return err
	}
	if d.ID == "" || strings.IndexByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", d.ID[0]) < 0 {
		return says("Parameter 'id' expects an identifier")
	}
	if o.deviceIDs[d.ID] {
		return says("Duplicate device ID '%s'", d.ID)
	}
	o.deviceIDs[d.ID] = true
	if d.Driver == "i8042" || d.Driver == "pvpanic" {
		return nil
	}
	if o.virtio++; o.virtio > 24 {
		return says("No 'virtio-bus' bus found for device '%s'", d.Driver)
	}
	switch d.Driver {
	case "virtio-balloon-device":
		return nil
	case "virtio-rng-device":
		if !o.objects[d.RNG] {
			return says("Device '%s' not found", d.RNG)
		}
		return nil
	case "virtio-net-device":
		if _, ok := o.netdevs[d.NetDev]; !ok || slices.Contains(o.nics, d.NetDev) {
			return says("Property 'virtio-net-device.netdev' can't find value '%s'", d.NetDev)
		}
		o.nics = append(o.nics, d.NetDev)
		return nil
	case "virtio-blk-device":
		if o.node(d.Drive) == nil {
			return says("Property 'virtio-blk-device.drive' can't find value '%s'", d.Drive)
		}
		o.disks = append(o.disks, disk{id: d.ID, node: d.Drive})
		return nil
	}
	return fmt.Errorf("'%s' is not a valid device model name", d.Driver)
}

func (o *options) addNetdev(v string) error {
	m, err := want(v, "tap", "id", "fd")
	if err != nil {
		return err
	}
	o.netdevs[m["id"]], err = strconv.Atoi(m["fd"])
	return err
}

func (o *options) addObject(v string) error {
	var object struct {
		QOMType  string `json:"qom-type"`
		ID       string `json:"id"`
		Filename string `json:"filename"`
	}
	if err := strict(v, &object); err != nil {
		return err
	}
	o.objects[object.ID] = true
	return oneOf(object.QOMType, "rng-random")
}

// strict reads JSON that has no other keys than out.
func strict(v string, out any) error {
	d := json.NewDecoder(bytes.NewReader([]byte(v)))
	d.DisallowUnknownFields()
	return d.Decode(out)
}

// says is an error with QEMU's own words.
func says(format string, args ...any) error { return words(fmt.Sprintf(format, args...)) }

type words string

func (w words) Error() string { return string(w) }

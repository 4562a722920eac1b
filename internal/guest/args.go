package guest

// Kernel arguments the guest obeys, each given as name=value. The kernel ignores them: a name with a dot belongs to a
// module that isn't there.
const (
	// ArgBurn keeps a vCPU busy: a duration ("5s") or BurnForever. ArgBurners says how many threads do so (default 1).
	ArgBurn    = "metald.burn"
	ArgBurners = "metald.burners"
	// ArgWrite writes that many bytes, synced to the disk after each MiB, to ArgWriteTo: a block device, or by
	// default WriteFile on the root disk. What doesn't fit goes round, so any number can be written.
	ArgWrite   = "metald.write"
	ArgWriteTo = "metald.write_to"
	// ArgTouch is a comma-separated list of directories and block devices to try to write to.
	ArgTouch = "metald.touch"
	// ArgCount=1 says Second(n) every second; ArgFlood=1 says Flood lines as fast as the console takes them.
	ArgCount = "metald.count"
	ArgFlood = "metald.flood"
	// ArgShell=1 runs a shell on the console, for as long as the guest lives.
	ArgShell = "metald.shell"
	// ArgPower says what the power button and ctrl-alt-del do: PowerHonour (default) or PowerIgnore.
	ArgPower = "metald.power"
	// ArgExit ends the guest by itself: ExitPowerOff, ExitReboot or ExitPanic, once what has an end (touch, write,
	// a burn with a duration) is done and ArgAfter, a duration, has passed. On Firecracker, which has no power to
	// switch off, only ExitReboot and a panic with panic=1 end the VMM.
	ArgExit  = "metald.exit"
	ArgAfter = "metald.after"
)

// Values of the arguments above.
const (
	BurnForever  = "forever"
	PowerHonour  = "honour"
	PowerIgnore  = "ignore"
	ExitPowerOff = "poweroff"
	ExitReboot   = "reboot"
	ExitPanic    = "panic"
	WriteFile    = "/metald.written"
)

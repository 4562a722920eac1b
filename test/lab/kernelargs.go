package lab

import (
	"os"
	"strconv"
	"strings"
)

// notNeeded are drivers that udev would load for devices that nobody uses; each costs a part of a second.
const notNeeded = "ahci,psmouse,pcspkr,i2c_i801,iTCO_wdt,lpc_ich,bochs,powernow_k8,acpi_cpufreq,evdev,button"

// kernelArguments are for the lab's kernel. It is told the rate of its clock: to measure it takes a steadier timer than
// emulation gives.
func kernelArguments(quick bool) string {
	args := "root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=0 modprobe.blacklist=" + notNeeded
	if quick {
		args += " loglevel=4 random.trust_cpu=on"
	}
	if khz := clockRate(); khz > 0 {
		args += " tsc_early_khz=" + strconv.Itoa(khz)
	}
	return args
}

// clockRate is the rate of the time stamp counter in kHz, half of bogomips in units of 1000 instructions; 0 where it
// can't be read.
func clockRate() int {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "bogomips" {
			mips, _ := strconv.ParseFloat(strings.TrimSpace(value), 64) // 0 for what is no number
			return int(mips * 500)
		}
	}
	return 0
}

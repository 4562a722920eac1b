package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
)

// complete fills in what follows from other fields and checks what no field can say alone. Fields in bad have no
// value, and are not judged.
func (c *Config) complete(bad map[string]bool) []error {
	var errs []error
	if c.VolumesDir == "" && !bad["state-dir"] && !bad["volumes-dir"] {
		c.VolumesDir = filepath.Join(c.StateDir, "volumes")
	}
	if c.JailerChrootDir == "" && !bad["state-dir"] && !bad["jailer-chroot-dir"] {
		c.JailerChrootDir = filepath.Join(c.StateDir, "jail")
	}
	if !bad["address"] && !bad["insecure-bind"] {
		if err := c.checkAddress(); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, c.checkBilling(bad)...)
	if c.OTelEnabled {
		errs = append(errs, fmt.Errorf("%s: this build exports no telemetry; leave it out or set it to false", EnvName("otel-enabled")))
	}
	errs = append(errs, c.checkUsers(bad)...)
	if !bad["state-dir"] {
		errs = append(errs, c.checkDirectories(bad)...)
	}
	return errs
}

// checkBilling looks at who is billed where.
func (c *Config) checkBilling(bad map[string]bool) []error {
	var errs []error
	if !bad["host-id"] && (len(c.HostID) > 128 || strings.ContainsFunc(c.HostID, unprintable)) {
		errs = append(errs, fmt.Errorf("%s: %q is not at most 128 printable characters without spaces", EnvName("host-id"), c.HostID))
	}
	if c.BillingEndpoint == "" || bad["billing-endpoint"] {
		return errs
	}
	u, err := url.Parse(c.BillingEndpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		errs = append(errs, fmt.Errorf("%s: %q is not the URL of a billaged, such as http://127.0.0.1:8081", EnvName("billing-endpoint"), c.BillingEndpoint))
	}
	return errs
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }

// checkUsers keeps VMs from being one user: a VM has the same place in each range, so ranges may be one, or apart.
func (c *Config) checkUsers(bad map[string]bool) []error {
	if !c.JailerEnabled || c.VMMUIDBase == 0 || bad["vmm-uid-base"] || bad["max-vms"] {
		return nil
	}
	var errs []error
	for name, base := range map[string]int{"jailer-uid": c.JailerUID, "jailer-gid": c.JailerGID} {
		if apart := max(base-c.VMMUIDBase, c.VMMUIDBase-base); !bad[name] && apart != 0 && apart < c.MaxVMs {
			errs = append(errs, fmt.Errorf("%s: %d is %d away from %s, %d, so two of %d VMs could be one user on the host; make both the same, or put them at least %s apart",
				EnvName(name), base, apart, EnvName("vmm-uid-base"), c.VMMUIDBase, c.MaxVMs, EnvName("max-vms")))
		}
	}
	return errs
}

// checkDirectories keeps clients' files and metald's own apart.
func (c *Config) checkDirectories(bad map[string]bool) []error {
	var errs []error
	if !bad["assets-dir"] && within(c.StateDir, c.AssetsDir) {
		errs = append(errs, fmt.Errorf("%s: %q lies in %s, whose files are templates that nobody writes to",
			EnvName("state-dir"), c.StateDir, EnvName("assets-dir")))
	}
	if !bad["volumes-dir"] && within(c.StateDir, c.VolumesDir) {
		errs = append(errs, fmt.Errorf("%s: %q lies in %s, whose files may be attached to any VM, and metald's records are not for guests",
			EnvName("state-dir"), c.StateDir, EnvName("volumes-dir")))
	}
	if c.RuntimeDir != "" && !bad["runtime-dir"] {
		if within(c.StateDir, c.RuntimeDir) || within(c.RuntimeDir, c.StateDir) {
			errs = append(errs, fmt.Errorf("%s: %q and %s are to lie beside each other; leave it out to have everything in one directory",
				EnvName("runtime-dir"), c.RuntimeDir, EnvName("state-dir")))
		}
		for name, dir := range map[string]string{"assets-dir": c.AssetsDir, "volumes-dir": c.VolumesDir, "jailer-chroot-dir": c.JailerChrootDir} {
			if !bad[name] && (within(dir, c.RuntimeDir) || within(c.RuntimeDir, dir)) {
				errs = append(errs, fmt.Errorf("%s: %q and %s are to lie beside each other", EnvName("runtime-dir"), c.RuntimeDir, EnvName(name)))
			}
		}
	}
	rooms := []string{filepath.Join(c.StateDir, "vms"), filepath.Join(c.StateDir, "run")}
	if !bad["jailer-chroot-dir"] {
		rooms = append(rooms, c.JailerChrootDir)
		if c.JailerChrootDir == c.StateDir || within(c.JailerChrootDir, rooms[0]) || within(c.JailerChrootDir, rooms[1]) {
			errs = append(errs, fmt.Errorf("%s: %q is where metald keeps other things", EnvName("jailer-chroot-dir"), c.JailerChrootDir))
		}
	}
	for _, room := range rooms {
		for name, dir := range map[string]string{"assets-dir": c.AssetsDir, "volumes-dir": c.VolumesDir} {
			if !bad[name] && within(dir, room) {
				errs = append(errs, fmt.Errorf("%s: %q lies in %s, where metald removes what belongs to no VM", EnvName(name), dir, room))
			}
		}
	}
	return errs
}

func (c *Config) checkAddress() error {
	addr, err := netip.ParseAddr(c.Address)
	if err != nil {
		return fmt.Errorf("%s: %q is not an IP address", EnvName("address"), c.Address)
	}
	if !addr.IsLoopback() && !c.InsecureBind {
		return fmt.Errorf("%s: %s can be reached from other hosts, and whoever reaches the API rules every VM, because it has neither TLS nor authentication; bind 127.0.0.1, or set %s=true to accept that",
			EnvName("address"), c.Address, EnvName("insecure-bind"))
	}
	return nil
}

// within says whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

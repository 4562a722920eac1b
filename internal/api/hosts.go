package api

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// AllowedHostsSetting is the setting that Config.AllowedHosts comes from, for the error that tells to change it.
const AllowedHostsSetting = "UNKEY_METALD_ALLOWED_HOSTS"

// hostList is the names under which the API may be called. A web page that makes the browser resolve a name of its
// own to this host (DNS rebinding) is refused by it, as the browser sends that name.
type hostList struct {
	mu    sync.RWMutex
	names map[string]bool
}

func newHostList(names []string) *hostList {
	l := &hostList{names: map[string]bool{}}
	l.add("localhost")
	l.add(names...)
	return l
}

func (l *hostList) add(names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		l.names[hostName(name)] = true
	}
}

// addBound adds the address that the API listens on, unless that is every address.
func (l *hostList) addBound(addr net.Addr) {
	bound, err := netip.ParseAddrPort(addr.String())
	if err == nil && !bound.Addr().IsUnspecified() {
		l.add(bound.Addr().Unmap().String())
	}
}

// allows says whether a Host header, with or without a port, is one of the list.
func (l *hostList) allows(host string) bool {
	name := hostName(host)
	if addr, err := netip.ParseAddr(name); err == nil && addr.IsLoopback() {
		return true
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return name != "" && l.names[name]
}

// hostName is a host in one spelling, without port and brackets.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func refuseHost(w http.ResponseWriter, host string) {
	http.Error(w, fmt.Sprintf("metald does not answer to the host name %q: call it as localhost or by the address it listens on, "+
		"or add the name to %s", clip(host, 128), AllowedHostsSetting), http.StatusForbidden)
}

package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"time"
)

// Billaged is everything that can be set of billaged, by the same rules as Config. Its variables begin with
// UNKEY_BILLAGED_.
type Billaged struct {
	Address      string `name:"address" default:"127.0.0.1" doc:"IP address to listen on; one that other hosts can reach needs insecure-bind"`
	Port         int    `name:"port" default:"8081" min:"0" max:"65535" doc:"TCP port of the API; 0 takes a free one, which the log names"`
	InsecureBind bool   `name:"insecure-bind" default:"false" doc:"allow an address beyond loopback although the API has neither TLS nor authentication"`

	AllowedHosts []string `name:"allowed-hosts" default:"" doc:"host names that requests may carry beside localhost and IP addresses, separated by commas"`

	StateDir string `name:"state-dir" default:"/var/lib/billaged" abs:"true" doc:"directory of the ledger, the raw batches and the key; one billaged per directory"`

	Token Secret `name:"token" default:"" doc:"what callers of the RPCs have to present as a bearer token; nothing where it is empty"`

	AuditEvery time.Duration `name:"audit-every" default:"24h" min:"0s" max:"720h" doc:"how often the ledger is made anew of its raw records and compared, beside the work; 0s never does"`

	UnreachableAfter time.Duration `name:"unreachable-after" default:"2m" min:"1s" max:"24h" doc:"how long a host may be silent before its VMs are called unreachable; they are never called stopped for that"`
	StopTimeout      time.Duration `name:"stop-timeout" default:"10s" min:"100ms" max:"5m" doc:"how long requests under way may take to end when billaged stops"`

	LogLevel  string `name:"log-level" default:"info" oneof:"debug,info,warn,error" doc:"least severe messages to log"`
	LogFormat string `name:"log-format" default:"text" oneof:"text,json" doc:"form of the log on stderr"`
}

func billaged() program { return program{name: "billaged", prefix: "UNKEY_BILLAGED_"} }

// BillagedFields lists the settings of billaged.
func BillagedFields() []Field { return billaged().fieldsOf(reflect.TypeFor[Billaged](), Choices{}) }

// LoadBillaged reads the settings of billaged as Load does those of metald.
func LoadBillaged(fs *flag.FlagSet, args, environ []string) (Billaged, error) {
	var c Billaged
	bad, errs := billaged().read(reflect.ValueOf(&c).Elem(), BillagedFields(), fs, args, environ, Choices{})
	if len(errs) > 0 && errors.Is(errs[0], flag.ErrHelp) {
		return Billaged{}, flag.ErrHelp
	}
	if !bad["address"] && !bad["insecure-bind"] {
		errs = append(errs, c.checkAddress())
	}
	return c, errors.Join(errs...)
}

func (c Billaged) checkAddress() error {
	addr, err := netip.ParseAddr(c.Address)
	if err != nil {
		return fmt.Errorf("%s: %q is not an IP address", billaged().env("address"), c.Address)
	}
	if !addr.IsLoopback() && !c.InsecureBind {
		return fmt.Errorf("%s: %s can be reached from other hosts, and whoever reaches the API writes the ledger, because it has neither TLS nor authentication; bind 127.0.0.1, or set %s=true to accept that",
			billaged().env("address"), c.Address, billaged().env("insecure-bind"))
	}
	return nil
}

// WriteBillagedHelp prints every setting of billaged for -help.
func WriteBillagedHelp(w io.Writer) { writeHelp(w, BillagedFields()) }

// BillagedTable is the settings of billaged as a Markdown table for the docs.
func BillagedTable() string { return table(BillagedFields()) }

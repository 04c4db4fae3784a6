// Package registration keeps this node's entry in the datastore: the Node with
// its addresses, and the first IP pools of a new cluster. The settings have the
// names that upstream's users know.
package registration

import (
	"fmt"
	"net/netip"
	"strconv"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"

	"tortie/felix/autodetect"
	"tortie/internal/api"
)

// Mode is what becomes of the address of one family.
type Mode int

// The modes.
const (
	// Keep leaves the address that is stored; where there is none, IPv4 is
	// detected.
	Keep Mode = iota
	// Detect looks for the address, and again whenever the node's addresses change.
	Detect
	// Fixed is an address that is given.
	Fixed
	// None takes the address away.
	None
)

// Address is the setting for the address of one family.
type Address struct {
	Mode   Mode
	Fixed  netip.Prefix
	Method autodetect.Method
}

// Settings say what to write.
type Settings struct {
	IPv4, IPv6 Address
	// ASN is the node's own AS number; nil leaves what is stored.
	ASN *api.ASN
	// NodeRef is the node's name in Kubernetes; empty leaves what is stored.
	NodeRef string
	// Pools are made where no pool for pods of their family exists.
	Pools []*v3.IPPool
	// EnsureBlock has the node own a block of addresses before its first pod.
	EnsureBlock bool
}

// FromEnv reads the settings. Its errors name the variable, the value and what is
// expected.
func FromEnv(getenv func(string) string) (Settings, error) {
	e := env{getenv: getenv}
	s := Settings{
		IPv4:    e.address("IP", "IP_AUTODETECTION_METHOD", false),
		IPv6:    e.address("IP6", "IP6_AUTODETECTION_METHOD", true),
		ASN:     e.asn("AS"),
		NodeRef: getenv("CALICO_K8S_NODE_REF"),

		EnsureBlock: e.flag("ENSURE_BLOCK", false),
	}
	if !e.flag("NO_DEFAULT_POOLS", false) {
		s.Pools = append(e.pool("CALICO_IPV4POOL", "default-ipv4-ippool", false), e.pool("CALICO_IPV6POOL", "default-ipv6-ippool", true)...)
	}
	return s, e.err
}

// env reads variables and keeps the first error.
type env struct {
	getenv func(string) string
	err    error
}

func (e *env) fail(variable, want string) {
	if e.err == nil {
		e.err = fmt.Errorf("%s=%q: want %s", variable, e.getenv(variable), want)
	}
}

func (e *env) address(variable, method string, ipv6 bool) Address {
	var a Address
	var err error
	if a.Method, err = autodetect.Parse(e.getenv(method)); err != nil && e.err == nil {
		e.err = fmt.Errorf("%s: %w", method, err)
	}
	switch value := e.getenv(variable); value {
	case "":
		a.Mode = Keep
	case "autodetect":
		a.Mode = Detect
	case "none":
		a.Mode = None
	default:
		a.Mode = Fixed
		if a.Fixed, err = parseAddress(value); err != nil || a.Fixed.Addr().Is6() != ipv6 {
			e.fail(variable, "autodetect, none, or an address of its family, with or without the length of its network")
		}
	}
	return a
}

// parseAddress reads an address with the length of its network; where that is
// missing it is found on the device that has the address, else it is the whole.
func parseAddress(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

func (e *env) asn(variable string) *api.ASN {
	value := e.getenv(variable)
	if value == "" {
		return nil
	}
	asn, err := numorstring.ASNumberFromString(value)
	if err != nil {
		e.fail(variable, "an AS number such as 64512 or 1.10")
		return nil
	}
	return &asn
}

func (e *env) flag(variable string, otherwise bool) bool {
	value := e.getenv(variable)
	if value == "" {
		return otherwise
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		e.fail(variable, "true or false")
	}
	return b
}

func (e *env) text(variable, otherwise string) string {
	if value := e.getenv(variable); value != "" {
		return value
	}
	return otherwise
}

// pool is the pool that <prefix>_CIDR and its companions describe; without a CIDR
// there is none: which addresses a cluster's pods have is not ours to guess.
func (e *env) pool(prefix, name string, ipv6 bool) []*v3.IPPool {
	cidr := e.getenv(prefix + "_CIDR")
	if cidr == "" || cidr == "none" {
		return nil
	}
	network, err := netip.ParsePrefix(cidr)
	if err != nil || network.Addr().Is6() != ipv6 {
		e.fail(prefix+"_CIDR", "a CIDR of its family, or none")
	}
	p := v3.NewIPPool()
	p.Name = name
	p.Spec = v3.IPPoolSpec{
		CIDR:             cidr,
		BlockSize:        e.blockSize(prefix+"_BLOCK_SIZE", ipv6),
		IPIPMode:         v3.IPIPMode(e.mode(prefix + "_IPIP")),
		VXLANMode:        v3.VXLANMode(e.mode(prefix + "_VXLAN")),
		NATOutgoing:      e.flag(prefix+"_NAT_OUTGOING", !ipv6),
		DisableBGPExport: e.flag(prefix+"_DISABLE_BGP_EXPORT", false),
		NodeSelector:     e.text(prefix+"_NODE_SELECTOR", "all()"),
	}
	return []*v3.IPPool{p}
}

// mode is that of an encapsulation; upstream also takes Off for Never.
func (e *env) mode(variable string) string {
	value := e.text(variable, string(v3.IPIPModeNever))
	switch value {
	case string(v3.IPIPModeNever), string(v3.IPIPModeAlways), string(v3.IPIPModeCrossSubnet):
		return value
	case "Off", "off":
		return string(v3.IPIPModeNever)
	}
	e.fail(variable, "Always, CrossSubnet or Never")
	return ""
}

func (e *env) blockSize(variable string, ipv6 bool) int {
	size := 26
	if ipv6 {
		size = 122
	}
	value := e.getenv(variable)
	if value == "" {
		return size
	}
	size, err := strconv.Atoi(value)
	if err != nil {
		e.fail(variable, "a prefix length, such as 26")
	}
	return size
}

// Package felixsetting says what may stand in settings of felix that are more than a word
// or a number. felix reads by it and calicoctl refuses by it, so that neither takes what the
// other does not. The errors go on from the value: "is no …".
package felixsetting

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What a device for IP must carry at least (RFC 791; RFC 8200, section 5). Less than
// LeastMTU4 is of no use: hosts need not take a larger packet in parts.
const (
	LeastMTU4 = 576
	LeastMTU6 = 1280
	mostMTU   = 65535
)

// MTU takes 0 for the one that is found.
func MTU(v string, v6 bool) (int, error) {
	least := LeastMTU4
	if v6 {
		least = LeastMTU6
	}
	mtu, err := strconv.Atoi(v)
	if err != nil || mtu != 0 && (mtu < least || mtu > mostMTU) {
		return 0, fmt.Errorf("is not within %d to %d, nor 0 for the underlay's less the encapsulation", least, mostMTU)
	}
	return mtu, nil
}

// NATAddress is one that packets may leave a node with, and be answered to.
func NATAddress(v string) (netip.Addr, error) {
	a, err := netip.ParseAddr(v)
	thisNetwork := netip.MustParsePrefix("0.0.0.0/8")
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case err != nil || !a.Is4():
		return netip.Addr{}, fmt.Errorf("is no IPv4 address")
	case a.IsLoopback() || thisNetwork.Contains(a) || a.IsMulticast() || a.IsLinkLocalUnicast() || a == broadcast:
		return netip.Addr{}, fmt.Errorf("is no IPv4 address of a host that answers could come back to; want one of the node's")
	}
	return a, nil
}

// maxDevice is the longest name that the kernel takes.
const maxDevice = 15

// reservedDevices are names that belong to something else of the node's: those of pods
// begin with cali, or calx while they go.
const reservedDevices = `^(lo|vxlan\.calico|vxlan-v6\.calico|tunl0|ip6tnl0|sit0|docker0|cni0|(eth|wlan|bond)[0-9]+|en[opsx][0-9].*|(bwcali|cali|calx).*)$`

// WireguardDevice is the name that a device of WireGuard may have.
func WireguardDevice(v string) (string, error) {
	switch {
	case !regexp.MustCompile(`^[a-zA-Z0-9._+-]{1,15}$`).MatchString(v) || v == "." || v == "..":
		return "", fmt.Errorf("is no name of a device; want 1 to %d letters, digits or . _ + -", maxDevice)
	case regexp.MustCompile(reservedDevices).MatchString(v):
		return "", fmt.Errorf("is the name of another device of the node, or of pods' devices; want one of its own, such as wireguard.cali")
	}
	return v, nil
}

// Devices is the name of a device as iptables has it, whose + for all that begin so is
// nft's *.
func Devices(v string) (string, error) {
	name, all := strings.CutSuffix(v, "+")
	if len(v) > maxDevice || !regexp.MustCompile(`^[a-zA-Z0-9:._-]+$`).MatchString(name) {
		return "", fmt.Errorf("is no name of a device; want one such as eth0, or eth+ for all that begin so")
	}
	if all {
		name += "*"
	}
	return name, nil
}

// TableRange is one of the routing tables that felix may use.
type TableRange struct {
	Min int64 `json:"min"`
	Max int64 `json:"max"`
}

// FirstTable is the first table of the ranges that the kernel does not have for itself.
func FirstTable(ranges []TableRange) (int, error) {
	const firstOfKernel, lastOfKernel = 253, 255
	for _, r := range ranges {
		first := r.Min
		if first >= firstOfKernel && first <= lastOfKernel {
			first = lastOfKernel + 1
		}
		if first >= 1 && first <= r.Max && r.Max <= math.MaxUint32 {
			return int(first), nil
		}
	}
	return 0, fmt.Errorf("has no routing table that felix could use (%d to %d are the kernel's); want a range such as 1-250", firstOfKernel, lastOfKernel)
}

// KeepAlive is what WireGuard can count: whole seconds.
func KeepAlive(d time.Duration) error {
	if d < 0 || d%time.Second != 0 || d > 65535*time.Second {
		return fmt.Errorf("is no number of seconds from 0, for never, to 65535")
	}
	return nil
}

// Host is where something is listened at: an address, a name, or empty for all addresses.
func Host(v string) error {
	if _, err := netip.ParseAddr(v); err == nil || v == "" {
		return nil
	}
	if len(v) > 253 || !regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?)*\.?$`).MatchString(v) {
		return fmt.Errorf("is no host; want an address such as 127.0.0.1, a name such as localhost, or nothing for all addresses")
	}
	return nil
}

// Network is one that can be told from all others.
func Network(p netip.Prefix) error {
	if p.Bits() == 0 {
		return fmt.Errorf("takes in all addresses")
	}
	return nil
}

package podnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/kernel"
)

const (
	devicePrefix = kernel.PodLink
	deviceDigits = 11

	minMTU     = 68 // RFC 791
	minMTUv6   = LeastMTU6
	maxMTU     = 65535
	maxQueues  = 4096 // the kernel's own limit for a device
	maxNameLen = 15   // IFNAMSIZ less its end mark
)

// LeastMTU6 is what a device must carry whole for IPv6 (RFC 8200, section 5).
const LeastMTU6 = 1280

// IsDeviceName reports whether a name is that of the node's end of a pod's veth
// pair: "cali" and 11 hexadecimal digits. That is how such a device is known to
// be ours.
func IsDeviceName(name string) bool {
	digits, ok := strings.CutPrefix(name, devicePrefix)
	return ok && len(digits) == deviceDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// hostMAC is the address of every node's end. It is fixed, so that a pod's
// permanent neighbour entry for its gateway outlives the device and can't be
// taken over by another pod.
func hostMAC() kernel.MAC { return kernel.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee} }

// gateway is the address of every pod's next hop. The IPv6 one is what RFC 4291,
// appendix A makes of hostMAC, so the node's end owns it; nobody owns the IPv4
// one.
func gateway(f kernel.Family) netip.Addr {
	if f == kernel.IPv4 {
		return netip.AddrFrom4([4]byte{169, 254, 1, 1})
	}
	return netip.MustParseAddr("fe80::ecee:eeff:feee:eeee")
}

// families lists the families of the addresses.
func (a Attachment) families() []kernel.Family {
	var out []kernel.Family
	for _, f := range []kernel.Family{kernel.IPv4, kernel.IPv6} {
		if a.has(f) {
			out = append(out, f)
		}
	}
	return out
}

func (a Attachment) has(f kernel.Family) bool {
	if a.awaited() {
		return slices.Contains(a.Families, f)
	}
	return slices.ContainsFunc(a.Addrs, func(ip netip.Addr) bool { return kernel.FamilyOf(ip) == f })
}

// validate refuses what would leave a pod half wired. It returns the parsed MAC.
func (a Attachment) validate() (kernel.MAC, error) {
	switch {
	case a.Netns == "":
		return kernel.MAC{}, fmt.Errorf("%w: no network namespace is given", ErrNoNetns)
	case !validIfName(a.IfName):
		return kernel.MAC{}, fmt.Errorf("%w: %q can't be the name of an interface", ErrInvalid, a.IfName)
	case !IsDeviceName(a.HostIf):
		return kernel.MAC{}, fmt.Errorf("%w: host interface %q is not %q and %d hexadecimal digits",
			ErrInvalid, a.HostIf, devicePrefix, deviceDigits)
	case a.NumQueues < 0 || a.NumQueues > maxQueues:
		return kernel.MAC{}, fmt.Errorf("%w: %d queues, want 0 to %d", ErrInvalid, a.NumQueues, maxQueues)
	}
	if a.awaited() && len(a.Families) == 0 {
		return kernel.MAC{}, fmt.Errorf("%w: no address", ErrInvalid)
	}
	if !a.awaited() {
		if err := a.validateAddrs(); err != nil {
			return kernel.MAC{}, err
		}
	}
	if err := a.validateMTU(); err != nil {
		return kernel.MAC{}, err
	}
	if a.MAC == "" {
		return kernel.MAC{}, nil
	}
	mac, err := net.ParseMAC(a.MAC)
	if err != nil || len(mac) != len(kernel.MAC{}) || mac[0]&1 != 0 || kernel.MAC(mac) == (kernel.MAC{}) {
		return kernel.MAC{}, fmt.Errorf("%w: %q is not the MAC address of one interface", ErrInvalid, a.MAC)
	}
	if kernel.MAC(mac) == hostMAC() {
		return kernel.MAC{}, fmt.Errorf("%w: MAC address %s is the node's end's", ErrInvalid, a.MAC)
	}
	return kernel.MAC(mac), nil
}

func (a Attachment) validateAddrs() error {
	if len(a.Addrs) == 0 {
		return fmt.Errorf("%w: no address", ErrInvalid)
	}
	for _, ip := range a.Addrs {
		if !ip.IsValid() || ip.Zone() != "" || ip.Is4In6() || ip.IsUnspecified() || ip.IsMulticast() ||
			ip.IsLoopback() || ip.IsLinkLocalUnicast() {
			return fmt.Errorf("%w: a pod can't have the address %s", ErrInvalid, ip)
		}
	}
	return nil
}

// awaited: the addresses are not known yet.
func (a Attachment) awaited() bool { return a.Addrs == nil && a.Late != nil }

func (a Attachment) validateMTU() error {
	least := minMTU
	if a.has(kernel.IPv6) {
		least = minMTUv6
	}
	if a.MTU != 0 && (a.MTU < least || a.MTU > maxMTU) {
		return fmt.Errorf("%w: MTU %d, want %d to %d", ErrInvalid, a.MTU, least, maxMTU)
	}
	return nil
}

func validIfName(name string) bool {
	bad := strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == '%' || r > '~' })
	return name != "" && name != "." && name != ".." && name != "lo" && len(name) <= maxNameLen && !bad
}

// prefix is an address as a pod has it: alone in its subnet, so that all traffic
// goes through the node.
func prefix(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }

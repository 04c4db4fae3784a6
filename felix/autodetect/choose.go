package autodetect

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Device is a network device of the node.
type Device struct {
	Name string
	Kind string // of the kernel: "veth", "bridge" …; empty for hardware
	Up   bool
	// Addrs are its addresses with the length of their networks.
	Addrs []netip.Prefix
	// Default says that a default route leads out of it.
	Default bool
}

// Host is what the node looks like.
type Host struct {
	// Devices in the order of their indexes.
	Devices []Device
	// InternalIPs are those that Kubernetes has for the node.
	InternalIPs []netip.Addr
	// Source tells from which address the node sends to a destination, for CanReach.
	Source func(destination string, ipv6 bool) (netip.Addr, error)
}

// Choice is an address of the node and why it is that one.
type Choice struct {
	Addr   netip.Prefix // with the length of its network
	Device string
	Reason string
}

// ErrNone says that no address of the node fits the method.
var ErrNone = errors.New("no address found")

// Choose finds the node's address of one family, IPv6 or else IPv4. Its error
// names what was looked at and why it was passed over.
func Choose(m Method, host Host, ipv6 bool) (Choice, error) {
	c := chooser{host: host, ipv6: ipv6}
	switch m.Kind {
	case InternalIP:
		return c.internalIP(m)
	case CanReach:
		return c.source(m)
	case Interface:
		return c.named(m)
	case CIDR:
		return c.within(m)
	default:
		return c.first(m)
	}
}

// chooser is one search; it remembers what it passed over.
type chooser struct {
	host   Host
	ipv6   bool
	passed []string
}

func (c *chooser) pass(format string, args ...any) {
	c.passed = append(c.passed, fmt.Sprintf(format, args...))
}

func (c *chooser) family() string {
	if c.ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// variable is the one that names an address of the family.
func (c *chooser) variable() string {
	if c.ipv6 {
		return "IP6"
	}
	return "IP"
}

// none is the error of a search that found nothing.
func (c *chooser) none(m Method, advice string) error {
	seen := "the node has no device with an " + c.family() + " address"
	if len(c.passed) > 0 {
		seen = strings.Join(c.passed, ", ")
	}
	return fmt.Errorf("%s, method %s: %w: %s; %s", c.family(), m, ErrNone, seen, advice)
}

// usable gives the first address by which other machines can reach a device.
func (c *chooser) usable(d Device) (netip.Prefix, bool) {
	for _, p := range d.Addrs {
		if c.fits(p.Addr()) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (c *chooser) fits(a netip.Addr) bool {
	return a.Is6() == c.ipv6 && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsUnspecified() && !a.IsMulticast()
}

// foreign are the names of devices that container runtimes, other networks and
// this one make; none is the node's own.
var foreign = regexp.MustCompile(`^(lo|docker|podman|cni|cbr|crc|dummy|nodelocaldns|virbr|lxcbr|lxdbr|veth|cali|tunl|flannel|kube-ipvs|kube-bridge|vxlan\.calico|vxlan-v6\.calico|wireguard\.cali|wg-v6\.cali|cilium|lxc|weave|br-[0-9a-f]{12}$)`)

// own reports whether a device can be the node's own. A bridge or a veth is one
// only when a default route leads out of it, as in a machine that is a container
// or whose uplink is bridged: else it leads to containers.
func (c *chooser) own(d Device) bool {
	_, has := c.usable(d)
	switch {
	case !has:
	case !d.Up:
		c.pass("%s is down", d.Name)
	case foreign.MatchString(d.Name):
		c.pass("%s is a container network's", d.Name)
	case (d.Kind == "bridge" || d.Kind == "veth") && !d.Default:
		c.pass("%s is a %s without a default route", d.Name, d.Kind)
	default:
		return true
	}
	return false
}

func (c *chooser) first(m Method) (Choice, error) {
	for _, d := range c.host.Devices {
		if !c.own(d) {
			continue
		}
		if slices.ContainsFunc(m.names, func(r *regexp.Regexp) bool { return r.MatchString(d.Name) }) {
			c.pass("%s is to be skipped", d.Name)
			continue
		}
		addr, _ := c.usable(d)
		return Choice{Addr: addr, Device: d.Name, Reason: "the first address of the first device that is the node's own"}, nil
	}
	return Choice{}, c.none(m, fmt.Sprintf("give the node an address, or name it with %[1]s or another %[1]s_AUTODETECTION_METHOD; %[1]s=none is for a node that is to have none", c.variable()))
}

func (c *chooser) named(m Method) (Choice, error) {
	for _, pattern := range m.names {
		for _, d := range c.host.Devices {
			if !pattern.MatchString(d.Name) {
				continue
			}
			addr, has := c.usable(d)
			switch {
			case !has:
				c.pass("%s has no %s address", d.Name, c.family())
			case !d.Up:
				c.pass("%s is down", d.Name)
			default:
				return Choice{Addr: addr, Device: d.Name, Reason: fmt.Sprintf("the first address of a device whose name matches %q", pattern)}, nil
			}
		}
	}
	if len(c.passed) == 0 {
		c.pass("the devices are %s", c.names())
	}
	return Choice{}, c.none(m, "correct the pattern")
}

func (c *chooser) within(m Method) (Choice, error) {
	for _, network := range m.networks {
		for _, d := range c.host.Devices {
			for _, p := range d.Addrs {
				switch {
				case !c.fits(p.Addr()):
				case !network.Contains(p.Addr()):
					c.pass("%s of %s is outside of %s", p.Addr(), d.Name, network)
				case !d.Up:
					c.pass("%s is down", d.Name)
				default:
					return Choice{Addr: p, Device: d.Name, Reason: fmt.Sprintf("the first address within %s", network)}, nil
				}
			}
		}
	}
	return Choice{}, c.none(m, "correct the networks")
}

func (c *chooser) internalIP(m Method) (Choice, error) {
	for _, a := range c.host.InternalIPs {
		if !c.fits(a) {
			continue
		}
		p, device, ok := c.carrier(a)
		if !ok {
			c.pass("the InternalIP %s is on no device of the node", a)
			continue
		}
		return Choice{Addr: p, Device: device, Reason: "the node's InternalIP in Kubernetes"}, nil
	}
	if len(c.passed) == 0 {
		c.pass("Kubernetes has no %s InternalIP for the node", c.family())
	}
	return Choice{}, c.none(m, "correct the kubelet's --node-ip, or take another method")
}

func (c *chooser) source(m Method) (Choice, error) {
	source, err := c.host.Source(m.Destination, c.ipv6)
	if err != nil {
		return Choice{}, fmt.Errorf("%s, method %s: %w: %w", c.family(), m, ErrNone, err)
	}
	p, device, ok := c.carrier(source)
	if !ok || !c.fits(source) {
		c.pass("the node sends to %s from %s", m.Destination, source)
		return Choice{}, c.none(m, "take another destination")
	}
	return Choice{Addr: p, Device: device, Reason: "the address from which the node sends to " + m.Destination}, nil
}

// carrier is the device that has an address, and the length of its network.
func (c *chooser) carrier(a netip.Addr) (netip.Prefix, string, bool) {
	for _, d := range c.host.Devices {
		for _, p := range d.Addrs {
			if p.Addr() == a {
				return p, d.Name, true
			}
		}
	}
	return netip.Prefix{}, "", false
}

func (c *chooser) names() string {
	names := make([]string, len(c.host.Devices))
	for i, d := range c.host.Devices {
		names[i] = d.Name
	}
	return strings.Join(names, ", ")
}

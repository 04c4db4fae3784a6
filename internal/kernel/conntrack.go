package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ForgetDatagrams ends what connection tracking remembers of datagrams (UDP) to a port
// in the Handle's namespace: the next one of each flow is led where the rules say by
// then. Flows that only pass through with that port are forgotten as well, and
// tracked anew.
func (h *Handle) ForgetDatagrams(port uint16) error {
	return h.forget("datagrams", fmt.Sprintf("to port %d", port), func(filter *netlink.ConntrackFilter) error {
		return errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, port))
	}, unix.AF_INET, unix.AF_INET6)
}

// ForgetConnections forgets what was tracked of connections, and datagrams, that were
// sent to an address, wherever they were led.
func (h *Handle) ForgetConnections(to netip.Addr) error {
	family := netlink.InetFamily(unix.AF_INET6)
	if to.Is4() {
		family = unix.AF_INET
	}
	return h.forget("connections", "to "+to.String(), func(filter *netlink.ConntrackFilter) error {
		return filter.AddIP(netlink.ConntrackOrigDstIP, to.AsSlice())
	}, family)
}

// ForgetDatagramsBetween ends what connection tracking remembers of datagrams (UDP) that
// were sent from one of some networks to one of others, as ForgetDatagrams does. No
// networks are none.
func (h *Handle) ForgetDatagramsBetween(from, to []netip.Prefix) error {
	what := between{from, to}
	return h.forgetMatching("datagrams", fmt.Sprintf("between %d networks and %d", len(from), len(to)), func() (netlink.CustomConntrackFilter, error) {
		return what, nil
	}, unix.AF_INET, unix.AF_INET6)
}

// between matches datagrams by where they came from and where they were sent to.
type between struct{ from, to []netip.Prefix }

// MatchConntrackFlow is what [netlink.CustomConntrackFilter] asks for.
func (b between) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && within(b.from, flow.Forward.SrcIP) && within(b.to, flow.Forward.DstIP)
}

func within(networks []netip.Prefix, ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

func (h *Handle) forget(what, which string, narrow func(*netlink.ConntrackFilter) error, families ...netlink.InetFamily) error {
	return h.forgetMatching(what, which, func() (netlink.CustomConntrackFilter, error) {
		filter := &netlink.ConntrackFilter{}
		return filter, narrow(filter)
	}, families...)
}

func (h *Handle) forgetMatching(what, which string, match func() (netlink.CustomConntrackFilter, error), families ...netlink.InetFamily) error {
	ns, err := h.Netns()
	if err != nil {
		return err
	}
	defer ns.Close()
	tracking, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_NETFILTER)
	if err != nil {
		return NewError("open connection tracking", "", err)
	}
	defer tracking.Close()
	for _, family := range families {
		filter, err := match()
		if err == nil {
			_, err = tracking.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		}
		if err != nil {
			return NewError("forget tracked "+what, which, err)
		}
	}
	return nil
}

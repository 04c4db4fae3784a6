package kernel

import (
	"errors"
	"fmt"
	"net/netip"

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

func (h *Handle) forget(what, which string, narrow func(*netlink.ConntrackFilter) error, families ...netlink.InetFamily) error {
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
		filter := &netlink.ConntrackFilter{}
		if err = narrow(filter); err == nil {
			_, err = tracking.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		}
		if err != nil {
			return NewError("forget tracked "+what, which, err)
		}
	}
	return nil
}

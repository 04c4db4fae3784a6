package kernel

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ForgetDatagrams ends what connection tracking remembers of datagrams (UDP) to a port
// in the Handle's namespace: the next one of each flow is led where the rules say by
// then. Flows that only pass through with that port are forgotten as well, and
// tracked anew.
func (h *Handle) ForgetDatagrams(port uint16) error {
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
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		filter := &netlink.ConntrackFilter{}
		if err = filter.AddProtocol(unix.IPPROTO_UDP); err == nil {
			err = filter.AddPort(netlink.ConntrackOrigDstPort, port)
		}
		if err == nil {
			_, err = tracking.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		}
		if err != nil {
			return NewError("forget tracked datagrams", fmt.Sprintf("to port %d", port), err)
		}
	}
	return nil
}

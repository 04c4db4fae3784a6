package lab

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// via is the next hop that p's node must use towards q: the far end of a tunnel where
// q's pool asks for it, else q's node when both are on one segment, the router when they
// aren't; invalid on one node.
func (c cluster) via(p, q *Pod, v6 bool) netip.Addr {
	a, errA := c.topology.Node(p.Node)
	b, errB := c.topology.Node(q.Node)
	switch {
	case errA != nil || errB != nil || a.Name == b.Name:
		return netip.Addr{}
	case c.tunneled(a.Name, b.Name, q.Addr(v6)):
		return c.tunnel(b.Name, v6)
	case a.Segment == b.Segment:
		return b.addr(v6)
	}
	s := c.topology.Segment(a.Segment)
	if v6 {
		return s.RouterV6
	}
	return s.Router
}

// ways remembers which next hop a node uses towards an address: many checks ask
// the same.
type ways struct {
	lab  *Lab
	mu   sync.Mutex
	seen map[string]netip.Addr
}

func (l *Lab) ways() *ways { return &ways{lab: l, seen: map[string]netip.Addr{}} }

// judge says what is wrong with the way of a check whose probe went well: without
// BGP the router would carry everything, and the probe would not tell.
func (w *ways) judge(c Check) string {
	if !c.Via.IsValid() {
		return ""
	}
	got, err := w.nextHop(c.Node, c.Probe.Target.Addr())
	if err != nil {
		return err.Error()
	}
	if got != c.Via {
		return fmt.Sprintf("%s sends it via %s instead of %s", c.Node, got, c.Via)
	}
	return ""
}

func (w *ways) nextHop(node string, dst netip.Addr) (netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := node + " " + dst.String()
	if hop, ok := w.seen[key]; ok {
		return hop, nil
	}
	var hop netip.Addr
	err := w.lab.In(node, func() error {
		routes, err := netlink.RouteGet(net.IP(dst.AsSlice()))
		if err != nil {
			return fmt.Errorf("%s: route to %s: %w", node, dst, err)
		}
		if len(routes) > 0 {
			hop, _ = netip.AddrFromSlice(routes[0].Gw)
		}
		return nil
	})
	w.seen[key] = hop.Unmap()
	return hop.Unmap(), err
}

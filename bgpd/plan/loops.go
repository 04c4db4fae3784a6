package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/bgpd/topology"
)

// loop is what a reflector and a router on its segment may make of nodes that the reflector
// reaches through routers only: the router is told the reflector as the way to their blocks,
// and the reflector sends through a router, which may be that one.
type loop struct {
	reflector, name string // name is the router's BGPPeer
	router          netip.Addr
}

// mayLoop: what h has of origin goes to the router p with the holder as its next hop.
func (c *cluster) mayLoop(h holder, origin string, p topology.Peer) (loop, bool) {
	if h.node == origin || c.isNode(p.Address) || p.ASN == c.asn(h.node, p) || !c.passesOn(h.node, h.from, p) {
		return loop{}, false
	}
	segments := c.nodes[h.node].segments
	near := func(a netip.Addr) bool {
		return slices.ContainsFunc(segments, func(s netip.Prefix) bool { return s.Contains(a) })
	}
	if near(h.nextHop) || !near(p.Address) || c.nextHop(h, p) == h.nextHop {
		return loop{}, false
	}
	if _, accepted := c.filtered(h, p, topology.Peer{}, c.local(h.node, p)); !accepted {
		return loop{}, false
	}
	return loop{h.node, p.Name, p.Address}, true
}

func (s spread) addLoops(loops []loop, prefix netip.Prefix) {
	for _, l := range loops {
		if _, known := s.loops[l]; !known {
			s.loops[l] = prefix
		}
	}
}

// newLoops are the problems that the loops in a make which b has not.
func newLoops(a, b map[loop]netip.Prefix) []Problem {
	list := slices.SortedFunc(maps.Keys(a), func(x, y loop) int {
		return strings.Compare(x.reflector+" "+x.router.String(), y.reflector+" "+y.router.String())
	})
	var out []Problem
	for _, l := range list {
		if _, was := b[l]; was {
			continue
		}
		out = append(out, Problem{[]string{l.reflector}, fmt.Sprintf(
			"BGPPeer %s: router %s may send to this reflector what the reflector sends through that router, a loop, first %s: "+
				"keep from it what is reflected, by a BGPFilter with source: RemotePeers, action: Reject in spec.filters",
			l.name, l.router, a[l])})
	}
	return out
}

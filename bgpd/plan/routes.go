package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/bgpd/filter"
	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/overlay"
)

// arrival is a prefix at somebody: a node, or a router outside by its address.
type arrival struct {
	who    string
	prefix netip.Prefix
}

// spread is what everybody learns: from which node, and over which next hop.
type spread struct {
	from   map[arrival]string
	kernel map[arrival]string // of nodes: the route there, in words
	// loops are the first prefix of each that a reflector and a router may make.
	loops map[loop]netip.Prefix
}

// spread follows what each node announces along the sessions that both ends have.
func (c *cluster) spread() spread {
	s := spread{from: map[arrival]string{}, kernel: map[arrival]string{}, loops: map[loop]netip.Prefix{}}
	scopes := map[string]filter.Scope{}
	for _, name := range c.names {
		scopes[name] = c.nodes[name].scope()
	}
	for _, origin := range c.names {
		for _, family := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
			for _, along := range c.alike(c.nodes[origin].announces(family)) {
				heard, loops := c.flood(origin, family, along[0])
				s.addLoops(loops, along[0].Prefix)
				for _, h := range heard {
					for _, e := range along {
						c.arrive(s, scopes, origin, e.Prefix, h)
					}
				}
			}
		}
	}
	return s
}

// alike puts together what goes the same ways: without filters all of it does.
func (c *cluster) alike(exports []topology.Export) [][]topology.Export {
	if !c.filters && len(exports) > 0 {
		return [][]topology.Export{exports}
	}
	return slices.Collect(slices.Chunk(exports, 1))
}

func (n node) announces(family func(netip.Addr) bool) []topology.Export {
	var out []topology.Export
	for _, e := range n.Exports {
		if family(e.Prefix.Addr()) {
			out = append(out, e)
		}
	}
	return out
}

// scope is what the node's import rules know, its segments included; of its peers they
// are told one at a time.
func (n node) scope() filter.Scope {
	s := n.Scope()
	s.Nodes, s.Mesh = nil, nil
	for _, segment := range n.segments {
		s.Segments = append(s.Segments, filter.Segment{Prefix: segment, Link: "its link"})
	}
	return s
}

// hearing is that somebody hears what one node announces.
type hearing struct {
	node    string     // empty for a router outside
	address netip.Addr // of that router
	via     topology.Peer
	nextHop netip.Addr
}

// holder is a node that has what one node announces, and may pass it on.
type holder struct {
	node    string
	from    topology.Peer // the session it came by, as the holder has it
	nextHop netip.Addr    // invalid: the holder's own address
	route   policy.Route  // as the filters see it
}

// flood is who hears what a node announces in a family, each once, by the shortest way:
// its peers, and what reflectors pass on; and the loops that this may make.
func (c *cluster) flood(origin string, family func(netip.Addr) bool, e topology.Export) (out []hearing, loops []loop) {
	seen := map[string]bool{origin: true}
	queue := []holder{{node: origin, route: policy.Route{Prefix: e.Prefix, Own: true, Communities: e.Communities, LocalPref: speaker.OwnPreference}}}
	for len(queue) > 0 {
		h := queue[0]
		queue = queue[1:]
		for _, p := range c.nodes[h.node].Peers {
			other := c.byAddr[p.Address]
			key := cmp.Or(other, p.Address.String())
			if l, ok := c.mayLoop(h, origin, p); ok && family(p.Address) {
				loops = append(loops, l)
			}
			if seen[key] || !family(p.Address) || !c.mutual(h.node, p) || h.node != origin && !c.passesOn(h.node, h.from, p) {
				continue
			}
			nextHop := c.nextHop(h, p)
			back, _ := c.nodes[other].peer(c.local(h.node, p))
			route, accepted := c.filtered(h, p, back, nextHop)
			if !accepted {
				continue
			}
			seen[key] = true
			out = append(out, hearing{node: other, address: p.Address, via: back, nextHop: nextHop})
			if c.nodes[other].Global.Transit {
				queue = append(queue, holder{other, back, nextHop, route})
			}
		}
	}
	return out, loops
}

// filtered is what the filters of both ends of a session make of a route. Rules that name
// devices match nothing: the datastore doesn't know them.
func (c *cluster) filtered(h holder, p, back topology.Peer, nextHop netip.Addr) (policy.Route, bool) {
	route, accepted, _ := policy.Decide(p.Filter.Export, nil, h.route)
	if !accepted {
		return route, false
	}
	route.Own, route.NextHop = false, nextHop
	if asn := c.asn(h.node, p); asn != p.ASN {
		route.ASPath = slices.Concat([]uint32{asn}, route.ASPath)
		route.LocalPref = 100
	}
	route, accepted, _ = policy.Decide(back.Filter.Import, nil, route)
	return route, accepted
}

// nextHop is what a peer is told: the holder itself for what is its own, and for external
// peers that can't reach the next hop on their segment, unless the session has a rule.
func (c *cluster) nextHop(h holder, p topology.Peer) netip.Addr {
	external := p.ASN != c.asn(h.node, p)
	switch {
	case !h.nextHop.IsValid() || p.NextHop == speaker.NextHopSelf:
		return c.local(h.node, p)
	case p.NextHop == speaker.NextHopAuto && external && !onSegment(c.nodes[h.node].segments, h.nextHop, p.Address):
		return c.local(h.node, p)
	}
	return h.nextHop
}

// onSegment: both are on one of the segments, so that a next hop stays (RFC 4271
// section 5.1.3).
func onSegment(segments []netip.Prefix, nextHop, peer netip.Addr) bool {
	return slices.ContainsFunc(segments, func(s netip.Prefix) bool { return s.Contains(nextHop) && s.Contains(peer) })
}

// passesOn is RFC 4456 section 6: what came from a client, or from outside the AS, goes
// to all, the rest to clients and outside.
func (c *cluster) passesOn(name string, from, to topology.Peer) bool {
	external := func(p topology.Peer) bool { return p.ASN != c.asn(name, p) }
	if from.Address == to.Address {
		return false
	}
	return external(from) || external(to) || from.ReflectorClient || to.ReflectorClient
}

// arrive notes what somebody who hears of a prefix makes of it. What a node has itself,
// or has already, counts.
func (c *cluster) arrive(s spread, scopes map[string]filter.Scope, origin string, prefix netip.Prefix, h hearing) {
	at := arrival{cmp.Or(h.node, h.address.String()), prefix}
	if h.node != "" {
		if _, own := c.nodes[h.node].Export(prefix); own {
			return
		}
	}
	if _, known := s.from[at]; known {
		return
	}
	s.from[at] = origin
	if h.node == "" {
		return
	}
	scope := scopes[h.node]
	only := map[netip.Addr]bool{h.via.Address: true}
	if h.via.Node != "" {
		scope.Nodes = only
	}
	if h.via.Type == topology.Mesh {
		scope.Mesh = only
	}
	path := speaker.Path{Prefix: prefix, NextHop: h.nextHop, Peer: h.via.Address, PeerASN: h.via.ASN}
	switch way, node := scope.Way(path); way.Carrier {
	case overlay.BGP:
		if scope.Import(path) == "" {
			s.kernel[at] = "via " + h.nextHop.String()
		}
	case overlay.Segment:
		s.kernel[at] = "along the segment to " + node + " (felix)"
	case overlay.WireGuard:
		s.kernel[at] = "by WireGuard to " + node + " (felix)"
	default:
		s.kernel[at] = fmt.Sprintf("by %s to %s (felix)", way.Carrier, node)
	}
}

func compareRoutes(r *Result, old, now *cluster) {
	a, b := old.spread(), now.spread()
	r.Gained, r.Lost = missing(b.from, a.from), missing(a.from, b.from)
	var changed []arrival
	for at, way := range a.kernel {
		if b.kernel[at] != way {
			changed = append(changed, at)
		}
	}
	for at := range b.kernel {
		if a.kernel[at] == "" {
			changed = append(changed, at)
		}
	}
	r.Problems = append(r.Problems, newLoops(b.loops, a.loops)...)
	r.Solved = append(r.Solved, newLoops(a.loops, b.loops)...)
	slices.SortFunc(changed, arrival.compare)
	for _, at := range changed {
		r.Routes = append(r.Routes, Route{at.who, at.prefix.String(), a.kernel[at], b.kernel[at]})
	}
}

// missing are those of a that b lacks.
func missing(a, b map[arrival]string) []Prefix {
	var list []arrival
	for at := range a {
		if _, there := b[at]; !there {
			list = append(list, at)
		}
	}
	slices.SortFunc(list, arrival.compare)
	var out []Prefix
	for _, at := range list {
		out = append(out, Prefix{at.who, at.prefix.String(), a[at]})
	}
	return out
}

func (a arrival) compare(b arrival) int {
	return cmp.Or(strings.Compare(a.who, b.who), a.prefix.Compare(b.prefix))
}

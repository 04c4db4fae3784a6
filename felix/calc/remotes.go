package calc

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

// Remote is a route to pods of another node that is felix's to write.
type Remote struct {
	Dst netip.Prefix
	// Via is the next hop: the other node's address, or that of its device of VXLAN.
	// Invalid: Dst is the latter, or goes by WireGuard, which finds its peer itself.
	Via     netip.Addr
	Carrier overlay.Carrier
}

// borrowed collects the addresses in use on another node than the one that owns
// their block. Nothing else of a block is kept: every pod of the cluster changes one.
type borrowed struct {
	self  string
	byKey map[api.Key]map[netip.Addr]string // → node
}

func newBorrowed(self string) borrowed {
	return borrowed{self: self, byKey: map[api.Key]map[netip.Addr]string{}}
}

// update reports whether something of interest changed.
func (b *borrowed) update(u datastore.SyncUpdate) bool {
	var now map[netip.Addr]string
	if u.Entry != nil {
		if block, ok := u.Entry.Object.(*api.IPAMBlock); ok {
			now = b.read(&block.Spec)
		}
	}
	before := b.byKey[u.Key]
	if len(now) == 0 {
		delete(b.byKey, u.Key)
	} else {
		b.byKey[u.Key] = now
	}
	return !maps.Equal(before, now)
}

// read trusts nothing in a block: an index out of range is an address that is free.
func (b *borrowed) read(spec *api.IPAMBlockSpec) map[netip.Addr]string {
	prefix, err := netip.ParsePrefix(spec.CIDR)
	if err != nil {
		return nil
	}
	nodes := b.elsewhere(spec)
	if nodes == nil {
		return nil
	}
	var out map[netip.Addr]string
	addr := prefix.Masked().Addr()
	for _, index := range spec.Allocations {
		if !addr.IsValid() || !prefix.Contains(addr) {
			break
		}
		if index != nil && *index >= 0 && *index < len(nodes) && nodes[*index] != "" {
			if out == nil {
				out = map[netip.Addr]string{}
			}
			out[addr] = nodes[*index]
		}
		addr = addr.Next()
	}
	return out
}

// elsewhere names, for each of a block's attributes, the node of its addresses unless
// that is the owner or this one; nil when there is none.
func (b *borrowed) elsewhere(spec *api.IPAMBlockSpec) []string {
	owner := ""
	if spec.Affinity != nil {
		owner = *spec.Affinity
	}
	var out []string
	for i, attrs := range spec.Attributes {
		node := attrs.ActiveOwnerAttrs[api.AttributeNode]
		if node == "" || node == b.self || owner == api.HostAffinity(node).String() {
			continue
		}
		if out == nil {
			out = make([]string, len(spec.Attributes))
		}
		out[i] = node
	}
	return out
}

// remotes are the routes to other nodes' blocks and borrowed addresses that an
// overlay asks for, by destination. A block is held against the surroundings as an
// own one is: whoever may write an affinity must not draw this node's packets to
// etcd, or to the node next door, into a tunnel.
func (g *Graph) remotes(view overlay.View, around surroundings) []Remote {
	if !g.overlaid() {
		return nil
	}
	owners := g.owners()
	out := make([]Remote, 0, len(owners))
	gateways := map[netip.Addr]bool{}
	for dst, node := range owners {
		way := view.To(dst, node)
		if way.Carrier == overlay.BGP || around.refuse(dst) != nil {
			continue
		}
		r := Remote{Dst: dst, Via: way.There.Address.Addr(), Carrier: way.Carrier}
		switch way.Carrier {
		case overlay.VXLAN:
			r.Via = way.There.Tunnel
			gateways[r.Via] = true
		case overlay.WireGuard:
			r.Via = netip.Addr{}
		}
		out = append(out, r)
	}
	// IPv6 wants every next hop's own route to lead out of the same device, also of one that
	// its node has borrowed.
	out = slices.DeleteFunc(out, func(r Remote) bool { return r.Dst.Addr().Is6() && r.Dst.IsSingleIP() && gateways[r.Dst.Addr()] })
	for via := range gateways {
		if via.Is6() {
			out = append(out, Remote{Dst: netip.PrefixFrom(via, via.BitLen()), Carrier: overlay.VXLAN})
		}
	}
	slices.SortFunc(out, func(a, b Remote) int { return comparePrefix(a.Dst, b.Dst) })
	return out
}

// owners are the other nodes that have a block or a borrowed address, by that.
func (g *Graph) owners() map[netip.Prefix]string {
	owners := map[netip.Prefix]string{}
	add := func(dst netip.Prefix, node string) {
		// Two owners are damage that no allocator does; the same one counts everywhere.
		if other, twice := owners[dst]; node != g.node && (!twice || node < other) {
			owners[dst] = node
		}
	}
	for _, block := range g.blocks.byKey {
		if block.err == nil && block.confirmed {
			add(block.prefix, block.node)
		}
	}
	for _, addrs := range g.borrowed.byKey {
		for a, node := range addrs {
			add(netip.PrefixFrom(a, a.BitLen()), node)
		}
	}
	g.addFloating(owners)
	return owners
}

// addFloating adds the floating addresses of nodes with WireGuard, as far as they are in
// a pool and IPAM has not given them to a pod: of others BGP alone tells.
func (g *Graph) addFloating(owners map[netip.Prefix]string) {
	floating := map[netip.Prefix]string{}
	for key, n := range g.nodes.byKey {
		for text := range strings.SplitSeq(n.floating, ",") {
			a, err := netip.ParseAddr(text)
			if err != nil || a.Zone() != "" || key.Name == g.node || !n.ends.End(a).Secure.Has() {
				continue
			}
			dst := single(a)
			if other, twice := floating[dst]; !twice || key.Name < other {
				floating[dst] = key.Name
			}
		}
	}
	for dst, node := range floating {
		if _, taken := owners[dst]; !taken {
			owners[dst] = node
		}
	}
}

// TunnelPool is an IP pool from which this node has, or may take, its tunnel address.
type TunnelPool struct {
	Prefix netip.Prefix
	// Open: a new address may be taken from it.
	Open bool
	By   overlay.Carrier
}

// sortedTunnelPools: of two with one range, which there should not be, the open one
// comes first.
func sortedTunnelPools(pools []TunnelPool) []TunnelPool {
	slices.SortFunc(pools, func(a, b TunnelPool) int {
		if a.Open != b.Open && a.Prefix == b.Prefix {
			return map[bool]int{true: -1, false: 1}[a.Open]
		}
		return comparePrefix(a.Prefix, b.Prefix)
	})
	return slices.Compact(pools)
}

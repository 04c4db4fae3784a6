package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"tortie/internal/advertise"
	"tortie/internal/api"
)

// ExcludeLabel is the label by which a node asks to get no packets to services from
// outside. As upstream has it, only the value "true" counts.
const ExcludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// services are the ranges and addresses of services that this node announces, with
// the reasons. Two services may have one address: the first by name is named.
func (c *computation) services() map[netip.Prefix]string {
	ranges := c.settings.services
	for _, p := range ranges.All() {
		c.out.ServiceRanges = append(c.out.ServiceRanges, p)
		if p.Bits() == 0 {
			c.problem("BGPConfiguration default: the range %s of service addresses is not announced, as it would be a default route: "+
				"give the ranges in use; single addresses in it are announced", p)
		}
	}
	own := map[netip.Prefix]string{}
	announce := func(p netip.Prefix, what string, here bool) {
		c.out.Services[p] = cmp.Or(c.out.Services[p], what)
		if here && c.self.labels[ExcludeLabel] != "true" {
			own[p] = cmp.Or(own[p], what)
		}
	}
	for _, r := range ranges.Whole() {
		announce(r.Prefix, r.What, true)
	}
	routers := c.peerAddresses()
	for _, s := range c.sortedServices() {
		for _, a := range ranges.Addresses(&s.Spec) {
			if a.Unchecked {
				if owner := c.owner(a.Addr, routers); owner != "" {
					c.problem("Service %s/%s: the %s %s is %s and is not announced: take it out of spec.externalIPs", s.Namespace, s.Name, a.What, a.Addr, owner)
					continue
				}
			}
			p := netip.PrefixFrom(a.Addr, a.Addr.BitLen())
			announce(p, fmt.Sprintf("service %s/%s, %s", s.Namespace, s.Name, a.What), c.drawn(a))
		}
	}
	return own
}

// owner says whose an address is, that no service may draw to itself; empty for
// nobody's. A pool of service addresses alone owns none.
func (c *computation) owner(a netip.Addr, routers map[netip.Addr]string) string {
	if n := c.byAddr[a]; n != nil {
		return "that of Node " + n.name
	}
	if peer, ok := routers[a]; ok {
		return "that of BGPPeer " + peer
	}
	for _, p := range c.in.Pools {
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && forWorkloads(p) && cidr.Contains(a) {
			return "in IPPool " + p.Name
		}
	}
	for bits := range a.BitLen() + 1 {
		if block, err := a.Prefix(bits); err == nil && c.out.Blocks[block] {
			return "in the pods' block " + block.String()
		}
	}
	return ""
}

// peerAddresses are the addresses of the routers that any node peers with, with the
// first BGPPeer by name.
func (c *computation) peerAddresses() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, p := range c.in.Peers {
		if a, _, err := parsePeerIP(p.Spec.PeerIP); err == nil && (out[a] == "" || p.Name < out[a]) {
			out[a] = p.Name
		}
	}
	return out
}

// drawn: packets to the address may come to this node.
func (c *computation) drawn(a advertise.Address) bool {
	return a.Everywhere || slices.Contains(a.Nodes, c.self.kubernetes)
}

func (c *computation) sortedServices() []*api.AdvertisedService {
	return slices.SortedFunc(slices.Values(c.in.Services), func(a, b *api.AdvertisedService) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

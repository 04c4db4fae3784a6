package calc

import (
	"fmt"
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

type pool struct {
	prefix     netip.Prefix
	masquerade bool
	overlay    string // the field and mode of its encapsulation; empty for none
	err        error
}

// pools collects the IP pools.
type pools struct{ byKey map[api.Key]pool }

func newPools() pools { return pools{byKey: map[api.Key]pool{}} }

func (p *pools) update(u datastore.SyncUpdate) {
	delete(p.byKey, u.Key)
	switch {
	case u.Invalid != nil:
		p.byKey[u.Key] = pool{err: u.Invalid.Err}
	case u.Entry != nil:
		obj, ok := u.Entry.Object.(*v3.IPPool)
		if !ok {
			return
		}
		prefix, err := parseNetwork(obj.Spec.CIDR)
		if err != nil {
			err = fmt.Errorf("spec.cidr: %w", err)
		}
		p.byKey[u.Key] = pool{prefix: prefix, masquerade: obj.Spec.NATOutgoing, overlay: overlayOf(obj.Spec), err: err}
	}
}

// overlayOf names the encapsulation a pool asks for.
func overlayOf(spec v3.IPPoolSpec) string {
	switch {
	case spec.IPIPMode != "" && spec.IPIPMode != v3.IPIPModeNever:
		return "spec.ipipMode: " + string(spec.IPIPMode)
	case spec.VXLANMode != "" && spec.VXLANMode != v3.VXLANModeNever:
		return "spec.vxlanMode: " + string(spec.VXLANMode)
	}
	return ""
}

func (p *pools) prefixes(problems *problemList) (all, masquerade []netip.Prefix) {
	for key, pool := range p.byKey {
		if pool.err != nil {
			problems.add(key, "%v; the pool is left out of outgoing NAT", pool.err)
			continue
		}
		if pool.overlay != "" {
			problems.add(key, "%s is not carried out yet: packets between nodes are routed without encapsulation, so the network between them must "+
				"let pod addresses pass; set the mode to Never to say that this is wanted", pool.overlay)
		}
		all = append(all, pool.prefix)
		if pool.masquerade {
			masquerade = append(masquerade, pool.prefix)
		}
	}
	return sortedPrefixes(all), sortedPrefixes(masquerade)
}

// nodes collects the addresses of every node of the cluster.
type nodes struct {
	self  string
	byKey map[api.Key]node
}

type node struct {
	bgp api.NodeBGPSpec
	err error
}

func newNodes(self string) nodes { return nodes{self: self, byKey: map[api.Key]node{}} }

func (n *nodes) update(u datastore.SyncUpdate) {
	delete(n.byKey, u.Key)
	switch {
	case u.Invalid != nil:
		n.byKey[u.Key] = node{err: u.Invalid.Err}
	case u.Entry != nil:
		if obj, ok := u.Entry.Object.(*api.Node); ok && obj.Spec.BGP != nil {
			n.byKey[u.Key] = node{bgp: *obj.Spec.BGP}
		}
	}
}

// addrs returns this node's addresses with the length of their subnet, IPv4
// first, and every node's as single addresses. What is wrong with another node is
// that node's to report.
func (n *nodes) addrs(problems *problemList) (own, all []netip.Prefix) {
	for key, node := range n.byKey {
		mine := key.Name == n.self
		if node.err != nil && mine {
			problems.add(key, "%v; this node's addresses are unknown", node.err)
		}
		for _, f := range []struct{ name, text string }{
			{"spec.bgp.ipv4Address", node.bgp.IPv4Address},
			{"spec.bgp.ipv6Address", node.bgp.IPv6Address},
		} {
			if f.text == "" {
				continue
			}
			p, err := parseInterfaceAddr(f.text)
			switch {
			case err == nil:
				all = append(all, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
			case mine:
				problems.add(key, "%s: %v", f.name, err)
			}
			if err == nil && mine {
				own = append(own, p)
			}
		}
	}
	return own, sortedPrefixes(all)
}

// parseNetwork reads a prefix without host bits.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 10.65.0.0/16", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set, want %s", s, p.Masked())
	}
	return p, nil
}

// parseInterfaceAddr reads an address with the length of its subnet; without one
// it is the address alone.
func parseInterfaceAddr(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an address such as 192.0.2.1/24", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

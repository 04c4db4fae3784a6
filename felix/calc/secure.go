package calc

import (
	"net/netip"
	"slices"

	"tortie/internal/overlay"
)

// SecureTunnel is this node's end of WireGuard in one version of IP.
type SecureTunnel struct {
	Here  overlay.End
	Peers []SecurePeer // by name
}

// SecurePeer is another node's end.
type SecurePeer struct {
	Node string
	End  overlay.End
	// Allowed are the addresses that are that node's: its pods', its tunnel's and its
	// own. Whatever else claims to come from it is dropped.
	Allowed []netip.Prefix
}

// secure are this node's ends. What is allowed of a peer is held against the
// surroundings as its routes are: no node takes another's addresses, nor those of this
// node's networks.
func (g *Graph) secure(view overlay.View, around surroundings) []SecureTunnel {
	if !g.nodes.secured() {
		return nil
	}
	allowed, owners := map[string][]netip.Prefix{}, g.owners()
	for dst, node := range owners {
		if view.To(dst, node).Carrier == overlay.WireGuard && around.refuse(dst) == nil {
			allowed[node] = append(allowed[node], dst)
		}
	}
	var out []SecureTunnel
	for _, v6 := range []bool{false, true} {
		here, peers, ok := view.Secured(v6)
		if !ok {
			continue
		}
		t := SecureTunnel{Here: here, Peers: make([]SecurePeer, 0, len(peers))}
		for _, p := range peers {
			own := []netip.Prefix{single(p.End.Secure.Tunnel)}
			if owner, pod := owners[own[0]]; pod && owner != p.Node || around.refuse(own[0]) != nil {
				own = nil
			}
			if a := p.End.Address.Addr(); view.NodeAt(a) == p.Node {
				own = append(own, single(a))
			}
			t.Peers = append(t.Peers, SecurePeer{Node: p.Node, End: p.End, Allowed: sortedPrefixes(append(own, ofVersion(v6, allowed[p.Node])...))})
		}
		out = append(out, t)
	}
	return out
}

func ofVersion(v6 bool, all []netip.Prefix) (out []netip.Prefix) {
	for _, p := range all {
		if p.Addr().Is6() == v6 {
			out = append(out, p)
		}
	}
	return out
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Equal reports whether two are the same in all.
func (t SecureTunnel) Equal(o SecureTunnel) bool {
	return t.Here == o.Here && slices.EqualFunc(t.Peers, o.Peers, func(a, b SecurePeer) bool {
		return a.Node == b.Node && a.End == b.End && slices.Equal(a.Allowed, b.Allowed)
	})
}

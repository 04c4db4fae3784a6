package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
	"tortie/internal/selector"
)

type pool struct {
	prefix     netip.Prefix
	masquerade bool
	overlay    overlay.Pool
	wrong      string // about its modes
	selector   string // of nodes
	open       bool   // gives addresses to tunnels
	pods       bool   // not one of load balancers
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
		p.byKey[u.Key] = readPool(obj, prefix, err)
	}
}

func readPool(obj *v3.IPPool, prefix netip.Prefix, err error) pool {
	spec := obj.Spec
	return pool{
		prefix: prefix, masquerade: spec.NATOutgoing, overlay: overlay.PoolOf(prefix, spec), selector: spec.NodeSelector, err: err, wrong: overlay.Wrong(prefix, spec),
		open: !spec.Disabled && obj.DeletionTimestamp == nil && api.PoolServes(spec, v3.IPPoolAllowedUseTunnel),
		pods: !api.PoolServes(spec, v3.IPPoolAllowedUseLoadBalancer),
	}
}

// overlaid reports whether any pool asks for an overlay.
func (p *pools) overlaid() bool {
	for _, pool := range p.byKey {
		if pool.err == nil && pool.overlay.Mode != overlay.Never {
			return true
		}
	}
	return false
}

func (p *pools) modes() []overlay.Pool {
	var out []overlay.Pool
	for _, pool := range p.byKey {
		if pool.err == nil {
			out = append(out, pool.overlay)
		}
	}
	return out
}

// ask reports whether any pool asks for an encapsulation.
func (p *pools) ask(by overlay.Carrier) bool {
	for _, pool := range p.byKey {
		if pool.err == nil && pool.overlay.By == by {
			return true
		}
	}
	return false
}

// forTunnels are the pools with an overlay that select a node with these labels. One whose
// selector can't be read selects none: who takes addresses from it says so.
func (p *pools) forTunnels(labels map[string]string) []TunnelPool {
	var out []TunnelPool
	for _, pool := range p.byKey {
		if pool.err != nil || pool.overlay.Mode == overlay.Never {
			continue
		}
		if sel, err := selector.Parse(pool.selector); err == nil && sel.Matches(labels) {
			out = append(out, TunnelPool{Prefix: pool.prefix, Open: pool.open, By: pool.overlay.By})
		}
	}
	return sortedTunnelPools(out)
}

// overlays are the pools whose encapsulation is needed.
func (p *pools) overlays(view overlay.View) (out []PoolOverlay) {
	for _, pool := range p.byKey {
		if pool.err == nil && view.Needs(pool.overlay) {
			out = append(out, PoolOverlay{Prefix: pool.prefix, By: pool.overlay.By, Wrong: pool.wrong})
		}
	}
	slices.SortFunc(out, func(a, b PoolOverlay) int {
		return cmp.Or(comparePrefix(a.Prefix, b.Prefix), cmp.Compare(a.By, b.By), cmp.Compare(a.Wrong, b.Wrong))
	})
	return out
}

// forNodes are all pools that select a node with these labels: WireGuard is on in all.
func (p *pools) forNodes(labels map[string]string) []TunnelPool {
	var out []TunnelPool
	for _, pool := range p.byKey {
		if sel, err := selector.Parse(pool.selector); pool.err == nil && err == nil && sel.Matches(labels) {
			out = append(out, TunnelPool{By: overlay.WireGuard, Prefix: pool.prefix, Open: pool.open})
		}
	}
	return sortedTunnelPools(out)
}

// toTunnels are the pools whose pods go to some nodes' pods by a tunnel and to those nodes
// themselves under this node's address.
func (p *pools) toTunnels(view overlay.View, nodes map[string]overlay.Node) TunnelMasquerade {
	var out TunnelMasquerade
	for _, pool := range p.byKey {
		if pool.err != nil || !pool.masquerade {
			continue
		}
		if pool.overlay.Mode != overlay.Never {
			out.Pools = append(out.Pools, pool.prefix)
		}
		for name := range nodes {
			if way := view.To(pool.prefix, name); way.Carrier.Encapsulates() {
				out.Pools = append(out.Pools, pool.prefix)
				a := way.There.Address.Addr()
				out.Nodes = append(out.Nodes, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	out.Pools, out.Nodes = sortedPrefixes(out.Pools), sortedPrefixes(out.Nodes)
	return out
}

func (p *pools) prefixes(problems *problemList) (all, masquerade []netip.Prefix) {
	for key, pool := range p.byKey {
		if pool.err != nil {
			problems.add(key, "%v; the pool is left out of outgoing NAT", pool.err)
			continue
		}
		if pool.wrong != "" {
			problems.add(key, "%s", pool.wrong)
		}
		all = append(all, pool.prefix)
		if pool.masquerade {
			masquerade = append(masquerade, pool.prefix)
		}
	}
	return sortedPrefixes(all), sortedPrefixes(masquerade)
}

// ofPods are the pools but those of load balancers.
func (p *pools) ofPods() (all []netip.Prefix) {
	for _, pool := range p.byKey {
		if pool.err == nil && pool.pods {
			all = append(all, pool.prefix)
		}
	}
	return sortedPrefixes(all)
}

// nodes collects the addresses of every node of the cluster.
type nodes struct {
	self  string
	byKey map[api.Key]node
}

type node struct {
	bgp    api.NodeBGPSpec
	ends   overlay.Node
	labels map[string]string
	// keyRequest is this node's annotation by which its keys are to be changed.
	keyRequest string
	floating   string // the annotation with the floating addresses
	err        error
}

func newNodes(self string) nodes { return nodes{self: self, byKey: map[api.Key]node{}} }

func (n *nodes) update(u datastore.SyncUpdate) {
	delete(n.byKey, u.Key)
	switch {
	case u.Invalid != nil:
		n.byKey[u.Key] = node{err: u.Invalid.Err}
	case u.Entry != nil:
		if obj, ok := u.Entry.Object.(*api.Node); ok && obj.Spec.BGP != nil {
			n.byKey[u.Key] = readNode(u.Key.Name, n.self, obj)
		}
	}
}

func readNode(name, self string, obj *api.Node) node {
	read := node{bgp: *obj.Spec.BGP, ends: overlay.ReadNode(name, &obj.Spec).Keyed(&obj.Status)}
	read.floating = obj.Annotations[api.AnnotationFloatingAddresses]
	if name == self {
		read.labels, read.keyRequest = obj.Labels, obj.Annotations[api.AnnotationNewWireguardKeys]
	}
	return read
}

func (n *nodes) ends() map[string]overlay.Node {
	out := make(map[string]overlay.Node, len(n.byKey))
	for key, node := range n.byKey {
		out[key.Name] = node.ends
	}
	return out
}

// own is this node.
func (n *nodes) own() node { return n.byKey[api.Key{Kind: api.KindNode, Name: n.self}] }

// secured reports whether this node has published a key of WireGuard.
func (n *nodes) secured() bool {
	ends := n.own().ends
	return ends.V4.Secure.Key != overlay.Key{} || ends.V6.Secure.Key != overlay.Key{}
}

// labels are this node's.
func (n *nodes) labels() map[string]string { return n.own().labels }

// networks are the subnets that nodes' addresses are given with.
func (n *nodes) networks() (all []netip.Prefix) {
	for _, node := range n.byKey {
		for _, text := range []string{node.bgp.IPv4Address, node.bgp.IPv6Address} {
			if p, err := parseInterfaceAddr(text); err == nil {
				all = append(all, p.Masked())
			}
		}
	}
	return all
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

// Package overlay decides by what a node's packets reach the pods of another node:
// by the route that BGP brings, by a route along a common segment, by VXLAN or by
// IPIP, or by WireGuard. felix writes the routes of all but the first, which are bgpd's; both ask
// this package, so that no two settings can have them contradict each other.
//
// It is pure: what it says depends on the IP pools and Nodes alone.
package overlay

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// Carrier is what brings packets to another node's pods, and so whose route it is.
type Carrier int

// The carriers.
const (
	// BGP: bgpd's route, as it was learned.
	BGP Carrier = iota
	// Segment: felix's route to the other node's address, on a segment both are on.
	Segment
	// IPIP: felix's route to the other node's address, through the device that puts a
	// header of IPv4 before that of the packet.
	IPIP
	// VXLAN: felix's route into the tunnel to the other node.
	VXLAN
	// WireGuard: felix's route into the device that encrypts.
	WireGuard
)

// Encapsulates reports whether packets are within others on their way.
func (c Carrier) Encapsulates() bool { return c == IPIP || c == VXLAN || c == WireGuard }

// String is the carrier as people call it.
func (c Carrier) String() string {
	switch c {
	case Segment:
		return "a segment"
	case IPIP:
		return "IPIP"
	case VXLAN:
		return "VXLAN"
	case WireGuard:
		return "WireGuard"
	}
	return "BGP"
}

// Mode is how far an IP pool's packets are encapsulated.
type Mode int

// The modes of a pool.
const (
	Never Mode = iota
	CrossSubnet
	Always
)

// Pool is an IP pool. A disabled one counts like any other: its pods live on.
type Pool struct {
	Prefix netip.Prefix
	Mode   Mode
	// By is the encapsulation, where the mode isn't Never.
	By Carrier
}

// PoolOf is what a pool of that range asks for. One of IPv6 has no IPIP; one with both
// encapsulations, which only somebody can write who goes past calicoctl, has VXLAN. See
// [Wrong].
func PoolOf(prefix netip.Prefix, spec v3.IPPoolSpec) Pool {
	switch vxlan, ipip := modeOf(string(spec.VXLANMode)), modeOf(string(spec.IPIPMode)); {
	case vxlan != Never:
		return Pool{Prefix: prefix, Mode: vxlan, By: VXLAN}
	case ipip != Never && prefix.Addr().Is4():
		return Pool{Prefix: prefix, Mode: ipip, By: IPIP}
	}
	return Pool{Prefix: prefix}
}

// ModeOf is the mode that a pool asks for, by whatever encapsulation.
func ModeOf(spec v3.IPPoolSpec) Mode {
	if mode := modeOf(string(spec.VXLANMode)); mode != Never {
		return mode
	}
	return modeOf(string(spec.IPIPMode))
}

// modeOf takes a word that nobody knows for Always: who mistypes a mode, or has a newer
// one, wants pods to be reached wherever the nodes reach one another, and that is what
// Always needs and no more.
func modeOf(word string) Mode {
	switch word {
	case "", string(v3.VXLANModeNever):
		return Never
	case string(v3.VXLANModeCrossSubnet):
		return CrossSubnet
	}
	return Always
}

// Wrong is what is the matter with a pool's modes, and what comes of it; empty for
// nothing. calicoctl lets none of it pass.
func Wrong(prefix netip.Prefix, spec v3.IPPoolSpec) string {
	for _, f := range [][2]string{{"spec.vxlanMode", string(spec.VXLANMode)}, {"spec.ipipMode", string(spec.IPIPMode)}} {
		if modeOf(f[1]) == Always && f[1] != string(v3.VXLANModeAlways) {
			return fmt.Sprintf("%s: %q is none of Never, CrossSubnet and Always: it is taken for Always; correct it with calicoctl", f[0], f[1])
		}
	}
	switch vxlan, ipip := modeOf(string(spec.VXLANMode)), modeOf(string(spec.IPIPMode)); {
	case ipip == Never:
	case vxlan != Never:
		return fmt.Sprintf("a pool has one encapsulation, and this one asks for two: vxlanMode %s counts; set ipipMode or vxlanMode to Never", spec.VXLANMode)
	case prefix.Addr().Is6():
		return fmt.Sprintf("spec.ipipMode: IPIP carries only IPv4, so %s is taken for Never; set it so, or use vxlanMode", spec.IPIPMode)
	}
	return ""
}

// View is what is decided by. It does not change; equal clusters have equal Views.
type View struct {
	self  string
	nodes map[string]Node
	at    map[netip.Addr]string // → node
	pools []Pool
}

// NewView is that of a node named self. Nodes are all of the cluster, by name; the
// order of the pools does not matter. Of two nodes with one tunnel address, or one MAC
// address, the first by name has it, on whatever node that is asked; one without an address of its own,
// which not everybody counts among the nodes, has none.
func NewView(self string, nodes map[string]Node, pools []Pool) View {
	v := View{self: self, nodes: maps.Clone(nodes), at: map[netip.Addr]string{}, pools: slices.Clone(pools)}
	slices.SortFunc(v.pools, func(a, b Pool) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Mode, b.Mode), cmp.Compare(a.By, b.By))
	})
	names := slices.Sorted(maps.Keys(nodes))
	for _, name := range names {
		for _, end := range []End{nodes[name].V4, nodes[name].V6} {
			if a := end.Address.Addr(); a.IsValid() && v.at[a] == "" {
				v.at[a] = name
			}
		}
	}
	taken := taken{addrs: map[netip.Addr]string{}, macs: [2]map[MAC]string{{}, {}}}
	for _, name := range names {
		n := nodes[name]
		n.V4.IPIP = v.ipipEnd(name, n.V4, taken.addrs)
		for i, end := range []*End{&n.V4, &n.V6} {
			if !end.ready() {
				end.Tunnel = netip.Addr{}
				continue
			}
			if end.Refused = v.refuse(*end, taken, i); end.Refused != "" {
				end.Tunnel = netip.Addr{}
				continue
			}
			taken.addrs[end.Tunnel], taken.macs[i][end.MAC] = name, name
		}
		v.nodes[name] = n
	}
	v.secure(names, taken.addrs)
	return v
}

// ipipEnd is an end's part in IPIP as far as it can be used.
func (v View) ipipEnd(name string, end End, taken map[netip.Addr]string) IPIPEnd {
	a := end.IPIP.Tunnel
	if !end.Address.IsValid() || !a.IsValid() {
		return IPIPEnd{}
	}
	if why := v.misplaced(end, a, "IPIP", taken); why != "" {
		return IPIPEnd{Refused: why}
	}
	taken[a] = name
	return IPIPEnd{Tunnel: a}
}

// taken is what nodes have for their tunnels: a MAC address counts in its version of
// IP, which has a device of its own.
type taken struct {
	addrs map[netip.Addr]string
	macs  [2]map[MAC]string
}

// refuse says why an end's tunnel can't be used; "" when it can. A Node is data that
// others can write: what it names must draw no packets into a tunnel but those to pods.
// It depends on nothing that is another on another node.
func (v View) refuse(end End, taken taken, family int) string {
	if why := v.misplaced(end, end.Tunnel, "VXLAN", taken.addrs); why != "" {
		return why
	}
	if other := taken.macs[family][end.MAC]; other != "" {
		return fmt.Sprintf("node %s has the MAC address %s of VXLAN already", other, end.MAC)
	}
	return ""
}

// misplaced says why an end can't have an address for its tunnel of some kind.
func (v View) misplaced(end End, a netip.Addr, kind string, taken map[netip.Addr]string) string {
	switch inPool := func(p Pool) bool { return p.Prefix.Contains(a) }; {
	case !slices.ContainsFunc(v.pools, inPool):
		return fmt.Sprintf("the %s tunnel address %s lies in no IP pool", kind, a)
	case v.at[a] != "":
		return fmt.Sprintf("the %s tunnel address %s is that of node %s itself", kind, a, v.at[a])
	case end.Address.Contains(a):
		return fmt.Sprintf("the %s tunnel address %s lies in the node's own network %s", kind, a, end.Address.Masked())
	case taken[a] != "":
		return fmt.Sprintf("node %s has the %s tunnel address %s already", taken[a], kind, a)
	}
	return ""
}

// Equal reports whether two Views say the same of everything.
func (v View) Equal(o View) bool { return reflect.DeepEqual(v, o) }

// NodeAt is the node with an address of its own; "" for none.
func (v View) NodeAt(a netip.Addr) string { return v.at[a] }

// Refused is why this node's tunnels that its Node names are not used.
func (v View) Refused() []string {
	var out []string
	for _, end := range []End{v.nodes[v.self].V4, v.nodes[v.self].V6} {
		for _, why := range []string{end.IPIP.Refused, end.Refused, end.Secure.Refused} {
			if why != "" {
				out = append(out, why)
			}
		}
	}
	return out
}

// Way is how packets to a destination go.
type Way struct {
	Carrier Carrier
	// There is the other node's end; zero when the carrier is BGP.
	There End
	// Reason says why a pool that asks for an overlay does not have it; else it is empty.
	Reason string
}

// To is the way from this node to a block, or a single address, of another.
//
// A tunnel is used only between nodes that both have published a tunnel address, which
// a node does when its device is ready: until then BGP carries on, so that a mode can
// be changed under traffic. WireGuard comes before it, on the same terms. Both ends come to the same answer.
func (v View) To(dst netip.Prefix, node string) Way {
	if node == v.self {
		return Way{}
	}
	if there, ok := v.secured(dst, node); ok {
		return Way{Carrier: WireGuard, There: there}
	}
	mode, by := v.mode(dst)
	if mode == Never {
		return Way{}
	}
	here, there := v.nodes[v.self].End(dst.Addr()), v.nodes[node].End(dst.Addr())
	if mode == CrossSubnet && sameSegment(here.Address, there.Address) {
		return Way{Carrier: Segment, There: there}
	}
	for _, end := range []struct {
		node string
		End
	}{{v.self, here}, {node, there}} {
		switch tunnel, refused := end.tunnel(by); {
		case !end.Address.IsValid():
			return Way{Reason: fmt.Sprintf("node %s has no %s address for %s", or(end.node, "unknown"), version(dst), by)}
		case refused != "":
			return Way{Reason: fmt.Sprintf("node %s: %s", end.node, refused)}
		case !tunnel.IsValid():
			return Way{Reason: fmt.Sprintf("node %s has no %s %s tunnel address yet", end.node, version(dst), by)}
		}
	}
	if by == IPIP {
		return Way{Carrier: IPIP, There: there}
	}
	// The routes name each other's tunnel: on neither node may that be a neighbour.
	for _, pair := range [][2]End{{here, there}, {there, here}} {
		if pair[0].Address.Contains(pair[1].Tunnel) {
			return Way{Reason: fmt.Sprintf("the VXLAN tunnel address %s lies in the network %s of the node at the other end",
				pair[1].Tunnel, pair[0].Address.Masked())}
		}
	}
	return Way{Carrier: VXLAN, There: there}
}

// Needs reports whether packets of a pool are to be encapsulated on their way to the pods of
// some other node, possible or not. Where WireGuard carries, the pool's mode is not needed.
func (v View) Needs(p Pool) bool {
	if p.Mode == Never {
		return false
	}
	here := v.nodes[v.self].End(p.Prefix.Addr())
	for name, node := range v.nodes {
		there := node.End(p.Prefix.Addr())
		if name == v.self || !there.Address.IsValid() || p.Mode == CrossSubnet && sameSegment(here.Address, there.Address) {
			continue
		}
		if _, secured := v.secured(p.Prefix, name); !secured {
			return true
		}
	}
	return false
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func version(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// mode is that of the smallest pool around a destination, and by what; Never outside
// of all.
func (v View) mode(dst netip.Prefix) (mode Mode, by Carrier) {
	bits := -1
	for _, p := range v.pools {
		if p.Prefix.Bits() <= dst.Bits() && p.Prefix.Bits() > bits && p.Prefix.Contains(dst.Addr()) {
			mode, by, bits = p.Mode, p.By, p.Prefix.Bits()
		}
	}
	return mode, by
}

// sameSegment: each of two addresses lies in the other's subnet. Asking both makes
// the answer the same on both nodes, whatever lengths they are registered with.
func sameSegment(a, b netip.Prefix) bool {
	return a.IsValid() && b.IsValid() && a.Contains(b.Addr()) && b.Contains(a.Addr())
}

// IPIP is the address of this node's IPIP device; invalid where it has none.
func (v View) IPIP() netip.Addr { return v.nodes[v.self].V4.IPIP.Tunnel }

// Tunnel is this node's end of VXLAN in one family, and the others'.
type Tunnel struct {
	Here End
	// Peers are by their tunnel address; no two have one MAC address.
	Peers []End
}

// Tunnels are this node's, IPv4 first; none where it has no tunnel address.
func (v View) Tunnels() []Tunnel {
	var out []Tunnel
	for _, family := range []func(Node) End{func(n Node) End { return n.V4 }, func(n Node) End { return n.V6 }} {
		t := Tunnel{Here: family(v.nodes[v.self])}
		if !t.Here.ready() {
			continue
		}
		for name, n := range v.nodes {
			if end := family(n); end.ready() && name != v.self {
				t.Peers = append(t.Peers, end)
			}
		}
		slices.SortFunc(t.Peers, func(a, b End) int { return a.Tunnel.Compare(b.Tunnel) })
		out = append(out, t)
	}
	return out
}

// Package given decides which addresses a pod may have that nobody assigns
// (ipAddrsNoIpam): none that is somebody's already, or that may come to be. What is taken
// from its owner so is lost to the whole node, and with etcd's address the cluster.
package given

import (
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"go4.org/netipx"

	"tortie/internal/api"
)

// Surroundings are what this node knows of itself and its neighbours.
type Surroundings struct {
	Own      []netip.Prefix // the addresses of its devices with the length of their subnet
	Gateways []netip.Addr   // the next hops of its routes
	Etcd     []netip.Addr   // where the datastore is reached
	Services []netip.Prefix // the ranges of service addresses
}

// View is all that an address is judged by.
type View struct {
	Surroundings
	Nodes        []*api.Node
	Endpoints    []*api.WorkloadEndpoint // those of others than the pod
	Pools        []*v3.IPPool
	Reservations []*v3.IPReservation
	Peers        []*v3.BGPPeer
	Blocks       []*api.IPAMBlock // those around the address
}

// Error says why a pod can't have an address.
type Error struct {
	Addr   netip.Addr
	Reason string
	// Passes: it may be free in a moment.
	Passes bool
}

// Error is one line for the operator.
func (e *Error) Error() string { return e.Addr.String() + " " + e.Reason }

// Refuse is nil when a pod may have the address.
func Refuse(a netip.Addr, v View) *Error {
	for _, judge := range []func(netip.Addr, View) string{impossible, ofThisNode, ofNodes, ofNeighbours, ofAPool} {
		if reason := judge(a, v); reason != "" {
			return &Error{Addr: a, Reason: reason}
		}
	}
	if reason := inUse(a, v); reason != "" {
		return &Error{Addr: a, Reason: reason, Passes: true}
	}
	return nil
}

func impossible(a netip.Addr, _ View) string {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
		a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return "can't be the address of a pod; choose another"
	}
	return ""
}

func ofThisNode(a netip.Addr, v View) string {
	for _, p := range v.Own {
		network := p.Masked()
		switch last := netipx.PrefixLastIP(network); {
		case p.Addr() == a:
			return "is an address of this node; choose another"
		case p.Addr().BitLen()-p.Bits() < 2:
		case network.Addr() == a, a.Is4() && last == a:
			return fmt.Sprintf("is the network's own or the broadcast address of %s, to which this node is connected; choose another", network)
		}
	}
	return ""
}

func ofNodes(a netip.Addr, v View) string {
	for _, n := range v.Nodes {
		if slices.Contains(addresses(n), a) {
			return fmt.Sprintf("is an address of node %s; choose another", n.Name)
		}
	}
	return ""
}

// addresses are all that a Node says it has.
func addresses(n *api.Node) (all []netip.Addr) {
	s := &n.Spec
	texts := []string{s.IPv4VXLANTunnelAddr, s.IPv6VXLANTunnelAddr}
	if s.BGP != nil {
		texts = append(texts, s.BGP.IPv4Address, s.BGP.IPv6Address, s.BGP.IPv4IPIPTunnelAddr)
	}
	if s.Wireguard != nil {
		texts = append(texts, s.Wireguard.InterfaceIPv4Address, s.Wireguard.InterfaceIPv6Address)
	}
	for _, other := range s.Addresses {
		texts = append(texts, other.Address)
	}
	for _, device := range s.Interfaces {
		texts = append(texts, device.Addresses...)
	}
	for _, text := range texts {
		if a, ok := address(text); ok {
			all = append(all, a)
		}
	}
	return all
}

// address reads an address, with or without a length or a port.
func address(text string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), true
	}
	p, err := netip.ParseAddrPort(text)
	return p.Addr().Unmap().WithZone(""), err == nil
}

func ofNeighbours(a netip.Addr, v View) string {
	switch {
	case slices.Contains(v.Gateways, a):
		return "is the next hop of a route of this node; choose another"
	case slices.Contains(v.Etcd, a):
		return "is the address of the datastore; choose another"
	}
	for _, p := range v.Peers {
		if peer, ok := address(p.Spec.PeerIP); ok && peer == a {
			return fmt.Sprintf("is the address of BGPPeer %s; choose another", p.Name)
		}
	}
	for _, services := range v.Services {
		if services.Contains(a) {
			return fmt.Sprintf("lies in the service addresses %s; choose another", services)
		}
	}
	return ""
}

// ofAPool: who gets addresses of a pool assigned would get this one some day.
func ofAPool(a netip.Addr, v View) string {
	for _, r := range v.Reservations {
		for _, text := range r.Spec.ReservedCIDRs {
			p, err := netip.ParsePrefix(text)
			if err == nil && p.Contains(a) {
				return ""
			}
			if one, ok := address(text); ok && one == a {
				return ""
			}
		}
	}
	for _, pool := range v.Pools {
		if p, err := netip.ParsePrefix(pool.Spec.CIDR); err == nil && !pool.Spec.Disabled && p.Contains(a) {
			return fmt.Sprintf("lies in IP pool %s, which may give it to another pod: have it assigned (annotation ipAddrs), or keep it from the pool with an IPReservation", pool.Name)
		}
	}
	return ""
}

// inUse: its owner may be on its way out.
func inUse(a netip.Addr, v View) string {
	for _, ep := range v.Endpoints {
		for _, text := range ep.Spec.IPNetworks {
			if own, ok := address(text); ok && own == a {
				return fmt.Sprintf("is in use: WorkloadEndpoint %s/%s has it", ep.Namespace, ep.Name)
			}
		}
		for _, nat := range ep.Spec.IPNATs {
			if floating, ok := address(nat.ExternalIP); ok && floating == a {
				return fmt.Sprintf("is in use: it is a floating address of WorkloadEndpoint %s/%s", ep.Namespace, ep.Name)
			}
		}
	}
	for _, block := range v.Blocks {
		if holder, held := holderOf(a, block); held {
			return fmt.Sprintf("is in use: it is assigned to %s; see calicoctl ipam show --ip=%s", holder, a)
		}
	}
	return ""
}

// holderOf is the handle that an address of a block is assigned to.
func holderOf(a netip.Addr, block *api.IPAMBlock) (holder string, held bool) {
	p, err := netip.ParsePrefix(block.Spec.CIDR)
	if err != nil || !p.Contains(a) {
		return "", false
	}
	i := 0
	for b := p.Addr(); b != a; b = b.Next() {
		if i++; i >= len(block.Spec.Allocations) {
			return "", false
		}
	}
	if i >= len(block.Spec.Allocations) || block.Spec.Allocations[i] == nil {
		return "", false
	}
	holder = "somebody"
	if n := *block.Spec.Allocations[i]; n >= 0 && n < len(block.Spec.Attributes) && block.Spec.Attributes[n].HandleID != nil {
		holder = *block.Spec.Attributes[n].HandleID
	}
	return holder, true
}

// BlocksAround are the blocks of the pools' sizes that an address lies in.
func BlocksAround(a netip.Addr, pools []*v3.IPPool) (blocks []netip.Prefix) {
	for _, pool := range pools {
		p, err := netip.ParsePrefix(pool.Spec.CIDR)
		if err != nil || !p.Contains(a) {
			continue
		}
		if block, err := a.Prefix(pool.Spec.BlockSize); err == nil && !slices.Contains(blocks, block) {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// Package filter decides which learned paths may become routes of this node. It
// is pure.
//
// What it protects: the node's way to everything that is not a pod. A learned
// path never replaces the default route, never a route to one of the node's own
// segments, and never takes addresses of the node's own blocks away from it.
package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"tortie/bgpd/speaker"
	"tortie/internal/overlay"
)

// Segment is a subnet the node has an address in.
type Segment struct {
	Prefix netip.Prefix
	Link   string
}

// Scope is what a node knows when it looks at a path.
type Scope struct {
	// Pools are all IP pools, Blocks those any node has an affinity to. From a mesh
	// peer nothing outside of both is taken; the blocks, so that a pool that is gone
	// or can't be read doesn't cut off the pods that have its addresses.
	Pools  []netip.Prefix
	Blocks map[netip.Prefix]bool
	// OwnBlocks are the node's own.
	OwnBlocks []netip.Prefix
	// Services are the ranges of service addresses: kube-proxy handles them on every
	// node, and a route to another node, or out of the cluster, would only mislead.
	Services []netip.Prefix
	// Addresses are the node's own.
	Addresses []netip.Addr
	Segments  []Segment
	// IgnoredInterfaces are devices, "*" for any characters, whose subnets are no segments
	// and lead to no next hop.
	IgnoredInterfaces []string
	// Nodes are the peers that are nodes of the cluster; only they borrow addresses.
	Nodes map[netip.Addr]bool
	// Mesh are the peers of the node-to-node mesh.
	Mesh map[netip.Addr]bool
	// Workloads are the peers that are pods of this node.
	Workloads map[netip.Addr]bool
	// Overlay says what felix routes; Owners are the nodes of blocks.
	Overlay overlay.View
	Owners  map[netip.Prefix]string
}

// Way is what carries packets to a path's prefix, and the node they go to. Where it is
// not BGP the route is felix's, and this package's other verdicts matter to nobody.
func (s *Scope) Way(p speaker.Path) (way overlay.Way, node string) {
	node, ok := s.Owners[p.Prefix]
	if !ok && p.Prefix.IsSingleIP() {
		node = s.Overlay.NodeAt(p.NextHop) // it has borrowed the address
	}
	if node == "" {
		return overlay.Way{}, ""
	}
	return s.Overlay.To(p.Prefix, node), node
}

// Import returns "" for a path that may be installed, else the reason why not.
func (s *Scope) Import(p speaker.Path) (rejected string) {
	if reason := unusable(p); reason != "" {
		return reason
	}
	if slices.Contains(s.Addresses, p.NextHop) {
		return "its next hop is this node itself"
	}
	for _, block := range s.OwnBlocks {
		if reason := s.againstBlock(p, block); reason != "" {
			return reason
		}
	}
	for _, segment := range s.Segments {
		if p.Prefix.Overlaps(segment.Prefix) {
			return fmt.Sprintf("overlaps %s, a segment of this node on %s", segment.Prefix, segment.Link)
		}
	}
	if service, ok := s.service(p.Prefix); ok {
		return fmt.Sprintf("inside %s, a range of service addresses: kube-proxy handles them on every node", service)
	}
	if s.Workloads[p.Peer] {
		return s.fromPod(p)
	}
	if s.Mesh[p.Peer] && !within(p.Prefix, s.Pools) && !s.ofBlock(p.Prefix) {
		return "outside every IP pool and block: from the node-to-node mesh only pods' addresses are taken"
	}
	return ""
}

// fromPod: a pod speaks for nobody else. It is the next hop itself, and takes away neither
// other pods' addresses nor those of peers.
func (s *Scope) fromPod(p speaker.Path) string {
	if p.NextHop != p.Peer {
		return fmt.Sprintf("its next hop %s is not the pod %s that announces it", p.NextHop, p.Peer)
	}
	for block := range s.Blocks {
		if p.Prefix.Overlaps(block) {
			return fmt.Sprintf("overlaps the block %s: a pod announces no addresses of pods", block)
		}
	}
	for peer := range s.Nodes {
		if p.Prefix.Contains(peer) {
			return fmt.Sprintf("covers %s, a peer of this node", peer)
		}
	}
	return ""
}

// unusable looks at the path alone.
func unusable(p speaker.Path) string {
	a := p.Prefix.Addr()
	switch {
	case !p.NextHop.IsValid() || p.NextHop.IsUnspecified():
		return "it has no next hop"
	case p.NextHop.Is4() != a.Is4():
		return fmt.Sprintf("its next hop %s is of another address family", p.NextHop)
	case p.Prefix.Bits() == 0:
		return "a default route is never imported"
	case a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.IsUnspecified(), reserved(a):
		return "these addresses are not routed between nodes"
	}
	return ""
}

// reserved is 0.0.0.0/8 and 240.0.0.0/4 (RFC 1122, RFC 1112).
func reserved(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	first := a.As4()[0]
	return first == 0 || first >= 240
}

func (s *Scope) againstBlock(p speaker.Path, block netip.Prefix) string {
	switch {
	case !p.Prefix.Overlaps(block):
		return ""
	case p.Prefix == block:
		return fmt.Sprintf("block %s belongs to this node", block)
	case p.Prefix.Bits() < block.Bits():
		return fmt.Sprintf("covers %s, a block of this node", block)
	case p.Prefix.IsSingleIP() && s.Nodes[p.Peer]:
		return "" // borrowed by another node: it says where the pod is
	}
	return fmt.Sprintf("inside %s, a block of this node", block)
}

// ofBlock: p is a block or a single address in one, which is how nodes announce.
func (s *Scope) ofBlock(p netip.Prefix) bool {
	if s.Blocks[p] || !p.IsSingleIP() {
		return s.Blocks[p]
	}
	for bits := p.Bits() - 1; bits > 0; bits-- {
		if block, err := p.Addr().Prefix(bits); err == nil && s.Blocks[block] {
			return true
		}
	}
	return false
}

// service is the range of service addresses that p lies in. A block is none, though
// the range be set too wide; nor are all addresses a range.
func (s *Scope) service(p netip.Prefix) (netip.Prefix, bool) {
	for _, service := range s.Services {
		if service.Bits() > 0 && service.Bits() <= p.Bits() && service.Contains(p.Addr()) {
			return service, !s.ofBlock(p)
		}
	}
	return netip.Prefix{}, false
}

func within(p netip.Prefix, pools []netip.Prefix) bool {
	for _, pool := range pools {
		if pool.Bits() <= p.Bits() && pool.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

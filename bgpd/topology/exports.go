package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/overlay"
)

// pool is an IPPool, read once.
type pool struct {
	name     string
	cidr     netip.Prefix
	exported bool
}

func (c *computation) pools() []pool {
	var pools []pool
	for _, p := range c.in.Pools {
		cidr, err := netip.ParsePrefix(p.Spec.CIDR)
		if err != nil {
			c.problem("IPPool %s: spec.cidr %q is not a CIDR; the pool is ignored", p.Name, p.Spec.CIDR)
			continue
		}
		cidr = cidr.Masked()
		// A disabled pool gives out no new addresses, but those in use stay reachable.
		pools = append(pools, pool{name: p.Name, cidr: cidr, exported: !p.Spec.DisableBGPExport && forWorkloads(p)})
		c.out.Pools = append(c.out.Pools, cidr)
	}
	// The pool that decides for a prefix is the first that has it.
	slices.SortFunc(pools, func(a, b pool) int {
		if d := b.cidr.Bits() - a.cidr.Bits(); d != 0 {
			return d
		}
		if d := a.cidr.Addr().Compare(b.cidr.Addr()); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	return pools
}

// overlay is felix's view: what it routes, bgpd does not.
func (c *computation) overlay() {
	nodes := make(map[string]overlay.Node, len(c.in.Nodes))
	for _, n := range c.in.Nodes {
		nodes[n.Name] = overlay.ReadNode(n.Name, &n.Spec).Keyed(&n.Status)
	}
	var pools []overlay.Pool
	for _, p := range c.in.Pools {
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && cidr == cidr.Masked() {
			pools = append(pools, overlay.PoolOf(cidr, p.Spec))
		}
	}
	c.out.Overlay = overlay.NewView(c.in.Node, nodes, pools)
}

// forWorkloads: a pool of service addresses only is not routed by blocks.
func forWorkloads(p *v3.IPPool) bool {
	return api.PoolServes(p.Spec, v3.IPPoolAllowedUseWorkload) || api.PoolServes(p.Spec, v3.IPPoolAllowedUseTunnel)
}

// exported adds to the reason for an export what its pool says of it. In no pool,
// it is exported all the same: a pool that was deleted or can't be read must not
// cut off the pods that have its addresses.
func exported(pools []pool, p netip.Prefix, reason string) (string, bool) {
	for _, pool := range pools {
		if pool.cidr.Bits() <= p.Bits() && pool.cidr.Contains(p.Addr()) {
			return reason, pool.exported
		}
	}
	return reason + "; its pool is gone", true
}

// exports finds the node's blocks, the addresses it borrows from the blocks of
// others, and the services.
func (c *computation) exports() {
	pools := c.pools()
	reasons := map[netip.Prefix]string{}
	for _, a := range c.in.Affinities {
		block, node, ok := c.readAffinity(a)
		if !ok {
			continue
		}
		c.own(block, node)
		if reason, ok := exported(pools, block, "block of this node"); ok && node == c.in.Node {
			reasons[block] = reason
		}
	}
	for _, b := range c.in.Blocks {
		block, err := netip.ParsePrefix(b.Spec.CIDR)
		if err != nil {
			c.problem("IPAMBlock %s: spec.cidr %q is not a CIDR; the block is ignored", b.Name, b.Spec.CIDR)
			continue
		}
		block = block.Masked()
		if slices.Contains(c.out.OwnBlocks, block) {
			continue
		}
		for _, p := range c.borrowed(b, block) {
			if reason, ok := exported(pools, p, c.borrowReason(block)); ok {
				reasons[p] = reason
			}
		}
	}
	addMissing(reasons, c.floating(pools))
	addMissing(reasons, c.services())
	for p, reason := range reasons {
		c.out.Exports = append(c.out.Exports, Export{Prefix: p, Reason: reason, Communities: c.settings.communities(p)})
	}
}

func addMissing(reasons, more map[netip.Prefix]string) {
	for p, reason := range more {
		if _, there := reasons[p]; !there {
			reasons[p] = reason
		}
	}
}

// own notes a confirmed claim. Two of one block is damage that the allocator never
// does; both nodes go on advertising it, as both may have pods in it.
func (c *computation) own(block netip.Prefix, node string) {
	if node == c.in.Node {
		c.out.OwnBlocks = append(c.out.OwnBlocks, block)
	}
	other, claimed := c.out.BlockOwners[block]
	if claimed && other != node {
		c.problem("block %s has two owners, %s and %s: delete the BlockAffinity of the one without pods in it",
			block, min(node, other), max(node, other))
		node = min(node, other)
	}
	c.out.BlockOwners[block] = node
}

func (c *computation) borrowReason(block netip.Prefix) string {
	if owner := c.out.BlockOwners[block]; owner != "" {
		return fmt.Sprintf("address borrowed from block %s of %s", block, owner)
	}
	return fmt.Sprintf("address in block %s, which has no owner", block)
}

// readAffinity is ok for a confirmed claim of a host; one in another state makes
// the block known, no more.
func (c *computation) readAffinity(a *api.BlockAffinity) (block netip.Prefix, node string, ok bool) {
	if a.Spec.Deleted {
		return netip.Prefix{}, "", false
	}
	if a.Spec.Type != "" && a.Spec.Type != api.AffinityHost {
		return netip.Prefix{}, "", false
	}
	block, err := netip.ParsePrefix(a.Spec.CIDR)
	if err != nil || a.Spec.Node == "" {
		c.problem("BlockAffinity %s: want a node and a CIDR, have %q and %q; it is ignored", a.Name, a.Spec.Node, a.Spec.CIDR)
		return netip.Prefix{}, "", false
	}
	block = block.Masked()
	c.out.Blocks[block] = true
	return block, a.Spec.Node, a.Spec.State == api.AffinityConfirmed
}

// borrowed are the addresses of a block that are in use on this node, as host
// prefixes. The block's entries come from the store: nothing in them is trusted.
func (c *computation) borrowed(b *api.IPAMBlock, block netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	addr := block.Addr()
	for _, index := range b.Spec.Allocations {
		if !addr.IsValid() || !block.Contains(addr) {
			break
		}
		if index != nil && *index >= 0 && *index < len(b.Spec.Attributes) &&
			b.Spec.Attributes[*index].ActiveOwnerAttrs[api.AttributeNode] == c.in.Node {
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
		}
		addr = addr.Next()
	}
	return out
}

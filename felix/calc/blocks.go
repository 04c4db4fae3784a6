package calc

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

type block struct {
	node      string
	prefix    netip.Prefix
	confirmed bool
	err       error
}

// blocks collects the blocks that nodes claim.
type blocks struct {
	node  string
	own   string // how names of this node's affinities start
	byKey map[api.Key]block
}

func newBlocks(node string) blocks {
	return blocks{node: node, own: api.HostAffinity(node).String() + "/", byKey: map[api.Key]block{}}
}

// update reports whether it was about a claim of this node.
func (b *blocks) update(u datastore.SyncUpdate) (own bool) {
	delete(b.byKey, u.Key)
	owner, prefix, err := api.ParseBlockAffinityName(u.Key.Name)
	if own = strings.HasPrefix(u.Key.Name, b.own); err == nil {
		own = owner == api.HostAffinity(b.node)
	}
	claim := block{node: owner.Name, prefix: prefix, err: err}
	if own {
		claim.node = b.node
	}
	switch {
	case owner.Type != api.AffinityHost && !own:
	case u.Entry != nil:
		obj, ok := u.Entry.Object.(*api.BlockAffinity)
		if !ok {
			break
		}
		if err == nil && prefix != prefix.Masked() {
			claim.err = fmt.Errorf("%s has host bits set", prefix)
		}
		claim.confirmed = isConfirmed(&obj.Spec)
		b.byKey[u.Key] = claim
	case u.Invalid != nil:
		claim.err = errUnread
		b.byKey[u.Key] = claim
	}
	return own
}

// isConfirmed takes an empty state for confirmed: old stores hold affinities
// without a value.
func isConfirmed(spec *api.BlockAffinitySpec) bool {
	return !spec.Deleted && (spec.State == api.AffinityConfirmed || spec.State == "")
}

// The largest blocks that are believed. ipam's are /20 to /32 and /116 to /128, the
// lengths an IPPool's blockSize may have.
const (
	shortestBlock4 = 20
	shortestBlock6 = 116
)

// surroundings are what a block is held against before this node drops packets for
// the whole of it.
type surroundings struct {
	pools  []netip.Prefix // of all readable pools
	unread bool           // there are others, of which nothing is known
	own    []netip.Prefix // this node's addresses with the length of their subnet
	nodes  []netip.Prefix // every node's address, in order
}

// confirmed lists the blocks to blackhole. An affinity is data that anyone who may
// write to the datastore can put there, and a blackhole cuts this node off from
// what is in it: one that can't be a block of pods is reported and has no route.
func (b *blocks) confirmed(around surroundings, problems *problemList) []netip.Prefix {
	var out []netip.Prefix
	for key, block := range b.byKey {
		if block.node != b.node {
			continue // that node's to report
		}
		err := block.err
		if err == nil && block.confirmed {
			err = around.refuse(block.prefix)
		}
		switch {
		case errors.Is(err, errUnread): // the affinity, or the pool: said of that
		case err != nil:
			problems.add(key, "%v; the block is not blackholed on this node", err)
		case block.confirmed:
			out = append(out, block.prefix)
		}
	}
	return sortedPrefixes(out)
}

// refuse says why a block may not be blackholed, and what to do; nil when it may.
func (a surroundings) refuse(block netip.Prefix) error {
	shortest := shortestBlock4
	if block.Addr().Is6() {
		shortest = shortestBlock6
	}
	if block.Bits() < shortest {
		return fmt.Errorf("%s is larger than a block can be (/%d); delete this affinity", block, shortest)
	}
	if !slices.ContainsFunc(a.pools, func(pool netip.Prefix) bool { return pool.Bits() <= block.Bits() && pool.Contains(block.Addr()) }) {
		if a.unread {
			return fmt.Errorf("%s lies in no IP pool that can be read: the pool %w", block, errUnread)
		}
		return fmt.Errorf("%s lies in no IP pool; delete this affinity, or bring the pool back if pods still use it", block)
	}
	for _, p := range a.own {
		if p.Masked().Overlaps(block) {
			return fmt.Errorf("%s overlaps this node's own network %s; take that out of the IP pool", block, p.Masked())
		}
	}
	first, _ := slices.BinarySearchFunc(a.nodes, block.Masked().Addr(), func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	if first < len(a.nodes) && block.Contains(a.nodes[first].Addr()) {
		return fmt.Errorf("%s has the address of a node, %s, in it; take that out of the IP pool", block, a.nodes[first].Addr())
	}
	return nil
}

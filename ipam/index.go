package ipam

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"tortie/internal/api"
)

// index finds among the blocks in memory what a call needs, without going through all of
// them: a node may own thousands. It follows state.blocks (state.keep, state.lose) and
// knows what stands in the blocks alone; whether one may be used is for state.own.
type index struct {
	owner api.Affinity
	// mine are the blocks with the node's affinity, room those of them with an address in
	// the queue of free ones.
	mine, room bart.Lite
	// foreign are the other blocks.
	foreign map[netip.Prefix]bool
	// holding are the blocks in which a handle has addresses.
	holding map[HandleID][]netip.Prefix
}

func newIndex(owner api.Affinity) *index {
	return &index{owner: owner, foreign: make(map[netip.Prefix]bool), holding: make(map[HandleID][]netip.Prefix)}
}

// put takes in a block that was before, if it was known, and now is. The zero block is
// none.
func (x *index) put(prefix netip.Prefix, before, now block) {
	mine, foreign, room := false, now.spec != nil, false
	if now.spec != nil {
		owner, owned := now.owner()
		mine = owned && owner == x.owner
		foreign, room = !mine, mine && len(now.spec.Unallocated) > 0
	}
	set(&x.mine, prefix, mine)
	set(&x.room, prefix, room)
	if delete(x.foreign, prefix); foreign {
		x.foreign[prefix] = true
	}
	x.putHandles(prefix, before, now)
}

func set(table *bart.Lite, prefix netip.Prefix, in bool) {
	switch {
	case in == table.Get(prefix):
	case in:
		table.Insert(prefix)
	default:
		table.Delete(prefix)
	}
}

// putHandles takes in the difference of two blocks' handles. Most of them stand in the
// same order in both, before and after what changed.
func (x *index) putHandles(prefix netip.Prefix, before, now block) {
	was, is := before.attributes(), now.attributes()
	for len(was) > 0 && len(is) > 0 && sameHandle(was[0], is[0]) {
		was, is = was[1:], is[1:]
	}
	for len(was) > 0 && len(is) > 0 && sameHandle(was[len(was)-1], is[len(is)-1]) {
		was, is = was[:len(was)-1], is[:len(is)-1]
	}
	for _, attrs := range was {
		id := handleOf(attrs)
		if blocks := x.holding[id]; !slices.ContainsFunc(now.attributes(), func(a api.BlockAttributes) bool { return handleOf(a) == id }) {
			if blocks = slices.DeleteFunc(blocks, func(b netip.Prefix) bool { return b == prefix }); len(blocks) == 0 {
				delete(x.holding, id)
				continue
			}
			x.holding[id] = blocks
		}
	}
	for _, attrs := range is {
		if id := handleOf(attrs); !slices.Contains(x.holding[id], prefix) {
			x.holding[id] = append(x.holding[id], prefix)
		}
	}
}

func (b block) attributes() []api.BlockAttributes {
	if b.spec == nil {
		return nil
	}
	return b.spec.Attributes
}

// handleOf is the handle of attributes, empty when they have none.
func handleOf(attrs api.BlockAttributes) HandleID {
	if attrs.HandleID == nil {
		return ""
	}
	return HandleID(*attrs.HandleID)
}

func sameHandle(a, b api.BlockAttributes) bool {
	return a.HandleID == b.HandleID || handleOf(a) == handleOf(b)
}

// in lists the blocks of a table that a pool's allocations are made from, by address.
func (p pool) in(table *bart.Lite) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for prefix := range table.Subnets(p.prefix) {
			if prefix.Bits() == p.blockBits && !yield(prefix) {
				return
			}
		}
	}
}

package ipam

import (
	"errors"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// errOverlap says that a block overlaps one that exists.
var errOverlap = errors.New("overlaps an existing block")

// claimGuards make a step of a claim depend on what was decided from memory:
//
//   - the pool still is what it was, so that nobody claims from a pool that was
//     just deleted or replaced by one with another block size;
//   - before the claim begins, the node's own blocks are still full;
//   - when the block is created, no block of another size overlaps it.
func (w *writer) claimGuards(p pool, prefix netip.Prefix, cs claimState, started bool) []datastore.Op {
	var ops []datastore.Op
	if cs.block != nil && cs.affinity != nil {
		return nil // the block exists: confirming or giving up is right whatever else changed
	}
	if p.revision != 0 {
		ops = append(ops, datastore.Check(p.key(), p.revision))
	}
	if cs.affinity == nil && !started {
		for _, own := range w.state.ownBlocks(p) {
			if own != prefix && len(ops) < maxOps/2 {
				ops = append(ops, datastore.Check(api.BlockKey(own), w.state.blocks[own].entry.Revision))
			}
		}
	}
	if cs.affinity != nil {
		for _, other := range w.overlapping(prefix) {
			ops = append(ops, datastore.Check(api.BlockKey(other), 0))
		}
	}
	return ops
}

// overlapping lists the blocks of other sizes that would overlap prefix: every
// larger one, and those smaller ones that a known pool could be divided into.
// tooFine tells for which pools the latter are too many.
func (w *writer) overlapping(prefix netip.Prefix) []netip.Prefix {
	var others []netip.Prefix
	for bits := prefix.Addr().BitLen() - maxBlockBits; bits < prefix.Bits(); bits++ {
		others = append(others, netip.PrefixFrom(prefix.Addr(), bits).Masked())
	}
	for _, bits := range w.smallerSizes(prefix) {
		for i := range 1 << (bits - prefix.Bits()) {
			first := i << (prefix.Addr().BitLen() - bits)
			others = append(others, netip.PrefixFrom(addrAt(prefix, first), bits))
		}
	}
	return others
}

// smallerSizes are the block lengths of pools that overlap prefix with smaller
// blocks.
func (w *writer) smallerSizes(prefix netip.Prefix) []int {
	var sizes []int
	for _, obj := range w.pools {
		p, err := parsePool(obj)
		if err == nil && p.prefix.Overlaps(prefix) && p.blockBits > prefix.Bits() && !slices.Contains(sizes, p.blockBits) {
			sizes = append(sizes, p.blockBits)
		}
	}
	return sizes
}

// tooFine reports whether a pool overlaps one with blocks so much smaller that
// no transaction could make sure of the absence of all of them.
func (w *writer) tooFine(p pool) bool {
	checks := maxBlockBits
	for _, bits := range w.smallerSizes(p.prefix) {
		if bits > p.blockBits {
			checks += 1 << (bits - p.blockBits)
		}
	}
	return checks > maxOps-10
}

// absorbGuards takes in what a conflict says about the guards. It returns
// errOverlap or errChanged when one of them didn't hold.
func (w *writer) absorbGuards(found present, p pool, prefix netip.Prefix, ops []datastore.Op) error {
	var result error
	for _, op := range ops {
		entry, exists := found.entries[op.Key]
		exists = exists || found.invalid[op.Key] != nil
		if op.Kind != datastore.OpCheck || exists == (op.Revision != 0) && entry.Revision == op.Revision {
			continue
		}
		switch {
		case op.Key == api.BlockKey(prefix):
			continue // part of the claim itself
		case op.Key.Kind == api.KindIPPool:
			pool, _ := entry.Object.(*v3.IPPool)
			w.news[op.Key.Name] = poolNews{seen: p.revision, rev: entry.Revision, pool: pool}
			w.refreshPools()
		case op.Revision == 0:
			w.state.absorb([]api.Key{op.Key}, found)
			result = errOverlap
			continue
		default:
			w.state.absorb([]api.Key{op.Key}, found)
		}
		if result == nil {
			result = errChanged
		}
	}
	return result
}

// poolNews is what a conflict told of a pool before the View did.
type poolNews struct {
	seen datastore.Revision // the revision that turned out to be outdated
	rev  datastore.Revision
	pool *v3.IPPool // nil: deleted
}

// refreshPools reads the View's pools and replaces those of which a conflict
// brought newer ones.
func (w *writer) refreshPools() {
	w.pools = nil
	clear(w.considered)
	for _, obj := range w.view.Pools() {
		news, ok := w.news[obj.Name]
		p, err := parsePool(obj)
		switch {
		case !ok || err != nil:
			w.pools = append(w.pools, obj)
		case p.revision > max(news.seen, news.rev-1):
			delete(w.news, obj.Name)
			w.pools = append(w.pools, obj)
		case news.pool != nil:
			w.pools = append(w.pools, withRevision(news.pool, news.rev))
		}
	}
}

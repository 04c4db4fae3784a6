package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

const (
	// reclaimAge is how long a block stays its node's without an address in it: one that
	// was just claimed is about to be used.
	reclaimAge = time.Minute
	// lendersAtOnce is how many blocks of others are read together.
	lendersAtOnce = 4
)

// other is what is known of a block that is not the node's.
type other struct {
	// free counts its free addresses, reserved ones included.
	free int
	// idle is the owner of a block without any address in it, since when.
	idle    api.Affinity
	claimed time.Time
}

// noteOther takes in how a block of somebody else can help: by its free addresses, or
// whole. The blocks of virtual owners are for what they are there for.
func (s *state) noteOther(b storedBlock) {
	owner, owned := b.owner()
	delete(s.borrowing, b.prefix)
	if owner != s.owner {
		if mine := b.usedOn(s.owner.Name); mine > 0 {
			s.borrowing[b.prefix] = mine
		}
	}
	if s.others == nil {
		return
	}
	if len(b.spec.Unallocated) == 0 || owned && (owner == s.owner || owner.Type != api.AffinityHost) {
		delete(s.others, b.prefix)
		return
	}
	o := other{free: len(b.spec.Unallocated)}
	if owned && b.empty() {
		o.idle = owner
		if at := b.spec.AffinityClaimTime; at != nil {
			o.claimed = at.Time
		}
	}
	s.others[b.prefix] = o
}

// othersIn lists the blocks of others in a pool that fit, in the order in which this
// node tries blocks: nodes that are short of addresses thereby go to different ones.
func (w *writer) othersIn(p pool, fits func(other) bool) []netip.Prefix {
	var prefixes []netip.Prefix
	for prefix, o := range w.state.others {
		if p.owns(prefix) && fits(o) {
			prefixes = append(prefixes, prefix)
		}
	}
	sortPrefixes(prefixes)
	at, _ := slices.BinarySearchFunc(prefixes, firstChoice(p.prefix, p.blockBits, w.node, w.now()), netip.Prefix.Compare)
	return slices.Concat(prefixes[at:], prefixes[:at])
}

// reclaim takes an empty block away from a node that has had no use for it, and claims
// it. It reports whether it got one.
func (w *writer) reclaim(ctx context.Context, pools []pool) (bool, error) {
	old := w.now().Add(-reclaimAge)
	idle := func(o other) bool { return o.idle.Name != "" && !o.claimed.After(old) }
	for _, p := range pools {
		for _, prefix := range w.othersIn(p, idle) {
			owner := w.state.others[prefix].idle
			free, err := giveUpEmpty(ctx, w.client, owner, prefix)
			if err != nil {
				return false, fmt.Errorf("reclaim block %s of %s: %w", prefix, owner, err)
			}
			delete(w.state.others, prefix)
			if !free {
				continue
			}
			w.log.Info("reclaimed an empty block", "block", prefix, "pool", p.name, "from", owner)
			if got, err := w.claim(ctx, p, prefix); got || err != nil {
				return got, err
			}
		}
	}
	return false, nil
}

// borrow reads blocks of others until they have num free addresses in all, for the
// present batch to assign from. It reports false when there are not as many.
func (w *writer) borrow(ctx context.Context, num int, pools []pool) (bool, error) {
	if w.view.Config().StrictAffinity {
		return false, nil
	}
	for _, p := range pools {
		for _, prefix := range w.state.borrowedBlocks(p) {
			num -= w.state.blocks[prefix].available(w.reserved)
		}
	}
	for _, p := range pools {
		lenders := slices.DeleteFunc(w.othersIn(p, func(o other) bool { return o.free > 0 }), func(prefix netip.Prefix) bool {
			return w.state.borrowed[prefix]
		})
		for chunk := range slices.Chunk(lenders, lendersAtOnce) {
			if num <= 0 {
				return true, nil
			}
			free, err := w.borrowFrom(ctx, chunk)
			if err != nil {
				return false, err
			}
			num -= free
		}
	}
	return num <= 0, nil
}

// borrowFrom reads blocks of others for the present batch, and counts what is free.
func (w *writer) borrowFrom(ctx context.Context, lenders []netip.Prefix) (free int, err error) {
	keys := make([]api.Key, len(lenders))
	for i, prefix := range lenders {
		keys[i] = api.BlockKey(prefix)
	}
	if err := w.read(ctx, keys); err != nil {
		return 0, err
	}
	for _, prefix := range lenders {
		if _, still := w.state.others[prefix]; still {
			w.state.borrowed[prefix] = true
			free += w.state.blocks[prefix].available(w.reserved)
		}
	}
	return free, nil
}

// retirable reports whether retire may have something to do.
func (w *writer) retirable() bool {
	labels, known := w.view.NodeLabels()
	if w.released && known && slices.ContainsFunc(w.pools, func(obj *v3.IPPool) bool {
		p, err := parsePool(obj)
		return err == nil && p.deselects(labels)
	}) {
		return true
	}
	w.released = false
	return false
}

// retire gives up the node's empty blocks in pools that no longer select it: another
// node needs them. Nobody waits for it, and what fails is tried after the next release.
func (w *writer) retire(ctx context.Context) {
	if !w.state.loaded || !w.retirable() {
		return
	}
	w.released = false
	labels, _ := w.view.NodeLabels()
	ctx, cancel := context.WithTimeout(ctx, doubtTimeout)
	defer cancel()
	for _, obj := range w.pools {
		p, err := parsePool(obj)
		if err != nil || !p.deselects(labels) {
			continue
		}
		for _, prefix := range w.state.ownBlocks(p) {
			if !w.state.blocks[prefix].empty() {
				continue
			}
			gone, err := giveUpEmpty(ctx, w.client, w.state.owner, prefix)
			w.state.stale[prefix], w.state.loaded = true, false
			if gone {
				w.log.Info("gave up an empty block: its pool no longer selects this node", "block", prefix, "pool", p.name)
			}
			if err != nil {
				w.log.Warn("an empty block of a pool that no longer selects this node stays", "block", prefix, "pool", p.name, "err", err)
			}
		}
	}
}

// giveUpEmpty takes a block from an owner who has no address in it: its affinity is
// marked pendingDeletion, then block and affinity are deleted together. Either step
// depends on the block being as it was seen, empty: an owner who assigns from it
// meanwhile wins, and keeps it. It reports whether the block is gone.
func giveUpEmpty(ctx context.Context, client datastore.Client, owner api.Affinity, prefix netip.Prefix) (bool, error) {
	blockKey, affinityKey := api.BlockKey(prefix), api.BlockAffinityKey(owner, prefix)
	begun := false // from here the affinity's mark may be ours
	for range maxAttempts {
		found, err := readKeys(ctx, client, []api.Key{blockKey, affinityKey})
		if err != nil {
			return false, err
		}
		if len(found.invalid) > 0 {
			return false, nil // an operator's business
		}
		ops, gone := giveUpStep(owner, prefix, found.entry(blockKey), found.entry(affinityKey), begun)
		if len(ops) == 0 {
			return gone, nil
		}
		begun = true
		if _, err = client.Txn(ctx, ops...); isFailure(err) {
			return false, err
		}
	}
	return false, fmt.Errorf("gave up after %d attempts: %w", maxAttempts, datastore.ErrConflict)
}

// giveUpStep is the next transaction of giveUpEmpty, none at its end. An owner whose
// block turns out to be in use gets its affinity back.
func giveUpStep(owner api.Affinity, prefix netip.Prefix, stored, affinity *datastore.Entry, begun bool) (ops []datastore.Op, gone bool) {
	if stored == nil {
		return nil, true
	}
	b, err := asBlock(*stored)
	if err != nil || !ownedBy(*stored, owner) {
		return nil, false
	}
	unchanged := datastore.Check(stored.Key, stored.Revision)
	marked := affinity != nil && affinityState(*affinity) == api.AffinityPendingDeletion
	switch {
	case !b.empty() && marked && begun:
		return []datastore.Op{unchanged, datastore.Update(withState(*affinity, owner, prefix, api.AffinityConfirmed))}, false
	case !b.empty():
		return nil, false
	case affinity == nil:
		return []datastore.Op{datastore.Check(api.BlockAffinityKey(owner, prefix), 0), datastore.Delete(stored.Key, stored.Revision)}, false
	case !marked:
		return []datastore.Op{unchanged, datastore.Update(withState(*affinity, owner, prefix, api.AffinityPendingDeletion))}, false
	}
	return []datastore.Op{datastore.Delete(stored.Key, stored.Revision), datastore.Delete(affinity.Key, affinity.Revision)}, false
}

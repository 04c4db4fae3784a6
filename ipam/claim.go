package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// claimState is what the store holds of one node's claim on one block. Its next
// step depends on nothing else, so that a claim goes on from wherever it, or
// whoever began it, stopped.
type claimState struct {
	affinity *datastore.Entry
	block    *datastore.Entry
}

// step is one transaction of a claim and the state after it.
type step struct {
	ops  []datastore.Op
	then func(rev datastore.Revision) claimState
}

// progress is how far a claim is.
type progress int

const (
	claimOpen progress = iota // there is a next step
	claimDone                 // confirmed, and the block is ours
	claimLost                 // the block is someone else's, and no trace of us is left
)

// next is the next step of the claim: affinity pending, then block and
// confirmation together, as upstream orders them. An affinity on a block that
// belongs to another is deleted.
func (s claimState) next(owner api.Affinity, prefix netip.Prefix, now time.Time, reserve *BlockReserve) (step, progress) {
	affinityKey, blockKey := api.BlockAffinityKey(owner, prefix), api.BlockKey(prefix)
	switch {
	case s.block != nil && !ownedBy(*s.block, owner):
		if s.affinity == nil {
			return step{}, claimLost
		}
		return s.giveUp(datastore.Check(blockKey, s.block.Revision)), claimOpen
	case s.affinity == nil:
		pending := datastore.Entry{Key: affinityKey, Object: affinityObject(owner, prefix, api.AffinityPending)}
		return step{
			ops: []datastore.Op{datastore.Check(blockKey, revisionOf(s.block)), datastore.Create(affinityKey, pending.Object)},
			then: func(rev datastore.Revision) claimState {
				pending.Revision = rev
				return claimState{affinity: &pending, block: s.block}
			},
		}, claimOpen
	case s.block != nil && affinityState(*s.affinity) == api.AffinityConfirmed:
		return step{}, claimDone
	}
	return s.confirm(owner, prefix, now, reserve), claimOpen
}

// confirm writes block and affinity together. A block that is already ours is
// written too: if someone is about to delete it, that fails.
func (s claimState) confirm(owner api.Affinity, prefix netip.Prefix, now time.Time, reserve *BlockReserve) step {
	key := api.BlockKey(prefix)
	var entry datastore.Entry
	var write datastore.Op
	if s.block == nil {
		b := newBlock(prefix, owner, now)
		if reserve != nil {
			b.keepBack(*reserve)
			b.seal()
		}
		entry = datastore.Entry{Key: key, Object: blockObject(key, b.spec)}
		write = datastore.Create(key, entry.Object)
	} else {
		b := block{prefix: prefix, spec: &s.block.Object.(*api.IPAMBlock).Spec}.clone()
		b.seal()
		entry = *s.block
		entry.Object = blockObject(key, b.spec)
		write = datastore.Update(entry)
	}
	affinity := withState(*s.affinity, owner, prefix, api.AffinityConfirmed)
	return step{
		ops: []datastore.Op{write, datastore.Update(affinity)},
		then: func(rev datastore.Revision) claimState {
			entry.Revision, affinity.Revision = rev, rev
			return claimState{affinity: &affinity, block: &entry}
		},
	}
}

// giveUp deletes the affinity, on a condition.
func (s claimState) giveUp(condition datastore.Op) step {
	return step{
		ops: []datastore.Op{condition, datastore.Delete(s.affinity.Key, s.affinity.Revision)},
		then: func(datastore.Revision) claimState {
			return claimState{block: s.block}
		},
	}
}

func ownedBy(entry datastore.Entry, owner api.Affinity) bool {
	b, err := asBlock(entry)
	if err != nil {
		return false
	}
	have, ok := b.owner()
	return ok && have == owner
}

func revisionOf(entry *datastore.Entry) datastore.Revision {
	if entry == nil {
		return 0
	}
	return entry.Revision
}

// errChanged ends a claim because something it depends on changed; the search
// starts over with what is now known.
var errChanged = errors.New("what the claim depends on changed")

// unreadable is an errChanged that won't go away: nobody can tell what the node's claim on
// the block is. Other blocks serve as well; who wants this one is told.
type unreadable struct{ error }

func (unreadable) Is(target error) bool { return target == errChanged }
func (e unreadable) Unwrap() error      { return e.error }

// claim carries a claim on a block of a pool through to the end. It reports
// whether the block is now the node's; if not, it is noted as taken. errChanged
// and errors of the store leave the claim where it is, to be resumed.
func (w *writer) claim(ctx context.Context, p pool, prefix netip.Prefix) (bool, error) {
	cs := w.state.claims[prefix]
	started := cs.affinity != nil
	for range maxAttempts {
		next, progress := cs.next(w.state.owner, prefix, w.now(), w.reserve)
		if progress != claimOpen {
			w.endClaim(p, prefix, cs, progress)
			return progress == claimDone, nil
		}
		ops := append(next.ops, w.claimGuards(p, prefix, cs, started)...)
		rev, err := w.client.Txn(ctx, ops...)
		if err == nil {
			cs = next.then(rev)
			w.state.claims[prefix] = cs
			continue
		}
		if isFailure(err) {
			w.state.loaded = false
			w.state.stale[prefix] = true
			return false, fmt.Errorf("claim block %s: %w", prefix, err)
		}
		if cs, err = w.claimConflict(ctx, err, p, prefix, ops); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("claim block %s: gave up after %d attempts: %w", prefix, maxAttempts, datastore.ErrConflict)
}

func (w *writer) endClaim(p pool, prefix netip.Prefix, cs claimState, progress progress) {
	delete(w.state.claims, prefix)
	w.state.take(prefix)
	if progress == claimDone {
		w.state.setBlock(*cs.block)
		w.log.Info("claimed block", "block", prefix, "pool", p.name)
	}
}

// claimConflict reads the state of a claim from a conflict. When it was another
// part of the transaction that changed, the error says so.
func (w *writer) claimConflict(ctx context.Context, err error, p pool, prefix netip.Prefix, ops []datastore.Op) (claimState, error) {
	var conflict *datastore.ConflictError
	errors.As(err, &conflict)
	found := newPresent().add(conflict)
	w.state.absorb([]api.Key{api.BlockKey(prefix)}, found)
	cs := claimState{
		affinity: found.entry(api.BlockAffinityKey(w.state.owner, prefix)),
		block:    found.entry(api.BlockKey(prefix)),
	}
	if w.state.broken[prefix] != nil {
		return w.abandonClaim(ctx, cs, prefix)
	}
	if invalid := found.invalid[api.BlockAffinityKey(w.state.owner, prefix)]; invalid != nil {
		w.leave(prefix, invalid)
		return cs, unreadable{invalid}
	}
	if cs.affinity != nil || cs.block != nil && ownedBy(*cs.block, w.state.owner) {
		w.state.claims[prefix] = cs
	} else {
		delete(w.state.claims, prefix)
	}
	changed := w.absorbGuards(found, p, prefix, ops)
	switch {
	case errors.Is(changed, errOverlap) && cs.affinity != nil && cs.block == nil:
		return w.abandonClaim(ctx, cs, prefix)
	case errors.Is(changed, errOverlap):
		return cs, errChanged
	case changed != nil:
		return cs, changed
	}
	return cs, nil
}

// abandonClaim withdraws an affinity whose block must not come to be, or can't
// be read.
func (w *writer) abandonClaim(ctx context.Context, cs claimState, prefix netip.Prefix) (claimState, error) {
	w.state.take(prefix)
	w.state.loaded = false
	if cs.affinity != nil {
		_, err := w.client.Txn(ctx, datastore.Delete(cs.affinity.Key, cs.affinity.Revision))
		if isFailure(err) {
			return cs, fmt.Errorf("withdraw claim on block %s: %w", prefix, err)
		}
	}
	return cs, errChanged
}

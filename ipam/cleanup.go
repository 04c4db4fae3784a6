package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// ReleaseHandle releases every address of a handle without an Allocator, for
// programs that own no blocks. An absent handle is no error.
func ReleaseHandle(ctx context.Context, client datastore.Client, handle HandleID) ([]netip.Addr, error) {
	for range maxAttempts {
		entry, blocks, err := readHandle(ctx, client, handle)
		if err != nil {
			return nil, fmt.Errorf("release addresses of handle %q: %w", handle, err)
		}
		if entry == nil {
			return nil, nil
		}
		ops, freed := releaseOps(ctx, handle, *entry, blocks)
		_, err = client.Txn(ctx, ops...)
		if err == nil {
			record(ctx, client, freed)
			return addressesIn(freed), nil
		}
		if isFailure(err) {
			return nil, fmt.Errorf("release addresses of handle %q: %w", handle, err)
		}
	}
	return nil, fmt.Errorf("release addresses of handle %q: gave up after %d attempts: %w", handle, maxAttempts, datastore.ErrConflict)
}

// releaseSome releases some addresses of a handle; the others stay with it. What the
// handle does not hold is ignored.
func releaseSome(ctx context.Context, client datastore.Client, handle HandleID, addrs []netip.Addr) ([]recorded, error) {
	for range maxAttempts {
		entry, blocks, err := readHandle(ctx, client, handle)
		if err != nil {
			return nil, err
		}
		if entry == nil {
			return nil, nil
		}
		ops, freed := releaseSomeOps(ctx, handle, *entry, blocks, addrs)
		if len(ops) == 0 {
			return nil, nil
		}
		if _, err = client.Txn(ctx, ops...); err == nil || isFailure(err) {
			return freed, err
		}
	}
	return nil, fmt.Errorf("gave up after %d attempts: %w", maxAttempts, datastore.ErrConflict)
}

func releaseSomeOps(ctx context.Context, handle HandleID, entry datastore.Entry, blocks []storedBlock, addrs []netip.Addr) (ops []datastore.Op, freed []recorded) {
	counts := handleCounts(entry)
	for _, stored := range blocks {
		b := stored.clone()
		held := slices.DeleteFunc(b.held(handle), func(n int) bool { return !slices.Contains(addrs, b.addr(n)) })
		if len(held) == 0 {
			continue
		}
		freed = append(freed, recorded{b.prefix, b.released(held, time.Now(), reasonOf(ctx))})
		b.release(held)
		b.seal()
		ops = append(ops, stored.writes(b)...)
		name := b.prefix.String()
		if counts[name] -= len(held); counts[name] <= 0 {
			delete(counts, name)
		}
	}
	switch {
	case len(ops) == 0:
		return nil, nil
	case len(counts) == 0:
		return append(ops, datastore.Delete(entry.Key, entry.Revision)), freed
	}
	entry.Object = handleObject(entry.Key, counts)
	return append(ops, datastore.Update(entry)), freed
}

// releaseOps frees what a handle holds in blocks and deletes it, in the order of
// plan.operations.
func releaseOps(ctx context.Context, handle HandleID, entry datastore.Entry, blocks []storedBlock) (ops []datastore.Op, freed []recorded) {
	for _, stored := range blocks {
		b := stored.clone()
		held := b.held(handle)
		freed = append(freed, recorded{b.prefix, b.released(held, time.Now(), reasonOf(ctx))})
		b.release(held)
		b.seal()
		ops = append(ops, stored.writes(b)...)
	}
	return append(ops, datastore.Delete(entry.Key, entry.Revision)), freed
}

// ReleaseHost gives up every block of a node, as when the node is deleted: an
// empty block is deleted, one with addresses in use loses its owner, so that it
// goes with its last address. It returns the blocks given up. It goes on after
// an error with the rest, and can be repeated.
func ReleaseHost(ctx context.Context, client datastore.Client, node string) ([]netip.Prefix, error) {
	owner := api.HostAffinity(node)
	snap, err := client.List(ctx, datastore.Range{Kind: api.KindBlockAffinity, NamePrefix: owner.String() + "/"})
	if err != nil {
		return nil, fmt.Errorf("release the blocks of node %s: %w", node, err)
	}
	var released []netip.Prefix
	var failed []error
	for i := range snap.Invalid {
		failed = append(failed, &snap.Invalid[i])
	}
	for _, entry := range snap.Entries {
		have, prefix, err := api.ParseBlockAffinityName(entry.Key.Name)
		if err != nil || have != owner {
			continue
		}
		if err := releaseAffinity(ctx, client, owner, prefix, &entry); err != nil {
			failed = append(failed, fmt.Errorf("release block %s of node %s: %w", prefix, node, err))
			continue
		}
		released = append(released, prefix)
	}
	slices.SortFunc(released, netip.Prefix.Compare)
	return released, errors.Join(failed...)
}

// releaseAffinity gives up one block: affinity pendingDeletion, then block and
// affinity together.
func releaseAffinity(ctx context.Context, client datastore.Client, owner api.Affinity, prefix netip.Prefix, affinity *datastore.Entry) error {
	keys := []api.Key{api.BlockKey(prefix), api.BlockAffinityKey(owner, prefix)}
	var stored *datastore.Entry
	known := false
	for range maxAttempts {
		if affinity == nil {
			return nil // someone else finished it
		}
		marked := affinityState(*affinity) == api.AffinityPendingDeletion
		if !marked || known {
			ops, err := releaseStep(owner, prefix, *affinity, stored)
			if err != nil {
				return err
			}
			_, err = client.Txn(ctx, ops...)
			if err == nil && marked || isFailure(err) {
				return err
			}
		}
		current, err := readKeys(ctx, client, keys)
		if err != nil {
			return err
		}
		if err := errors.Join(current.invalid[keys[0]], current.invalid[keys[1]]); err != nil {
			return err
		}
		stored, affinity, known = current.entry(keys[0]), current.entry(keys[1]), true
	}
	return fmt.Errorf("gave up after %d attempts: %w", maxAttempts, datastore.ErrConflict)
}

// releaseStep is the next transaction of giving up a block.
func releaseStep(owner api.Affinity, prefix netip.Prefix, affinity datastore.Entry, stored *datastore.Entry) ([]datastore.Op, error) {
	if affinityState(affinity) != api.AffinityPendingDeletion {
		return []datastore.Op{datastore.Update(withState(affinity, owner, prefix, api.AffinityPendingDeletion))}, nil
	}
	ops, err := disownOps(stored, owner, prefix)
	return append(ops, datastore.Delete(affinity.Key, affinity.Revision)), err
}

// disownOps take the owner's hand off a block: they delete an empty one, clear the
// owner of one in use, who holds by a loan what he has in it, and only check one that
// isn't the owner's.
func disownOps(stored *datastore.Entry, owner api.Affinity, prefix netip.Prefix) ([]datastore.Op, error) {
	if stored == nil {
		return []datastore.Op{datastore.Check(api.BlockKey(prefix), 0)}, nil
	}
	s, err := asBlock(*stored)
	if err != nil {
		return nil, err
	}
	if !ownedBy(*stored, owner) {
		return []datastore.Op{datastore.Check(stored.Key, stored.Revision)}, nil
	}
	b := s.clone()
	b.disown()
	b.seal()
	return s.writes(b), nil
}

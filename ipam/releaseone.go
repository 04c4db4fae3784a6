package ipam

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// ReleaseOne releases one address if it is still the assignment that was seen, whatever
// else its handle holds; ErrNotAsSeen when it is free or another. The handle's record
// may be missing.
func ReleaseOne(ctx context.Context, client datastore.Client, seen Allocation) error {
	for range maxAttempts {
		ops, freed, err := releaseOneOps(ctx, client, seen)
		if err != nil {
			return fmt.Errorf("release %s: %w", seen.Addr, err)
		}
		if _, err = client.Txn(ctx, ops...); err == nil {
			record(ctx, client, freed)
			return nil
		}
		if isFailure(err) {
			return fmt.Errorf("release %s: %w", seen.Addr, err)
		}
	}
	return fmt.Errorf("release %s: gave up after %d attempts: %w", seen.Addr, maxAttempts, datastore.ErrConflict)
}

func releaseOneOps(ctx context.Context, client datastore.Client, seen Allocation) ([]datastore.Op, []recorded, error) {
	blockKey, handleKey := api.BlockKey(seen.Block), api.HandleKey(string(seen.Handle))
	keys := []api.Key{blockKey}
	if seen.Handle != "" {
		keys = append(keys, handleKey)
	}
	current, err := readKeys(ctx, client, keys)
	if err != nil {
		return nil, nil, err
	}
	for _, key := range keys {
		if err := current.invalid[key]; err != nil {
			return nil, nil, err
		}
	}
	entry := current.entry(blockKey)
	if entry == nil {
		return nil, nil, ErrNotAsSeen
	}
	stored, err := asBlock(*entry)
	if err != nil {
		return nil, nil, err
	}
	n := ordinalOf(stored.prefix, seen.Addr)
	if stored.spec.Allocations[n] == nil || stored.holder(n) != seen.Handle || stored.sequence(n) != seen.Sequence {
		return nil, nil, ErrNotAsSeen
	}
	b := stored.clone()
	freed := []recorded{{b.prefix, b.released([]int{n}, time.Now(), reasonOf(ctx))}}
	b.release([]int{n})
	b.seal()
	ops := stored.writes(b)
	if seen.Handle == "" {
		return ops, freed, nil
	}
	return slices.Concat(ops, uncountOps(current.entry(handleKey), handleKey, seen.Block.String())), freed, nil
}

// uncountOps takes one address of a block off a handle; one without a record stays so.
func uncountOps(handle *datastore.Entry, key api.Key, block string) []datastore.Op {
	if handle == nil {
		return []datastore.Op{datastore.Check(key, 0)}
	}
	counts := handleCounts(*handle)
	if counts[block]--; counts[block] <= 0 {
		delete(counts, block)
	}
	if len(counts) == 0 {
		return []datastore.Op{datastore.Delete(key, handle.Revision)}
	}
	changed := *handle
	changed.Object = handleObject(key, counts)
	return []datastore.Op{datastore.Update(changed)}
}

package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Allocation is one address in use, as its block has it.
type Allocation struct {
	Handle HandleID
	Addr   netip.Addr
	Block  netip.Prefix
	// Sequence tells this assignment of the address from any other.
	Sequence uint64
	// Attrs describe the owner, Alternate a second one during a live migration.
	// Both are shared and must not be changed.
	Attrs, Alternate map[string]string
}

// AllocationsOf lists the addresses in use in a block, in ascending order.
func AllocationsOf(block datastore.Entry) ([]Allocation, error) {
	b, err := asBlock(block)
	if err != nil {
		return nil, err
	}
	var out []Allocation
	for n, index := range b.spec.Allocations {
		if index == nil {
			continue
		}
		attrs := b.spec.Attributes[*index]
		out = append(out, Allocation{
			Handle: b.holder(n), Addr: b.addr(n), Block: b.prefix, Sequence: b.sequence(n),
			Attrs: attrs.ActiveOwnerAttrs, Alternate: attrs.AlternateOwnerAttrs,
		})
	}
	return out, nil
}

// OwnerOf is the affinity of a block; ok is false for a block without one.
func OwnerOf(block datastore.Entry) (owner api.Affinity, ok bool) {
	b, err := asBlock(block)
	if err != nil {
		return api.Affinity{}, false
	}
	return b.owner()
}

// ErrNotAsSeen says that a handle holds something else than was seen.
var ErrNotAsSeen = errors.New("the addresses were assigned anew since they were seen")

// ReleaseAsSeen releases the addresses of a handle if it holds exactly those seen,
// each since the assignment that was seen; otherwise nothing is released and the
// error is ErrNotAsSeen. A handle that holds nothing any more is no error. The
// handle's own record may be missing.
func ReleaseAsSeen(ctx context.Context, client datastore.Client, handle HandleID, seen []Allocation) ([]netip.Addr, error) {
	for range maxAttempts {
		stored, blocks, err := readSeen(ctx, client, handle, seen)
		if err != nil {
			return nil, fmt.Errorf("release addresses of handle %q: %w", handle, err)
		}
		held := heldIn(handle, blocks)
		if len(held) == 0 {
			return nil, nil
		}
		if !sameAllocations(held, seen) {
			return nil, fmt.Errorf("release addresses of handle %q: %w", handle, ErrNotAsSeen)
		}
		ops, freed := releaseSeenOps(ctx, handle, stored, blocks)
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

// readSeen reads a handle's record, nil if absent, and every block that it counts
// or that was seen to hold addresses of it.
func readSeen(ctx context.Context, client datastore.Client, handle HandleID, seen []Allocation) (*datastore.Entry, []storedBlock, error) {
	record, blocks, err := readHandle(ctx, client, handle)
	if err != nil {
		return nil, nil, err
	}
	var missing []api.Key
	for _, a := range seen {
		read := slices.ContainsFunc(blocks, func(b storedBlock) bool { return b.prefix == a.Block })
		if key := api.BlockKey(a.Block); !read && !slices.Contains(missing, key) {
			missing = append(missing, key)
		}
	}
	current, err := readKeys(ctx, client, missing)
	if err != nil {
		return nil, nil, err
	}
	for _, key := range missing {
		if err := current.invalid[key]; err != nil {
			return nil, nil, err
		}
		if entry := current.entry(key); entry != nil {
			b, err := asBlock(*entry)
			if err != nil {
				return nil, nil, err
			}
			blocks = append(blocks, b)
		}
	}
	return record, blocks, nil
}

// heldIn lists what a handle holds in blocks.
func heldIn(handle HandleID, blocks []storedBlock) []Allocation {
	var held []Allocation
	for _, b := range blocks {
		for _, n := range b.held(handle) {
			held = append(held, Allocation{Addr: b.addr(n), Sequence: b.sequence(n)})
		}
	}
	return held
}

// sameAllocations compares addresses and assignments, whatever the order.
func sameAllocations(a, b []Allocation) bool {
	contains := func(list []Allocation, x Allocation) bool {
		return slices.ContainsFunc(list, func(y Allocation) bool { return x.Addr == y.Addr && x.Sequence == y.Sequence })
	}
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !contains(b, x) {
			return false
		}
	}
	return true
}

// releaseSeenOps is releaseOps for a handle whose record may be missing; then it
// must still be missing when the transaction is carried out.
func releaseSeenOps(ctx context.Context, handle HandleID, stored *datastore.Entry, blocks []storedBlock) ([]datastore.Op, []recorded) {
	var holding []storedBlock
	for _, b := range blocks {
		if len(b.held(handle)) > 0 {
			holding = append(holding, b)
		}
	}
	if stored != nil {
		return releaseOps(ctx, handle, *stored, holding)
	}
	ops, freed := releaseOps(ctx, handle, datastore.Entry{}, holding)
	ops[len(ops)-1] = datastore.Check(api.HandleKey(string(handle)), 0)
	return ops, freed
}

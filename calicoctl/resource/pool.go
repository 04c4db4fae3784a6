package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Refusal is an object of the input that the rules between objects forbid.
type Refusal struct {
	Index int    // of the object in the input
	Field string // the path of the field that breaks the rule
	Err   error
}

// CheckPools applies the rules for IP pools to a whole input before any of it is
// written: no two pools overlap, among themselves or with those stored, and,
// with updates, no stored pool is changed in a way that its blocks forbid. A
// pool of the input takes the place of the stored one of its name.
func (s *Store) CheckPools(ctx context.Context, objects []api.Object, updates bool) ([]Refusal, error) {
	if !slices.ContainsFunc(objects, isPool) {
		return nil, nil
	}
	snap, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPPool})
	if err != nil {
		return nil, err
	}
	stored := map[string]*v3.IPPool{}
	for _, entry := range snap.Entries {
		pool := entry.Object.(*v3.IPPool)
		stored[pool.Name] = pool
	}
	var refusals []Refusal
	for i, obj := range objects {
		pool, ok := obj.(*v3.IPPool)
		if !ok {
			continue
		}
		if old := stored[pool.Name]; old != nil && updates {
			key := api.Key{Kind: api.KindIPPool, Name: pool.Name}
			field, err := s.allowPoolUpdate(ctx, key, old, pool)
			if err != nil && field == "" {
				return nil, err
			}
			if err != nil {
				refusals = append(refusals, Refusal{Index: i, Field: field, Err: err})
				continue
			}
		}
		delete(stored, pool.Name)
		others := slices.SortedFunc(maps.Values(stored), func(a, b *v3.IPPool) int { return strings.Compare(a.Name, b.Name) })
		if err := api.CheckPools(pool, others); err != nil {
			refusals = append(refusals, Refusal{Index: i, Field: "spec.cidr", Err: err})
		}
		stored[pool.Name] = pool
	}
	return refusals, nil
}

func isPool(obj api.Object) bool {
	_, ok := obj.(*v3.IPPool)
	return ok
}

// allowUpdate applies the rules for changing a stored object.
func (s *Store) allowUpdate(ctx context.Context, key api.Key, old, updated api.Object) error {
	if key.Kind != api.KindIPPool {
		return nil
	}
	_, err := s.allowPoolUpdate(ctx, key, old.(*v3.IPPool), updated.(*v3.IPPool))
	return err
}

// allowPoolUpdate refuses a change that the pool's blocks would not survive, and
// names the field. An error without a field is one of the store.
func (s *Store) allowPoolUpdate(ctx context.Context, key api.Key, before, after *v3.IPPool) (field string, err error) {
	const advice = "create a pool of another name, disable this one, and delete it when nothing uses it"
	if before.Spec.CIDR == "" {
		before = before.DeepCopy() // it can't be read
		before.Spec.CIDR = after.Spec.CIDR
	}
	if before.Spec.CIDR != after.Spec.CIDR {
		return "spec.cidr", refuse(advice, "%s: spec.cidr: can't be changed from %s to %s", key, before.Spec.CIDR, after.Spec.CIDR)
	}
	if before.Spec.BlockSize == after.Spec.BlockSize {
		return "", nil
	}
	cidr, err := netip.ParsePrefix(before.Spec.CIDR)
	if err != nil {
		return "", nil //nolint:nilerr // nothing can have been taken from such a pool
	}
	use, err := s.poolUse(ctx, cidr)
	if err != nil || len(use.blocks) == 0 {
		return "", err
	}
	if before.Spec.BlockSize == 0 { // it can't be read: the blocks tell
		for _, b := range use.blocks {
			if size := netip.MustParsePrefix(b.Key.Name).Bits(); size != after.Spec.BlockSize {
				return "spec.blockSize", refuse(fmt.Sprintf("set it to %d", size), "%s: spec.blockSize: can't be %d, for the pool has blocks of size %d", key, after.Spec.BlockSize, size)
			}
		}
		return "", nil
	}
	return "spec.blockSize", refuse(advice,
		"%s: spec.blockSize: can't be changed from %d to %d while the pool has blocks (%d, of them %d with addresses in use)",
		key, before.Spec.BlockSize, after.Spec.BlockSize, len(use.blocks), use.busy)
}

// poolUse is what has been taken from a pool.
type poolUse struct {
	blocks    []datastore.Entry
	addresses int // in use
	busy      int // blocks with addresses in use
}

func (s *Store) poolUse(ctx context.Context, pool netip.Prefix) (poolUse, error) {
	snap, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return poolUse{}, err
	}
	var use poolUse
	for _, entry := range snap.Entries {
		cidr, err := netip.ParsePrefix(entry.Key.Name)
		if err != nil || !pool.Overlaps(cidr) {
			continue
		}
		use.blocks = append(use.blocks, entry)
		if n := allocated(entry); n > 0 {
			use.addresses += n
			use.busy++
		}
	}
	return use, nil
}

func allocated(block datastore.Entry) int {
	n := 0
	for _, attribute := range block.Object.(*api.IPAMBlock).Spec.Allocations {
		if attribute != nil {
			n++
		}
	}
	return n
}

// deletePool disables the pool, so that no allocator takes a further block from
// it, releases its empty blocks, and deletes it. Blocks with addresses in use
// keep their owner: their workloads go on working.
//
// One that can't be read is deleted first: nobody claims a block of a pool that has changed.
func (s *Store) deletePool(ctx context.Context, key api.Key, version string) error {
	entry, unread, err := s.readAny(ctx, key)
	switch {
	case err != nil:
		return err
	case unread != nil:
		if err := s.deleteOne(ctx, key, version); err != nil {
			return err
		}
		return s.releaseBlocksOf(ctx, key, entry.Object.(*v3.IPPool).Spec)
	}
	var spec v3.IPPoolSpec
	err = s.modify(ctx, key, version, func(old api.Object) (api.Object, error) {
		pool := old.DeepCopyObject().(*v3.IPPool)
		spec = pool.Spec
		pool.Spec.Disabled = true
		return pool, nil
	})
	if err != nil {
		return err
	}
	if err := sleep(ctx, s.Settle); err != nil {
		return err
	}
	if err := s.releaseBlocksOf(ctx, key, spec); err != nil {
		return err
	}
	_, err = s.Client.Txn(ctx, datastore.DeleteAny(key))
	return err
}

func (s *Store) releaseBlocksOf(ctx context.Context, key api.Key, spec v3.IPPoolSpec) error {
	cidr, err := netip.ParsePrefix(spec.CIDR)
	if err != nil {
		return nil //nolint:nilerr // nobody knows which are its blocks
	}
	return s.releasePool(ctx, key, cidr, spec.NATOutgoing)
}

// releasePool releases the empty blocks of a pool, and says what becomes of the
// addresses in the others. nat tells whether the pool has outgoing NAT.
func (s *Store) releasePool(ctx context.Context, key api.Key, cidr netip.Prefix, nat bool) error {
	use, err := s.poolUse(ctx, cidr)
	if err != nil {
		return err
	}
	for _, block := range use.blocks {
		if allocated(block) > 0 {
			continue
		}
		if err := s.releaseBlock(ctx, block); err != nil {
			return err
		}
	}
	if use.addresses > 0 {
		s.Warn(inUse(key, use, nat))
	}
	return nil
}

func inUse(key api.Key, use poolUse, nat bool) string {
	text := fmt.Sprintf("%s: %d address(es) in %d block(s) are still in use: their pods keep them, bgpd goes on advertising the blocks, "+
		"and they stay reachable within the cluster", key, use.addresses, use.busy)
	if nat {
		text += "; outgoing NAT of this pool stops at once: their new connections to outside the cluster bear their own address"
	}
	return text + "; restart the pods to move them to another pool"
}

// releaseBlock removes an empty block and its owner's claim in one transaction.
// A block that gets an address meanwhile stays.
func (s *Store) releaseBlock(ctx context.Context, block datastore.Entry) error {
	ops := []datastore.Op{datastore.Delete(block.Key, block.Revision)}
	spec := block.Object.(*api.IPAMBlock).Spec
	if spec.Affinity != nil {
		owner, ownerErr := api.ParseAffinity(*spec.Affinity)
		cidr, cidrErr := netip.ParsePrefix(block.Key.Name)
		if ownerErr == nil && cidrErr == nil {
			ops = append(ops, datastore.DeleteAny(api.BlockAffinityKey(owner, cidr)))
		}
	}
	_, err := s.Client.Txn(ctx, ops...)
	if errors.Is(err, datastore.ErrConflict) {
		s.Warn(fmt.Sprintf("block %s: got an address while the pool was being deleted and stays", block.Key.Name))
		return nil
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-timer.Done()
	return ctx.Err()
}

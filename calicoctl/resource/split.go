package resource

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strconv"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// maxParts is how many pools fit into one transaction with room to spare.
const maxParts = 64

// SplitPool puts pools of equal size in the place of one, which is named or has the
// CIDR, all in one transaction: blocks and addresses stay as they are. The datastore
// must be locked, so that nobody is allocating meanwhile.
func (s *Store) SplitPool(ctx context.Context, name, cidr string, parts int) (split *v3.IPPool, made []*v3.IPPool, err error) {
	locked, err := s.locked(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !locked {
		return nil, nil, refuse("lock it with calicoctl datastore migrate lock, and unlock it afterwards",
			"datastore is not locked: pods may get addresses of the pool while it is split")
	}
	entry, err := s.poolToSplit(ctx, name, cidr)
	if err != nil {
		return nil, nil, err
	}
	split = entry.Object.(*v3.IPPool)
	prefixes, err := s.partsOf(ctx, split, parts)
	if err != nil {
		return nil, nil, err
	}
	var objects []api.Object
	for i, prefix := range prefixes {
		part := split.DeepCopyObject().(*v3.IPPool)
		forgetIdentity(part)
		part.Name = partName(split.Name, i)
		part.Spec.CIDR, part.Spec.Disabled = prefix.String(), split.Spec.Disabled
		made, objects = append(made, part), append(objects, part)
	}
	err = s.resources().CreateAll(ctx, objects, datastore.Delete(entry.Key, entry.Revision))
	var conflict *datastore.ConflictError
	if errors.As(err, &conflict) {
		return nil, nil, named(conflict.Key, conflict, "somebody else has changed the pools; look at them with calicoctl get ippools, and try again")
	}
	return split, made, err
}

// locked reports whether the datastore is locked.
func (s *Store) locked(ctx context.Context) (bool, error) {
	entry, err := s.Client.Get(ctx, api.Key{Kind: api.KindClusterInformation, Name: datastore.ClusterInformationName})
	if errors.Is(err, datastore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ready := entry.Object.(*v3.ClusterInformation).Spec.DatastoreReady
	return ready != nil && !*ready, nil
}

func (s *Store) poolToSplit(ctx context.Context, name, cidr string) (datastore.Entry, error) {
	if name != "" {
		entry, err := s.Client.Get(ctx, api.Key{Kind: api.KindIPPool, Name: name})
		if errors.Is(err, datastore.ErrNotFound) {
			err = refuse("calicoctl get ippools lists them", "unable to find IP pool with name %s", name)
		}
		if pool, ok := entry.Object.(*v3.IPPool); err == nil && ok && cidr != "" && pool.Spec.CIDR != cidr {
			err = refuse("name it by one of the two", "IP pool %s has CIDR %s, not %s", name, pool.Spec.CIDR, cidr)
		}
		return entry, err
	}
	snap, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPPool})
	if err != nil {
		return datastore.Entry{}, err
	}
	for _, entry := range snap.Entries {
		if pool, ok := entry.Object.(*v3.IPPool); ok && pool.Spec.CIDR == cidr {
			return entry, nil
		}
	}
	return datastore.Entry{}, refuse("calicoctl get ippools -o wide shows their CIDRs", "unable to find an IP pool with CIDR %s", cidr)
}

// partsOf divides a pool's range; each part has room for a block, and no block is
// larger than a part.
func (s *Store) partsOf(ctx context.Context, pool *v3.IPPool, parts int) ([]netip.Prefix, error) {
	cidr, err := netip.ParsePrefix(pool.Spec.CIDR)
	if err != nil {
		return nil, refuse("put it right with calicoctl apply", "IP pool %s: spec.cidr %q is no CIDR", pool.Name, pool.Spec.CIDR)
	}
	cidr = cidr.Masked()
	bits := cidr.Bits() + big.NewInt(int64(parts)).BitLen() - 1
	if bits > pool.Spec.BlockSize {
		return nil, refuse("split it into fewer", "the CIDR %s is not large enough to be split into %d parts with blocks of /%d", cidr, parts, pool.Spec.BlockSize)
	}
	if parts > maxParts {
		return nil, refuse("split it into fewer, then split those", "%d pools are more than can be made at once, which is %d", parts, maxParts)
	}
	use, err := s.poolUse(ctx, cidr)
	if err != nil {
		return nil, err
	}
	for _, block := range use.blocks {
		if prefix, err := netip.ParsePrefix(block.Key.Name); err == nil && prefix.Bits() < bits {
			return nil, refuse("split it into fewer", "block %s is larger than a part, /%d", prefix, bits)
		}
	}
	var out []netip.Prefix
	for i := range parts {
		out = append(out, part(cidr, bits, i))
	}
	return out, nil
}

// part is the i-th range of a length in cidr.
func part(cidr netip.Prefix, bits, i int) netip.Prefix {
	length := cidr.Addr().BitLen()
	n := new(big.Int).SetBytes(cidr.Addr().AsSlice())
	n.Add(n, new(big.Int).Lsh(big.NewInt(int64(i)), uint(length-bits)))
	addr, _ := netip.AddrFromSlice(n.FillBytes(make([]byte, length/8)))
	return netip.PrefixFrom(addr, bits)
}

// partName is upstream's name for a part, cut to what a name may have.
func partName(pool string, i int) string {
	const most = 253
	suffix := "-" + strconv.Itoa(i)
	name := "split-" + pool
	return fmt.Sprintf("%.*s%s", most-len(suffix), name, suffix)
}

package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Report is how the addresses of a cluster are used.
type Report struct {
	// Pools are sorted by range, IPv4 first.
	Pools []PoolUsage
	// Strays are blocks that lie in no pool.
	Strays []BlockUsage
	// Invalid are the keys that can't be read; what they hold is not counted.
	Invalid []datastore.Invalid
}

// PoolUsage is the use of one pool.
type PoolUsage struct {
	Name  string
	CIDR  netip.Prefix
	Total *big.Int
	InUse int
	// Blocks are the pool's blocks, by address.
	Blocks []BlockUsage
}

// Free is how many addresses of the pool are not in use.
func (u PoolUsage) Free() *big.Int { return new(big.Int).Sub(u.Total, big.NewInt(int64(u.InUse))) }

// Percent is the share of the pool in use.
func (u PoolUsage) Percent() float64 {
	share, _ := new(big.Rat).SetFrac(big.NewInt(int64(u.InUse)*100), u.Total).Float64()
	return share
}

// BlockUsage is the use of one block.
type BlockUsage struct {
	CIDR netip.Prefix
	// Affinity is the owner in stored form ("host:node1"), empty for none.
	Affinity     string
	Total, InUse int
	// Borrowed counts the addresses whose node is not the owner.
	Borrowed int
}

// Free is how many addresses of the block are not in use.
func (u BlockUsage) Free() int { return u.Total - u.InUse }

// Percent is the share of the block in use.
func (u BlockUsage) Percent() float64 { return float64(u.InUse) * 100 / float64(u.Total) }

// Usage reads how the addresses of every pool are used. A key that can't be read
// is reported and stops nothing.
func Usage(ctx context.Context, client datastore.Client) (Report, error) {
	pools, err := client.List(ctx, datastore.Range{Kind: api.KindIPPool})
	if err != nil {
		return Report{}, fmt.Errorf("read ipam usage: %w", err)
	}
	blocks, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return Report{}, fmt.Errorf("read ipam usage: %w", err)
	}
	report := Report{Invalid: slices.Concat(pools.Invalid, blocks.Invalid)}
	for _, entry := range pools.Entries {
		obj, _ := entry.Object.(*v3.IPPool)
		prefix, err := netip.ParsePrefix(obj.Spec.CIDR)
		if err != nil {
			err = fmt.Errorf("spec.cidr: %q: want a CIDR such as 10.65.0.0/16", obj.Spec.CIDR)
			report.Invalid = append(report.Invalid, datastore.Invalid{Key: entry.Key, Path: entry.Key.String(), Err: err})
			continue
		}
		prefix = prefix.Masked()
		total := new(big.Int).Lsh(big.NewInt(1), uint(prefix.Addr().BitLen()-prefix.Bits()))
		report.Pools = append(report.Pools, PoolUsage{Name: entry.Key.Name, CIDR: prefix, Total: total})
	}
	slices.SortFunc(report.Pools, func(x, y PoolUsage) int { return x.CIDR.Compare(y.CIDR) })
	for _, entry := range blocks.Entries {
		report.addBlock(entry)
	}
	return report, nil
}

// addBlock counts a block to the smallest pool it lies in.
func (r *Report) addBlock(entry datastore.Entry) {
	b, err := asBlock(entry)
	if err != nil {
		r.Invalid = append(r.Invalid, datastore.Invalid{Key: entry.Key, Path: entry.Key.String(), Err: err})
		return
	}
	usage := BlockUsage{CIDR: b.prefix, Total: blockSize(b.prefix), InUse: b.used()}
	owner, owned := b.owner()
	if owned {
		usage.Affinity = owner.String()
	}
	for n, index := range b.spec.Allocations {
		if index != nil && b.borrowed(n, owner, owned) {
			usage.Borrowed++
		}
	}
	at := -1
	for i, p := range r.Pools {
		if p.CIDR.Contains(b.prefix.Addr()) && (at < 0 || p.CIDR.Bits() > r.Pools[at].CIDR.Bits()) {
			at = i
		}
	}
	if at < 0 {
		r.Strays = append(r.Strays, usage)
		return
	}
	r.Pools[at].InUse += usage.InUse
	r.Pools[at].Blocks = append(r.Pools[at].Blocks, usage)
}

// borrowed reports whether an allocated ordinal is used on another node than the
// block's owner.
func (b block) borrowed(n int, owner api.Affinity, owned bool) bool {
	node := b.spec.Attributes[*b.spec.Allocations[n]].ActiveOwnerAttrs[api.AttributeNode]
	return node != "" && (!owned || owner != api.HostAffinity(node))
}

// AddressInfo is what is known of one address.
type AddressInfo struct {
	Addr netip.Addr
	// Pool is the pool the address lies in, empty for none.
	Pool string
	// Block is the block it lies in; invalid when there is none yet.
	Block netip.Prefix
	// Affinity is the block's owner in stored form, empty for none.
	Affinity string
	// Assigned says whether somebody holds the address; the rest describes who.
	Assigned bool
	Handle   HandleID
	Attrs    map[string]string
	// Sequence is the sequence number of the assignment.
	Sequence uint64
}

// String says in one line who holds the address.
func (i AddressInfo) String() string {
	switch {
	case i.Assigned:
		return fmt.Sprintf("%s is in use by handle %s", i.Addr, i.Handle)
	case i.Pool == "" && !i.Block.IsValid():
		return fmt.Sprintf("%s is in no pool", i.Addr)
	}
	return fmt.Sprintf("%s is not assigned", i.Addr)
}

// Lookup reads what is known of an address.
func Lookup(ctx context.Context, client datastore.Client, addr netip.Addr) (AddressInfo, error) {
	info := AddressInfo{Addr: addr}
	pools, err := client.List(ctx, datastore.Range{Kind: api.KindIPPool})
	if err != nil {
		return info, fmt.Errorf("look up %s: %w", addr, err)
	}
	longest := -1
	for _, entry := range pools.Entries {
		obj, _ := entry.Object.(*v3.IPPool)
		if prefix, err := netip.ParsePrefix(obj.Spec.CIDR); err == nil && prefix.Contains(addr) && prefix.Bits() > longest {
			info.Pool, longest = obj.Name, prefix.Bits()
		}
	}
	b, err := findBlock(ctx, client, addr)
	if err != nil {
		return info, fmt.Errorf("look up %s: %w", addr, err)
	}
	if b == nil {
		return info, nil
	}
	info.Block = b.prefix
	if owner, ok := b.owner(); ok {
		info.Affinity = owner.String()
	}
	n := ordinalOf(b.prefix, addr)
	if index := b.spec.Allocations[n]; index != nil {
		info.Assigned = true
		info.Handle = b.holder(n)
		info.Attrs = b.spec.Attributes[*index].ActiveOwnerAttrs
		info.Sequence = b.sequence(n)
	}
	return info, nil
}

// findBlock reads the block an address lies in, whatever its size, nil when there
// is none. Of blocks that overlap, which must not be, it takes the one that has
// the address assigned.
func findBlock(ctx context.Context, client datastore.Client, addr netip.Addr) (*storedBlock, error) {
	var keys []api.Key
	for bits := addr.BitLen(); bits >= addr.BitLen()-maxBlockBits; bits-- {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			return nil, err
		}
		keys = append(keys, api.BlockKey(prefix))
	}
	current, err := readKeys(ctx, client, keys)
	if err != nil {
		return nil, err
	}
	var found *storedBlock
	var broken error
	for _, key := range keys {
		broken = errors.Join(broken, current.invalid[key])
		entry := current.entry(key)
		if entry == nil {
			continue
		}
		b, err := asBlock(*entry)
		if err != nil {
			broken = errors.Join(broken, err)
			continue
		}
		if found == nil || b.spec.Allocations[ordinalOf(b.prefix, addr)] != nil {
			found = &b
		}
	}
	if found == nil {
		return nil, broken
	}
	return found, nil
}

package ipam

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// planEnsure answers a call that wants a block, or reports false when there is none.
func (w *writer) planEnsure(c *call, pools map[family][]pool) bool {
	var blocks []netip.Prefix
	for _, f := range c.assign.families() {
		own := w.ownBlocks(pools[f])
		if len(own) == 0 {
			return false
		}
		blocks = append(blocks, own...)
	}
	c.answer(result{blocks: blocks})
	return true
}

// ownBlocks lists the node's blocks in some pools.
func (w *writer) ownBlocks(pools []pool) []netip.Prefix {
	var blocks []netip.Prefix
	for _, p := range pools {
		blocks = append(blocks, w.state.ownBlocks(p)...)
	}
	return blocks
}

// planAddresses finds the places of the addresses that a call names. There are fewer of
// them than addresses when a block has to be read or claimed first.
func (w *writer) planAddresses(p *plan, c *call) ([]portion, error) {
	var portions []portion
	for _, addr := range c.assign.Addrs {
		pool, err := w.poolOf(c.assign, addr)
		if err != nil {
			return nil, err
		}
		prefix, ok := w.state.blockAround(addr)
		if !ok || !w.state.own(prefix) && !w.state.borrowed[prefix] {
			return portions, nil
		}
		b := p.view(prefix)
		n := ordinalOf(prefix, addr)
		switch taken := b.spec.Allocations[n] != nil; {
		case (taken || !slices.Contains(b.spec.Unallocated, n)) && !c.located[addr]:
			return portions, nil
		case taken:
			return nil, &AddressError{
				Addr: addr, Class: ErrInUse, Reason: fmt.Sprintf("handle %s holds it", cmp.Or(b.holder(n), "(none)")),
				Advice: fmt.Sprintf("See who that is: calicoctl ipam show --ip=%s", addr),
			}
		case !slices.Contains(b.spec.Unallocated, n):
			return nil, &AddressError{
				Addr: addr, Class: ErrInUse, Reason: fmt.Sprintf("block %s lists it neither as used nor as free", prefix),
				Advice: "Have it mended: calicoctl ipam check",
			}
		}
		portions = append(portions, portion{block: prefix, num: 1, pool: pool.name, exact: true, ordinal: n})
	}
	return portions, nil
}

// missingAddress is the first address of a call that can't be assigned from what is in
// memory.
func (w *writer) missingAddress(c *call) (netip.Addr, bool) {
	found, err := w.planAddresses(newPlan(w.state, w.reserved, w.now()), c)
	if err != nil || len(found) == len(c.assign.Addrs) {
		return netip.Addr{}, false
	}
	return c.assign.Addrs[len(found)], true
}

// blockAround is the known block an address lies in, whatever its size.
func (s *state) blockAround(addr netip.Addr) (netip.Prefix, bool) {
	for _, prefix := range blocksAround(addr) {
		if _, known := s.blocks[prefix]; known && !s.stale[prefix] {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

// blocksAround are the blocks of all sizes that an address may lie in.
func blocksAround(addr netip.Addr) []netip.Prefix {
	var blocks []netip.Prefix
	for bits := addr.BitLen(); bits >= addr.BitLen()-maxBlockBits; bits-- {
		blocks = append(blocks, netip.PrefixFrom(addr, bits).Masked())
	}
	return blocks
}

// poolOf is the pool an address lies in, if addresses of it may be assigned.
func (w *writer) poolOf(r *Request, addr netip.Addr) (pool, error) {
	var found *pool
	for _, obj := range w.pools {
		p, err := parsePool(obj)
		if err == nil && p.prefix.Contains(addr) && (found == nil || p.prefix.Bits() > found.prefix.Bits()) {
			found = &p
		}
	}
	refused := &AddressError{Addr: addr, Class: ErrNoPool, Reason: "it lies in no IP pool", Advice: "Choose one of a pool: calicoctl get ippools"}
	if found == nil {
		return pool{}, refused
	}
	if reason := cmp.Or(found.refuseUse(cmp.Or(r.Use, v3.IPPoolAllowedUseWorkload)), r.Avoid[found.prefix]); reason != "" {
		refused.Reason = Verdict{Pool: found.name, CIDR: found.prefix.String(), Reason: reason}.String()
		return pool{}, refused
	}
	return *found, nil
}

// obtain makes an address that a call names assignable: it reads the block it lies in,
// and claims it if nobody has it, or opens it for borrowing.
func (w *writer) obtain(ctx context.Context, c *call, addr netip.Addr) (bool, error) {
	p, err := w.poolOf(c.assign, addr)
	if err != nil {
		return false, err
	}
	var keys []api.Key
	for _, prefix := range blocksAround(addr) {
		keys = append(keys, api.BlockKey(prefix))
	}
	if err := w.read(ctx, keys); err != nil {
		return false, err
	}
	for _, prefix := range blocksAround(addr) {
		if err := w.state.errBroken(prefix); err != nil {
			return false, err
		}
		if err := w.state.unreadable[prefix]; err != nil {
			return false, fmt.Errorf("block %s can't be used: %w", prefix, err)
		}
	}
	prefix, exists := w.state.blockAround(addr)
	_, unsettled := w.state.claims[prefix]
	switch {
	case !exists:
		return w.obtainBlock(ctx, addr, p)
	case unsettled:
		return w.claim(ctx, p, prefix)
	case w.state.own(prefix):
	default:
		if err := w.mayBorrow(addr, w.state.blocks[prefix].block); err != nil {
			return false, err
		}
		w.state.borrowed[prefix] = true
	}
	if c.located == nil {
		c.located = make(map[netip.Addr]bool)
	}
	c.located[addr] = true
	return true, nil
}

// obtainBlock claims the block an address would lie in.
func (w *writer) obtainBlock(ctx context.Context, addr netip.Addr, p pool) (bool, error) {
	config := w.view.Config()
	refused := &AddressError{Addr: addr, Class: ErrBlockLimit, Reason: "its block would be one more than the node may own"}
	unknown := w.configUnknown()
	switch own := w.state.countBlocks(familyOfAddr(addr)); {
	case unknown != nil:
		refused.Reason, refused.Class = "nobody has its block, and whether it may be claimed is not known", ErrNotOurs
		refused.Advice = upperFirst(ConfigAdvice(unknown))
		return false, refused
	case !config.AutoAllocateBlocks:
		refused.Reason, refused.Class = "nobody has its block, and claiming blocks is switched off", ErrNotOurs
		refused.Advice = "Set auto_allocate_blocks to true in the IPAMConfig"
		return false, refused
	case own >= w.blockLimit(config):
		refused.Advice = fmt.Sprintf("Raise the limit: calicoctl ipam configure --max-blocks-per-host=%d", 2*own)
		return false, refused
	}
	prefix := netip.PrefixFrom(addr, p.blockBits).Masked()
	claimed, err := w.claim(ctx, p, prefix)
	return claimed, err
}

// mayBorrow says why an address of a block of somebody else may not be taken.
func (w *writer) mayBorrow(addr netip.Addr, b block) error {
	owner, owned := b.owner()
	refused := &AddressError{Addr: addr, Class: ErrNotOurs, Reason: fmt.Sprintf("its block %s belongs to %s", b.prefix, ownerText(b))}
	unknown := w.configUnknown()
	switch {
	case owned && owner.Type != api.AffinityHost:
		return refused
	case unknown != nil:
		refused.Reason += ", and whether it may be borrowed is not known"
		refused.Advice = upperFirst(ConfigAdvice(unknown))
		return refused
	case w.view.Config().StrictAffinity:
		refused.Reason += ", and strictAffinity forbids to borrow"
		refused.Advice = "Run the pod on that node, choose another address, or calicoctl ipam configure --strictaffinity=false"
		return refused
	}
	return nil
}

package check

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

func (c *checker) invalid() {
	for i := range c.in.Invalid {
		invalid := &c.in.Invalid[i]
		c.add(Finding{
			Kind: Unreadable, Where: invalid.Path, What: "can't be read: " + invalid.Err.Error(), Why: consequence(invalid.Key.Kind),
			Do:   remedy(invalid),
			Kept: "what it should say is not known", Stamp: invalid.Err.Error(),
		})
	}
}

func remedy(invalid *datastore.Invalid) string {
	look := "look at it with etcdctl get " + invalid.Path
	switch invalid.Key.Kind {
	case api.KindIPPool, api.KindNode, api.KindIPReservation:
		return look + "; " + invalid.Remedy()
	}
	return look + ", and put it right there or delete it"
}

// cannotRead notes an object that makes no sense.
func (c *checker) cannotRead(key api.Key, what string) {
	c.blind[key.Kind] = true
	c.unreadable[key] = true
	c.add(Finding{
		Kind: Unreadable, Where: key.String(), What: "makes no sense: " + strings.TrimPrefix(what, key.String()+": "), Why: consequence(key.Kind),
		Do:   fmt.Sprintf("look at it with calicoctl get %s %s -o yaml, and put it right or delete it", strings.ToLower(string(key.Kind)), qualified(key)),
		Kept: "what it should say is not known", Stamp: what,
	})
}

func qualified(key api.Key) string {
	if key.Namespace == "" {
		return key.Name
	}
	return "-n " + key.Namespace + " " + key.Name
}

// consequence is what follows from a key that can't be read.
func consequence(kind api.Kind) string {
	switch kind {
	case api.KindIPAMBlock:
		return "nobody gets an address of this block, and none of it is released"
	case api.KindIPAMHandle:
		return "its addresses can't be released by whoever has them"
	case api.KindBlockAffinity:
		return "the node can't use this block"
	case api.KindIPPool:
		return "a felix that could read it goes by what it said before; one that starts now knows of no such pool"
	case api.KindNode:
		return "the node gets no new blocks, and what it has is not collected"
	case api.KindWorkloadEndpoint:
		return "what addresses it has is not known, so that none of its pod is collected"
	case api.KindIPAMConfig:
		return "nodes keep to the last one they could read; one that could read none gives out addresses of the blocks it has, and neither claims nor borrows"
	case api.KindIPAMLoan:
		return "nothing: its name says all"
	case api.KindIPReservation:
		return "the addresses that it reserves are given out"
	}
	return "nobody knows what it was for"
}

func (c *checker) blocks() {
	for i := range c.blockList {
		b := &c.blockList[i]
		c.blockItself(b)
		c.blockAndPools(b)
		c.blockAndOwner(b)
	}
	c.overlaps()
}

func (c *checker) blockItself(b *block) {
	if len(b.Faults) == 0 {
		return
	}
	c.add(Finding{
		Kind: BlockLists, Where: b.entry.Key.String(), What: strings.Join(b.Faults, "; "),
		Why:      "addresses are lost, or the block is refused by the allocator",
		Do:       "calicoctl ipam fsck --repair writes the lists anew; what is in use stays so",
		Mendable: true, Block: b.Prefix, Stamp: strings.Join(b.Faults, ";"),
	})
}

func (c *checker) blockAndPools(b *block) {
	if c.blind[api.KindIPPool] || slices.ContainsFunc(c.pools, func(p netip.Prefix) bool { return p.Bits() <= b.Prefix.Bits() && p.Contains(b.Prefix.Addr()) }) {
		return
	}
	f := Finding{
		Kind: BlockOutsidePools, Where: b.entry.Key.String(), What: "lies in no IP pool, with " + count(len(b.InUse()), "address", "addresses") + " in use",
		Why:   "its pool was deleted or made smaller; its nodes announce it all the same, without the NAT and encapsulation that a pool asks for",
		Do:    "make an IPPool that has it, or restart the pods that have its addresses; calicoctl ipam show --show-blocks counts them",
		Block: b.Prefix, Kept: "its addresses are in use", Stamp: b.Prefix.String(),
	}
	if len(b.InUse()) == 0 {
		f.What, f.Kept, f.Mendable = "lies in no IP pool, and is empty", "", true
		f.Do = "calicoctl ipam fsck --repair deletes it"
	}
	c.add(f)
}

// blockAndOwner looks whether the owner of a block has an affinity that says so.
func (c *checker) blockAndOwner(b *block) {
	if !b.Owned || b.Owner.Type == api.AffinityHost && !c.knownNode(b.Owner.Name) {
		return // who is gone is judged as a whole
	}
	key := api.BlockAffinityKey(b.Owner, b.Prefix)
	affinity, ok := c.affinity[key]
	switch state := stateOf(affinity); {
	case !ok && !c.unreadable[key]:
		c.add(Finding{
			Kind: BlockUnclaimed, Where: b.entry.Key.String(), What: "belongs to " + b.Owner.String() + ", which has no affinity for it",
			Why: "a claim or a release was interrupted; the owner doesn't count the block, and who looks for its blocks doesn't find it",
			Do:  "calicoctl ipam fsck --repair writes the affinity", Mendable: true, Block: b.Prefix, Affinity: b.Owner, Stamp: b.Owner.String(),
		})
	case ok && state != api.AffinityConfirmed:
		c.add(Finding{
			Kind: AffinityUnfinished, Where: key.String(), What: fmt.Sprintf("is %s, though the block belongs to %s", state, b.Owner),
			Why: "a claim or a release was interrupted half-way",
			Do:  "calicoctl ipam fsck --repair confirms it: the block is its owner's", Mendable: true, Block: b.Prefix, Affinity: b.Owner,
			Stamp: fmt.Sprint(state, affinity.Revision),
		})
	}
}

func stateOf(affinity datastore.Entry) api.AffinityState {
	if obj, ok := affinity.Object.(*api.BlockAffinity); ok && obj.Spec.State != "" {
		return obj.Spec.State
	}
	return api.AffinityPending
}

// overlaps finds blocks that lie in others. Where the larger one's addresses and the
// smaller one's are in use, they may be the same.
func (c *checker) overlaps() {
	sorted := slices.SortedFunc(slices.Values(c.blockList), func(a, b block) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	var outer []block
	for _, b := range sorted {
		for len(outer) > 0 && !outer[len(outer)-1].Prefix.Contains(b.Prefix.Addr()) {
			outer = outer[:len(outer)-1]
		}
		if len(outer) > 0 {
			c.overlap(outer[len(outer)-1], b)
		}
		outer = append(outer, b)
	}
}

func (c *checker) overlap(large, small block) {
	f := Finding{
		Kind: BlockOverlap, Where: small.entry.Key.String(), What: "lies in block " + large.Prefix.String(),
		Why:   "the block size of a pool was changed, or two pools overlapped; both blocks give out the same addresses",
		Do:    fmt.Sprintf("disable the pool, restart the pods of one of the two blocks (%d addresses in %s, %d in %s), and run this again", len(large.InUse()), large.Prefix, len(small.InUse()), small.Prefix),
		Kept:  "addresses of both are in use",
		Block: small.Prefix, Stamp: large.Prefix.String() + " " + small.Prefix.String(),
	}
	switch {
	case len(small.InUse()) == 0:
		f.Mendable = true
	case len(large.InUse()) == 0:
		f.Mendable, f.Block = true, large.Prefix
	}
	if f.Mendable {
		f.Kept, f.Do = "", "calicoctl ipam fsck --repair deletes "+f.Block.String()+", which is empty"
	}
	c.add(f)
}

func (c *checker) affinities() {
	for _, e := range c.in.Affinities {
		owner, prefix, err := api.ParseBlockAffinityName(e.Key.Name)
		if err != nil || owner.Type == api.AffinityHost && !c.knownNode(owner.Name) {
			continue
		}
		b, exists := c.block[prefix]
		state := stateOf(e)
		f := Finding{Where: e.Key.String(), Mendable: true, Block: prefix, Affinity: owner, Stamp: fmt.Sprint(e.Revision)}
		switch {
		case exists && b == nil: // it can't be read
			continue
		case !exists && state == api.AffinityPending:
			continue // a claim under way, which the node goes on with
		case !exists:
			f.Kind, f.What = AffinityNoBlock, fmt.Sprintf("is %s, and there is no such block", state)
			f.Why, f.Do = "a release was interrupted; it counts towards the node's limit of blocks", "calicoctl ipam fsck --repair deletes it"
		case !b.Owned || b.Owner != owner:
			f.Kind, f.What = AffinityOthers, "claims a block that belongs to "+ownerText(b.Inspection)
			f.Why, f.Do = "a claim lost against another and was interrupted; it counts towards the node's limit of blocks", "calicoctl ipam fsck --repair deletes it"
		default:
			continue
		}
		c.add(f)
	}
}

func ownerText(b ipam.Inspection) string {
	if !b.Owned {
		return "nobody"
	}
	return b.Owner.String()
}

func (c *checker) handles() {
	held := map[ipam.HandleID]map[string]int{}
	seen := map[ipam.HandleID][]ipam.Allocation{}
	for _, a := range c.addresses {
		if a.Handle == "" {
			continue
		}
		if held[a.Handle] == nil {
			held[a.Handle] = map[string]int{}
		}
		held[a.Handle][a.Block.String()]++
		seen[a.Handle] = append(seen[a.Handle], a.Allocation)
	}
	for _, e := range c.in.Handles {
		id := ipam.HandleID(e.Key.Name)
		if len(held[id]) > 0 {
			c.matched++
		}
		c.handle(e, id, held[id], seen[id])
		delete(held, id)
	}
	for _, id := range slices.Sorted(maps.Keys(held)) {
		key := api.HandleKey(string(id))
		if c.unreadable[key] || id == ipam.KeptBack {
			continue
		}
		c.add(Finding{
			Kind: MissingHandle, Where: key.String(), What: "doesn't exist, but holds " + addressText(seen[id]),
			Why: "they can't be released by whoever has them", Do: "calicoctl ipam fsck --repair writes the handle",
			Mendable: true, Handle: id, Seen: seen[id], Stamp: stamp(seen[id]),
		})
	}
}

func (c *checker) handle(e datastore.Entry, id ipam.HandleID, held map[string]int, seen []ipam.Allocation) {
	counts := e.Object.(*api.IPAMHandle).Spec.Block
	for name := range counts {
		if prefix, err := netip.ParsePrefix(name); err == nil {
			if b, exists := c.block[prefix]; exists && b == nil {
				return // what it holds there can't be read
			}
		}
	}
	f := Finding{Where: e.Key.String(), Mendable: true, Handle: id, Seen: seen, Stamp: fmt.Sprint(e.Revision, stamp(seen))}
	switch {
	case id == ipam.KeptBack || maps.Equal(counts, held):
		return
	case len(held) == 0:
		f.Kind, f.What = OrphanHandle, "counts "+countText(counts)+", but no block has an address of it"
		f.Why, f.Do = "an assignment or a release was interrupted; it takes room and nothing else", "calicoctl ipam fsck --repair deletes it"
	default:
		f.Kind, f.What = HandleCount, fmt.Sprintf("counts %s, but the blocks have %s", countText(counts), countText(held))
		f.Why, f.Do = "an assignment or a release was interrupted; some of its addresses may not be found when it is released", "calicoctl ipam fsck --repair counts anew"
	}
	c.add(f)
}

func countText(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d in %s", counts[name], name))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

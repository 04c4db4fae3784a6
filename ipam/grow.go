package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// load reads the node's affinities and their blocks, and mends what a crash left:
// a block of ours whose affinity is still pending is confirmed, an affinity on a
// block of another is deleted. Other unfinished claims wait until a block is
// needed. Two round trips.
func (w *writer) load(ctx context.Context) error {
	snap, err := w.client.List(ctx, datastore.Range{Kind: api.KindBlockAffinity, NamePrefix: w.state.owner.String() + "/"})
	if err != nil {
		return fmt.Errorf("read the block affinities of %s: %w", w.owner, err)
	}
	found := make(map[netip.Prefix]claimState)
	for _, entry := range snap.Entries {
		owner, prefix, err := api.ParseBlockAffinityName(entry.Key.Name)
		if err == nil && owner == w.state.owner {
			found[prefix] = claimState{affinity: &entry}
		}
	}
	clear(w.state.unreadable)
	for i := range snap.Invalid {
		if owner, prefix, err := api.ParseBlockAffinityName(snap.Invalid[i].Key.Name); err == nil && owner == w.state.owner {
			w.leave(prefix, &snap.Invalid[i])
		}
	}
	for prefix, b := range w.state.blocks {
		if ownedBy(b.entry, w.state.owner) && w.state.unreadable[prefix] == nil {
			found[prefix] = claimState{affinity: found[prefix].affinity}
		}
	}
	prefixes := slices.SortedFunc(maps.Keys(found), netip.Prefix.Compare)
	keys := make([]api.Key, len(prefixes))
	for i, prefix := range prefixes {
		keys[i] = api.BlockKey(prefix)
	}
	current, err := readKeys(ctx, w.client, keys)
	if err != nil {
		return err
	}
	w.state.absorb(keys, current)
	clear(w.state.claims)
	for i, prefix := range prefixes {
		cs := found[prefix]
		cs.block = current.entry(keys[i])
		if err := w.mend(ctx, prefix, cs); err != nil {
			return err
		}
		if err := w.recall(ctx, prefix); err != nil {
			return err
		}
	}
	w.state.loaded = true
	return nil
}

// leave leaves a block alone whose affinity can't be read.
func (w *writer) leave(prefix netip.Prefix, why error) {
	if !w.said[prefix] {
		w.log.Warn("block affinity can't be read: its block is not used", "block", prefix, "err", why)
		w.said[prefix] = true
	}
	w.state.unreadable[prefix] = why
	w.state.take(prefix)
	delete(w.state.claims, prefix)
}

// mend brings one affinity in order if that takes no decision, and else notes it
// among the claims.
func (w *writer) mend(ctx context.Context, prefix netip.Prefix, cs claimState) error {
	next, progress := cs.next(w.state.owner, prefix, w.now(), nil)
	if _, broken := w.state.broken[prefix]; progress != claimOpen || broken {
		return nil // in order; or nobody can read whose it is: left to an operator
	}
	ours := cs.block != nil && ownedBy(*cs.block, w.state.owner)
	switch {
	case cs.block == nil && cs.affinity == nil:
		return nil
	case cs.block == nil, ours && !w.mendable(cs):
		w.state.claims[prefix] = cs
		return nil
	}
	rev, err := w.client.Txn(ctx, next.ops...)
	if isFailure(err) {
		return fmt.Errorf("mend the affinity of block %s: %w", prefix, err)
	}
	switch mended := err == nil; {
	case !mended: // someone else is at it: look again when a block is needed
		w.state.claims[prefix] = cs
	case ours:
		w.log.Info("confirmed a claim left half-way", "block", prefix)
		w.state.setBlock(*next.then(rev).block)
	default:
		w.log.Info("gave up the affinity of a block that is not ours", "block", prefix)
	}
	return nil
}

// mendable reports whether the affinity of a block of ours is confirmed without being
// asked: the claim was on its way, or somebody began to take away a block in use.
func (w *writer) mendable(cs claimState) bool {
	if cs.affinity == nil {
		return false
	}
	b, err := asBlock(*cs.block)
	return affinityState(*cs.affinity) == api.AffinityPending || err == nil && !b.empty()
}

// buildIndex lists all blocks of the cluster, to know which are free.
func (w *writer) buildIndex(ctx context.Context) error {
	snap, err := w.client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return fmt.Errorf("list the blocks of the cluster: %w", err)
	}
	w.state.taken, w.state.others = new(bart.Lite), make(map[netip.Prefix]other)
	clear(w.state.spaces)
	listed := make(map[netip.Prefix]bool, len(snap.Entries))
	for _, entry := range snap.Entries {
		prefix, ok := blockOfKey(entry.Key)
		if !ok {
			continue
		}
		listed[prefix] = true
		w.state.take(prefix)
		w.noteListed(prefix, entry)
	}
	for i := range snap.Invalid {
		if prefix, ok := blockOfKey(snap.Invalid[i].Key); ok {
			listed[prefix] = true
			w.state.breakBlock(prefix, &snap.Invalid[i])
		}
	}
	for prefix := range w.state.blocks {
		if !listed[prefix] {
			w.state.dropBlock(prefix)
		}
	}
	for prefix, claim := range w.state.claims {
		if claim.affinity != nil {
			w.state.take(prefix)
		}
	}
	for prefix := range w.state.unreadable {
		w.state.take(prefix)
	}
	return nil
}

// noteListed takes in a block of the index that concerns the node. One that
// names the node as owner, and has no affinity to go with it, becomes a claim to
// be completed.
func (w *writer) noteListed(prefix netip.Prefix, entry datastore.Entry) {
	_, known := w.state.blocks[prefix]
	_, claimed := w.state.claims[prefix]
	ours := ownedBy(entry, w.state.owner)
	if !known && !claimed && ours && w.state.unreadable[prefix] == nil {
		w.state.claims[prefix] = claimState{block: &entry}
	}
	if known || ours {
		w.state.setBlock(entry)
		return
	}
	b, err := asBlock(entry)
	if err != nil {
		w.state.breakBlock(prefix, err)
		return
	}
	w.state.noteOther(b)
}

// usablePools are the pools that may serve a request, in the order to try.
func (w *writer) usablePools(r *Request, f family) ([]pool, error) {
	usable, skipped, err := w.considerPools(r, f)
	if err != nil || len(usable) > 0 {
		return usable, err
	}
	e := w.exhausted(r, f, ErrNoPool)
	e.Pools = skipped
	e.Advice = "Change one of these pools so that it serves (calicoctl get ippools -o yaml), or add one (kind: IPPool, calicoctl apply)"
	if len(skipped) == 0 {
		e.Advice = fmt.Sprintf("There is no %s pool at all: add one (kind: IPPool, calicoctl apply)", f)
	}
	return nil, e
}

// poolRequest is what of a request decides which pools serve it.
type poolRequest struct {
	family    family
	use       v3.IPPoolAllowedUse
	namespace string
	// requested are the names, which contain no space.
	requested string
	avoided   string
}

// considered is what was found for a poolRequest.
type considered struct {
	usable  []pool
	skipped []Verdict
}

// considerPools says which pools may serve a request and why the others not; both lists
// are shared by the calls of the batch.
func (w *writer) considerPools(r *Request, f family) (usable []pool, skipped []Verdict, err error) {
	_, requested := r.wanted(f)
	key := poolRequest{family: f, use: r.Use, namespace: r.Namespace, requested: strings.Join(requested, " ")}
	if len(r.Avoid) > 0 {
		key.avoided = fmt.Sprint(r.Avoid) // in the order of the ranges
	}
	if found, ok := w.considered[key]; ok {
		return found.usable, found.skipped, nil
	}
	if usable, skipped, err = w.selectPools(r, f); err == nil {
		w.considered[key] = considered{usable, skipped}
	}
	return usable, skipped, err
}

func (w *writer) selectPools(r *Request, f family) (usable []pool, skipped []Verdict, err error) {
	labels, known := w.view.NodeLabels()
	if !known && !w.virtual() {
		e := w.exhausted(r, f, ErrNodeUnknown)
		e.Advice = fmt.Sprintf("There is no Node resource named %s: create it (calicoctl apply), or start felix with NODENAME set to the name it has (calicoctl get nodes)", w.node)
		return nil, nil, e
	}
	c := criteria{family: f, use: r.Use, node: w.node, labels: labels, namespace: r.Namespace, avoid: r.Avoid}
	_, c.requested = r.wanted(f)
	if c.use == "" {
		c.use = v3.IPPoolAllowedUseWorkload
	}
	if namespaces, ok := w.view.(NamespaceView); ok && r.Namespace != "" {
		if c.namespaceLabels, known = namespaces.NamespaceLabels(r.Namespace); !known {
			c.namespaceLabels = nil
		}
	}
	usable, skipped = selectPools(w.pools, c)
	return usable, skipped, nil
}

func (w *writer) exhausted(r *Request, f family, class error) *ExhaustedError {
	num, _ := r.wanted(f)
	return &ExhaustedError{Class: class, Version: int(f), Wanted: num, Node: w.node, Virtual: w.virtual()}
}

// grow gets the node one more block for a call that found no room. It reports
// whether that or anything else now allows another try; an *ExhaustedError
// explains why not, and is given only after everything was read again.
func (w *writer) grow(ctx context.Context, c *call, batch []*call) (bool, error) {
	w.reserve = c.assign.Reserve
	if addr, missing := w.missingAddress(c); missing {
		obtained, err := w.obtain(ctx, c, addr)
		if errors.Is(err, errChanged) && !errors.As(err, new(unreadable)) {
			return false, nil
		}
		return obtained, err
	}
	lack, err := w.lacking(c)
	if err != nil {
		return false, err
	}
	grown, err := w.resume(ctx, lack.pools)
	class := error(nil)
	if !grown && err == nil {
		grown, class, err = w.claimNew(ctx, lack.family, lack.pools)
	}
	if !grown && err == nil && errors.Is(class, ErrPoolFull) && !c.ensure && w.view.Config().AutoAllocateBlocks {
		grown, err = w.reclaim(ctx, lack.pools)
	}
	if !grown && err == nil && !c.ensure {
		grown, err = w.borrow(ctx, lack.num, lack.pools)
	}
	switch {
	case errors.Is(err, errChanged):
		return false, nil
	case err != nil || grown:
		return grown, err
	case c.searched:
		return false, w.explain(c, lack.family, lack.pools, class)
	}
	if err := w.load(ctx); err != nil {
		return false, err
	}
	if err := w.buildIndex(ctx); err != nil {
		return false, err
	}
	for _, other := range batch {
		other.searched = true // they all came before this
	}
	return true, nil
}

// lack is what a call finds no room in: the family, how many addresses the node's own
// blocks lack, and the pools to find them in.
type lack struct {
	family family
	num    int
	pools  []pool
}

func (w *writer) lacking(c *call) (l lack, err error) {
	p := newPlan(w.state, w.reserved, w.now())
	for _, f := range c.assign.families() {
		num, _ := c.assign.wanted(f)
		l = lack{family: f}
		if l.pools, err = w.usablePools(c.assign, f); err != nil {
			return l, err
		}
		if c.ensure && len(w.ownBlocks(l.pools)) == 0 {
			return l, nil
		}
		if _, found := p.search(num, l.pools); found < num && !c.ensure {
			_, own := p.searchIn(nil, num, l.pools, w.state.roomy)
			l.num = num - own
			return l, nil
		}
	}
	return l, nil
}

// resume carries on with a claim that was begun earlier.
func (w *writer) resume(ctx context.Context, pools []pool) (bool, error) {
	for _, prefix := range slices.SortedFunc(maps.Keys(w.state.claims), netip.Prefix.Compare) {
		at := slices.IndexFunc(pools, func(p pool) bool { return p.owns(prefix) })
		if at < 0 {
			continue
		}
		if ok, err := w.claim(ctx, pools[at], prefix); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// claimNew claims the first free block. class says why there was none to claim.
func (w *writer) claimNew(ctx context.Context, f family, pools []pool) (grown bool, class, err error) {
	config := w.view.Config()
	switch {
	case !config.AutoAllocateBlocks:
		return false, ErrPoolFull, nil
	case w.state.countBlocks(f) >= w.blockLimit(config):
		return false, ErrBlockLimit, nil
	}
	rebuilt := w.state.taken == nil
	if rebuilt {
		if err := w.buildIndex(ctx); err != nil {
			return false, nil, err
		}
	}
	for _, p := range pools {
		for {
			prefix, ok := w.freeBlock(p)
			if !ok {
				break
			}
			claimed, err := w.claim(ctx, p, prefix)
			if claimed || err != nil {
				return claimed, nil, err
			}
			if rebuilt {
				continue
			}
			// The index is behind. Probing block by block could take long.
			rebuilt = true
			if err := w.buildIndex(ctx); err != nil {
				return false, nil, err
			}
		}
	}
	return false, ErrPoolFull, nil
}

// freeBlock is the first block of a pool, in the node's order, that overlaps
// none known to exist and isn't reserved as a whole.
func (w *writer) freeBlock(p pool) (netip.Prefix, bool) {
	if w.tooFine(p) {
		return netip.Prefix{}, false
	}
	first := firstChoice(p.prefix, p.blockBits, w.node, w.now())
	for prefix := range w.state.space(p).from(first) {
		if !w.reserved.covers(prefix) {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

func (w *writer) blockLimit(config api.IPAMConfigSpec) int {
	if w.virtual() {
		return math.MaxInt
	}
	if config.MaxBlocksPerHost > 0 {
		return config.MaxBlocksPerHost
	}
	return DefaultMaxBlocksPerHost
}

package addresses

import (
	"net/netip"
	"slices"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// Upstream's labels for what has no node or no pool.
const (
	noAffinity  = "no_affinity"
	unknownNode = "unknown_node"
	noPool      = "no_ippool"
)

// tally is what one block says, read once for each of its changes.
type tally struct {
	prefix netip.Prefix
	// owner is the node that has the block, noAffinity for none.
	owner          string
	free           int
	used, borrowed map[string]int // by node
	resting        []rest
	// broken: it can't be read. contradictory: its lists don't agree.
	broken, contradictory bool
}

// rest is an address that was released and is still free.
type rest struct {
	addr  netip.Addr
	since time.Time
}

// tallyOf reads a block; before is what it was, nil for unknown, and former its tally.
// keep says whether released addresses rest.
func tallyOf(before *datastore.Entry, after datastore.Entry, former tally, keep bool, now time.Time) tally {
	in, err := ipam.Inspect(after)
	if err != nil {
		return tally{broken: true}
	}
	t := tally{
		prefix: in.Prefix, owner: noAffinity, free: in.Free, contradictory: len(in.Faults) > 0,
		used: map[string]int{}, borrowed: map[string]int{},
	}
	if in.Owned && in.Owner.Type == api.AffinityHost {
		t.owner = in.Owner.Name
	}
	taken := map[netip.Addr]bool{}
	for _, a := range in.Allocations {
		taken[a.Addr] = true
		if a.Handle == ipam.KeptBack {
			continue
		}
		node := a.Attrs[api.AttributeNode]
		switch {
		case node == "":
			node = unknownNode
		case node != t.owner:
			t.borrowed[node]++
		}
		t.used[node]++
	}
	if keep {
		t.resting = resting(before, former.resting, taken, now)
	}
	return t
}

// resting are the addresses that rested before and those that were in use before,
// as far as they are free now.
func resting(before *datastore.Entry, former []rest, taken map[netip.Addr]bool, now time.Time) []rest {
	out := slices.DeleteFunc(slices.Clone(former), func(r rest) bool { return taken[r.addr] })
	if before == nil {
		return out
	}
	was, err := ipam.Inspect(*before)
	if err != nil {
		return out
	}
	for _, a := range was.Allocations {
		if !taken[a.Addr] {
			out = append(out, rest{a.Addr, now})
		}
	}
	return out
}

// cooling counts the addresses that rest for less than a time.
func (t tally) cooling(cooldown time.Duration, now time.Time) int {
	n := 0
	for _, r := range t.resting {
		if now.Sub(r.since) < cooldown {
			n++
		}
	}
	return n
}

package daemon

import (
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// lenders says which blocks bgpd follows: those that may have addresses of its node and
// aren't its own. What a block says of that counts, and nothing else; the node's loans only
// say where to look. When bgpd starts it looks into all blocks, and goes on to until the
// loans name each that concerns it: after an update the allocator may not have written them
// yet.
type lenders struct {
	node string
	// follow is told all ranges, each time they change.
	follow  func([]datastore.Range)
	loans   map[netip.Prefix]bool
	trusted bool // the loans say all
	asked   []datastore.Range
}

func newLenders(node string) lenders {
	return lenders{node: node, follow: func([]datastore.Range) {}, loans: map[netip.Prefix]bool{}}
}

// manyLenders is from how many lenders on all blocks are followed: each takes a watch.
const manyLenders = 32

// ranges are the blocks to follow. A name prefix that is a block's name means that block
// alone, for no block's name begins with another's.
func (l *lenders) ranges() []datastore.Range {
	if !l.trusted || len(l.loans) > manyLenders {
		return []datastore.Range{{Kind: api.KindIPAMBlock, Coalesce: blockPace}}
	}
	out := make([]datastore.Range, 0, len(l.loans))
	for block := range l.loans {
		out = append(out, datastore.Range{Kind: api.KindIPAMBlock, NamePrefix: block.String(), Coalesce: blockPace})
	}
	slices.SortFunc(out, func(a, b datastore.Range) int { return strings.Compare(a.NamePrefix, b.NamePrefix) })
	return out
}

// update takes in a loan. What is wrong with its value doesn't matter.
func (l *lenders) update(u datastore.SyncUpdate) {
	node, block, err := api.ParseLoanName(u.Key.Name)
	if err != nil || node != l.node {
		return
	}
	if u.Entry != nil || u.Invalid != nil {
		l.loans[block] = true
	} else {
		delete(l.loans, block)
	}
}

// ask has followed what is to be; concerned are the blocks that concern the node, as far as
// is known, complete says that all blocks have been read.
func (l *lenders) ask(concerned map[api.Key]api.Object, complete bool) {
	if complete && !l.trusted {
		l.trusted = true
		for key := range concerned {
			block, err := netip.ParsePrefix(key.Name)
			l.trusted = l.trusted && (err != nil || l.loans[block])
		}
	}
	if now := l.ranges(); !slices.Equal(now, l.asked) {
		l.asked = now
		l.follow(now)
	}
}

package ipam

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/gaissmai/bart"
	"pgregory.net/rapid"

	"tortie/internal/api"
)

// Blocks of two nodes are assigned from, released from, replaced and lost in any order.
func TestTheIndexSaysWhatTheBlocksSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newState(api.HostAffinity("node"), slog.New(slog.DiscardHandler))
		for range rapid.IntRange(1, 60).Draw(t, "changes") {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(4 * rapid.IntRange(0, 3).Draw(t, "block"))}), 30)
			had, known := s.blocks[prefix]
			handle := HandleID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "handle"))
			switch what := rapid.IntRange(0, 4).Draw(t, "change"); {
			case !known:
				owner := api.HostAffinity(rapid.SampledFrom([]string{"node", "other"}).Draw(t, "owner"))
				s.keep(prefix, storedBlock{block: newBlock(prefix, owner, blockTime)})
			case what == 0:
				s.lose(prefix)
			case what == 1:
				b := had.clone()
				b.release(b.held(handle))
				s.keep(prefix, storedBlock{block: b})
			case what == 2:
				b := had.clone()
				b.disown()
				s.keep(prefix, storedBlock{block: b})
			default:
				id, b := string(handle), had.clone()
				attrs := map[string]string{api.AttributeTimestamp: strconv.Itoa(rapid.IntRange(0, 1).Draw(t, "when"))}
				b.assign(1, api.BlockAttributes{HandleID: &id, ActiveOwnerAttrs: attrs}, reservations{})
				s.keep(prefix, storedBlock{block: b})
			}
			agree(t, s)
		}
	})
}

// agree compares the index with one made of all blocks.
func agree(t *rapid.T, s *state) {
	t.Helper()
	want := newIndex(s.owner)
	for prefix, b := range s.blocks {
		want.put(prefix, block{}, b.block)
	}
	for name, pair := range map[string][2]*bart.Lite{"mine": {&s.index.mine, &want.mine}, "room": {&s.index.room, &want.room}} {
		if !pair[0].Equal(pair[1]) {
			t.Fatalf("%s is %v, want %v", name, slices.Collect(pair[0].AllSorted()), slices.Collect(pair[1].AllSorted()))
		}
	}
	if !maps.Equal(s.index.foreign, want.foreign) {
		t.Fatalf("foreign is %v, want %v", s.index.foreign, want.foreign)
	}
	for _, x := range []*index{s.index, want} {
		for _, blocks := range x.holding {
			sortPrefixes(blocks)
		}
	}
	if !maps.EqualFunc(s.index.holding, want.holding, slices.Equal[[]netip.Prefix]) {
		t.Fatalf("holding is %v, want %v", s.index.holding, want.holding)
	}
}

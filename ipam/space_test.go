package ipam

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/gaissmai/bart"
	"pgregory.net/rapid"
)

// inOrder are the blocks of a pool from one on, wrapping once, that overlap nothing taken.
func inOrder(pool, first netip.Prefix, taken *bart.Lite) []netip.Prefix {
	var blocks []netip.Prefix
	for b, ok := netip.PrefixFrom(pool.Addr(), first.Bits()), true; ok && pool.Overlaps(b); b, ok = next(b) {
		blocks = append(blocks, b)
	}
	at := slices.Index(blocks, first)
	return slices.DeleteFunc(slices.Concat(blocks[at:], blocks[:at]), taken.OverlapsPrefix)
}

func TestEveryFreeBlockIsFoundOnceFromTheFirstChoiceUpwards(t *testing.T) {
	for _, tc := range []struct {
		pool string
		bits int
		want int
	}{
		{"10.0.0.0/24", 26, 4},
		{"10.0.0.0/24", 32, 256},
		{"255.255.255.0/24", 26, 4},
		{"fd00::/112", 120, 256},
		{"10.0.0.0/26", 26, 1},
	} {
		pool, none := netip.MustParsePrefix(tc.pool), new(bart.Lite)
		for _, node := range []string{"node", "a", "b"} {
			first := firstChoice(pool, tc.bits, node, blockTime)
			got := slices.Collect(newSpace(pool, tc.bits, none).from(first))
			if len(got) != tc.want || !slices.Equal(got, inOrder(pool, first, none)) {
				t.Errorf("%s from %s: %v", tc.pool, first, got)
			}
		}
	}
}

// Blocks of the pool's size and of others come and go, some of them around the pool.
func TestTheIndexOfFreeBlocksAgreesWithTheBlocksThatExist(t *testing.T) {
	pool := netip.MustParsePrefix("10.0.4.0/22")
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(22, 29).Draw(t, "bits")
		taken := new(bart.Lite)
		s := newSpace(pool, bits, taken)
		var exist []netip.Prefix
		for range rapid.IntRange(1, 40).Draw(t, "changes") {
			if len(exist) > 0 && rapid.Bool().Draw(t, "gone") {
				at := rapid.IntRange(0, len(exist)-1).Draw(t, "which")
				gone := exist[at]
				exist = slices.Delete(exist, at, at+1)
				taken.Delete(gone)
				s.give(gone, taken)
			} else {
				addr := netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 9).Draw(t, "net")), rapid.Uint8().Draw(t, "host")})
				block := netip.PrefixFrom(addr, rapid.IntRange(20, 31).Draw(t, "length")).Masked()
				if taken.Get(block) {
					continue
				}
				exist = append(exist, block)
				taken.Insert(block)
				s.take(block)
			}
			first := firstChoice(pool, bits, "node", blockTime)
			want := inOrder(pool, first, taken)
			if got := slices.Collect(s.from(first)); !slices.Equal(got, want) {
				t.Fatalf("free are %v, want %v", got, want)
			}
			if got := slices.Collect(newSpace(pool, bits, taken).from(first)); !slices.Equal(got, want) {
				t.Fatalf("made anew: free are %v, want %v", got, want)
			}
		}
	})
}

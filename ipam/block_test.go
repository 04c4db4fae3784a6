package ipam

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tortie/internal/api"
)

var blockTime = time.Unix(0, 1000)

func testBlock(cidr string) block {
	return newBlock(netip.MustParsePrefix(cidr), api.HostAffinity("n"), blockTime)
}

func held(handle, pod string) api.BlockAttributes {
	return api.BlockAttributes{HandleID: &handle, ActiveOwnerAttrs: map[string]string{"pod": pod}}
}

func TestEqualAttributesAreSharedAndReindexed(t *testing.T) {
	b := testBlock("10.0.0.0/29")
	b.assign(2, held("a", "p"), reservations{})
	b.assign(1, held("b", "p"), reservations{})
	b.assign(1, held("a", "p"), reservations{})
	b.assign(1, held("a", "other"), reservations{})
	if len(b.spec.Attributes) != 3 {
		t.Fatalf("%d attributes, want 3", len(b.spec.Attributes))
	}
	b.release(b.held("a"))
	want := []api.BlockAttributes{held("b", "p")}
	if diff := cmp.Diff(want, b.spec.Attributes); diff != "" {
		t.Error(diff)
	}
	if got := b.held("b"); !slices.Equal(got, []int{2}) {
		t.Errorf("b holds %v, want [2]", got)
	}
	if want := []int{5, 6, 7, 0, 1, 3, 4}; !slices.Equal(b.spec.Unallocated, want) {
		t.Errorf("unallocated %v, want %v", b.spec.Unallocated, want)
	}
}

func TestAllocationRemembersTheSequenceNumberBeforeTheWrite(t *testing.T) {
	b := testBlock("10.0.0.0/30")
	b.assign(1, held("a", ""), reservations{})
	b.seal()
	b.assign(1, held("b", ""), reservations{})
	b.seal()
	want := map[string]uint64{"0": 1000, "1": 1001}
	if diff := cmp.Diff(want, b.spec.SequenceNumberForAllocation); diff != "" || b.spec.SequenceNumber != 1002 {
		t.Errorf("%s, block at %d", diff, b.spec.SequenceNumber)
	}
}

func TestOpenBlockRefusesWhatCouldGiveAnAddressTwice(t *testing.T) {
	zero, five := 0, 5
	for name, change := range map[string]func(*api.IPAMBlockSpec){
		"free twice":         func(s *api.IPAMBlockSpec) { s.Unallocated = []int{1, 2, 1} },
		"free and allocated": func(s *api.IPAMBlockSpec) { s.Allocations[0] = &zero; s.Attributes = make([]api.BlockAttributes, 1) },
		"out of range":       func(s *api.IPAMBlockSpec) { s.Unallocated = []int{4} },
		"dangling attribute": func(s *api.IPAMBlockSpec) { s.Allocations[0] = &five; s.Unallocated = nil },
		"wrong size":         func(s *api.IPAMBlockSpec) { s.Allocations = s.Allocations[:3] },
		"host bits":          func(s *api.IPAMBlockSpec) { s.CIDR = "10.0.0.1/30" },
		"no cidr":            func(s *api.IPAMBlockSpec) { s.CIDR = "x" },
		"far too large":      func(s *api.IPAMBlockSpec) { s.CIDR = "10.0.0.0/8" },
	} {
		b := testBlock("10.0.0.0/30")
		change(b.spec)
		if _, err := openBlock(b.spec); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBlockToleratesStaleSequenceNumbersAndMissingOrdinals(t *testing.T) {
	b := testBlock("10.0.0.0/30")
	b.spec.SequenceNumberForAllocation["3"] = 7 // as upstream leaves behind
	b.spec.Unallocated = []int{2}
	opened, err := openBlock(b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := opened.assign(4, held("a", ""), reservations{}); !slices.Equal(got, []int{2}) {
		t.Errorf("assigned %v, want only the listed ordinal", got)
	}
}

func TestOwnerOfOldStoresIsUnderstood(t *testing.T) {
	b, node := testBlock("10.0.0.0/30"), "old"
	b.spec.Affinity, b.spec.HostAffinity = nil, &node
	if owner, ok := b.owner(); !ok || owner != api.HostAffinity("old") {
		t.Errorf("got %v, %v", owner, ok)
	}
	b.disown()
	if _, ok := b.owner(); ok {
		t.Error("still owned")
	}
}

func TestWhatIsChangedInACloneIsNotInTheOriginal(t *testing.T) {
	b := testBlock("10.0.0.0/30")
	b.assign(2, held("a", "p"), reservations{})
	before := b.clone()
	c := b.clone()
	c.release([]int{0})
	c.assign(3, held("b", "q"), reservations{})
	c.seal()
	if diff := cmp.Diff(before.spec, b.spec); diff != "" {
		t.Error(diff)
	}
}

// Against a model that is a map and a queue.
func TestBlockAgreesWithAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := testBlock("10.0.0.0/29")
		owner := map[int]string{}
		queue := []int{0, 1, 2, 3, 4, 5, 6, 7}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			handle := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "handle")
			if rapid.Bool().Draw(t, "assign") {
				n := rapid.IntRange(1, 4).Draw(t, "n")
				want := slices.Clone(queue[:min(n, len(queue))])
				queue = queue[len(want):]
				got := b.assign(n, held(handle, rapid.SampledFrom([]string{"p", "q"}).Draw(t, "pod")), reservations{})
				if !slices.Equal(got, want) {
					t.Fatalf("assigned %v, want %v", got, want)
				}
				for _, o := range want {
					owner[o] = handle
				}
			} else {
				for o := range 8 {
					if owner[o] == handle {
						queue = append(queue, o)
						delete(owner, o)
					}
				}
				b.release(b.held(HandleID(handle)))
			}
			b.seal()
			if _, err := openBlock(b.spec); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(b.spec.Unallocated, queue) {
				t.Fatalf("unallocated %v, want %v", b.spec.Unallocated, queue)
			}
			for o := range 8 {
				_, hasSequence := b.spec.SequenceNumberForAllocation[strconv.Itoa(o)]
				if string(b.holder(o)) != owner[o] || hasSequence != (owner[o] != "") {
					t.Fatalf("ordinal %d: %q, sequence %v; want %q", o, b.holder(o), hasSequence, owner[o])
				}
			}
		}
	})
}

func TestAddressAndOrdinalAreInverse(t *testing.T) {
	for _, cidr := range []string{"10.0.16.0/20", "10.0.0.128/26", "10.0.0.1/32", "fd00::1000/116", "fd00::40/122"} {
		b := netip.MustParsePrefix(cidr)
		for n := range blockSize(b) {
			if addr := addrAt(b, n); !b.Contains(addr) || ordinalOf(b, addr) != n {
				t.Fatalf("%s: ordinal %d is %s, back %d", b, n, addr, ordinalOf(b, addr))
			}
		}
	}
}

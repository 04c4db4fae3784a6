package ipam_test

import (
	"errors"
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// seen is what a handle holds now.
func (c *cluster) seen(t *testing.T, handle ipam.HandleID) []ipam.Allocation {
	t.Helper()
	snap, err := c.store.List(t.Context(), datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		t.Fatal(err)
	}
	var out []ipam.Allocation
	for _, entry := range snap.Entries {
		all, err := ipam.AllocationsOf(entry)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			if a.Handle == handle {
				out = append(out, a)
			}
		}
	}
	return out
}

func TestReleaseAsSeenReleasesWhatWasSeen(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24"), newPool("six", "fd00::/64"), newNode("n", nil))
	a := c.allocator("n")
	assign(t, a, "h", 2, 1)
	assign(t, a, "other", 1, 0)
	seen := c.seen(t, "h")
	if len(seen) != 3 || seen[0].Attrs[api.AttributeNode] != "n" {
		t.Fatalf("%+v", seen)
	}
	got, err := ipam.ReleaseAsSeen(t.Context(), c.store, "h", seen)
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	c.check()
	if len(c.seen(t, "h")) != 0 || len(c.seen(t, "other")) != 1 {
		t.Error("released the wrong addresses")
	}
	if got, err := ipam.ReleaseAsSeen(t.Context(), c.store, "h", seen); err != nil || got != nil {
		t.Errorf("a second time: %v, %v", got, err)
	}
}

func TestReleaseAsSeenLeavesWhatWasAssignedAnew(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/30", blockSize(30)), newNode("n", nil))
	a := c.allocator("n")
	assign(t, a, "h", 4, 0)
	before := c.seen(t, "h")
	if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	assign(t, a, "h", 4, 0) // the same addresses, the same handle
	if _, err := ipam.ReleaseAsSeen(t.Context(), c.store, "h", before); !errors.Is(err, ipam.ErrNotAsSeen) {
		t.Errorf("assigned anew: %v", err)
	}
	if _, err := ipam.ReleaseAsSeen(t.Context(), c.store, "h", c.seen(t, "h")[:3]); !errors.Is(err, ipam.ErrNotAsSeen) {
		t.Errorf("holds more: %v", err)
	}
	if len(c.seen(t, "h")) != 4 {
		t.Error("something was released")
	}
}

func TestReleaseAsSeenNeedsNoRecordOfTheHandle(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24"), newNode("n", nil))
	assign(t, c.allocator("n"), "h", 1, 0)
	c.store.RawDelete("/calico/ipam/v2/handle/h")
	if got, err := ipam.ReleaseAsSeen(t.Context(), c.store, "h", c.seen(t, "h")); err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	c.check()
}

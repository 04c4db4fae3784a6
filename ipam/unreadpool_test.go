package ipam_test

import (
	"errors"
	"strings"
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// ruin stores what can't be read in the place of a pool, and tells the node.
func (c *cluster) ruin(node, pool string, kept bool) {
	c.t.Helper()
	c.store.RawPut("/calico/resources/v3/projectcalico.org/ippools/"+pool, []byte(`{"spec":{"natOutgoing":"true"}}`))
	snap, err := c.store.List(c.t.Context(), datastore.Range{Kind: api.KindIPPool})
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range snap.Invalid {
		invalid := &snap.Invalid[i]
		c.view(node).Apply([]datastore.SyncUpdate{{Key: invalid.Key, Invalid: invalid, Kept: kept}})
	}
}

// TestPoolThatCanNoLongerBeReadServesOn: from the blocks that the node has, and from others.
func TestPoolThatCanNoLongerBeReadServesOn(t *testing.T) {
	c := newCluster(t, newPool("p", "10.9.0.0/29", blockSize(30)), newNode("n", nil))
	n := c.allocator("n")
	assign(t, n, "first", 1, 0)
	c.ruin("n", "p", true)
	assign(t, n, "second", 3, 0)
	assign(t, n, "third", 4, 0) // of another block
}

// TestPoolThatNobodyCouldReadIsNamedWhereAnAddressIsMissing: it is the cause, whatever else is
// said of other pools.
func TestPoolThatNobodyCouldReadIsNamedWhereAnAddressIsMissing(t *testing.T) {
	const why = "p: can't be read: spec.natOutgoing: want true or false, got the string \"true\"; nothing of it counts; write it anew with calicoctl apply"
	for _, tt := range []struct {
		name  string
		req   ipam.Request
		class error
	}{
		{"no pool", ipam.Request{Handle: "h", Num4: 1}, ipam.ErrNoPool},
		{"asked for by name", ipam.Request{Handle: "h", Num4: 1, Pools4: []string{"p"}}, ipam.ErrNoPool},
		{"another is full", ipam.Request{Handle: "h", Num6: 3}, ipam.ErrPoolFull},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, newPool("p", "10.9.0.0/29"), newPool("six", "fd00::/127", blockSize(127)), newNode("n", nil))
			n := c.allocator("n")
			c.ruin("n", "p", false)
			assign(t, n, "others", 0, 2)
			_, err := n.AutoAssign(t.Context(), tt.req)
			if !errors.Is(err, tt.class) || !strings.Contains(err.Error(), why) {
				t.Errorf("%v\nwant it to say %s", err, why)
			}
			if strings.Contains(err.Error(), "no such pool") || strings.Contains(err.Error(), "no IPv4 pool at all") {
				t.Errorf("%v: the pool is there", err)
			}
		})
	}
}

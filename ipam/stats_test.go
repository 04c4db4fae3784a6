package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

func TestStatsCountEveryAddress(t *testing.T) {
	reservation := v3.NewIPReservation()
	reservation.Name = "r"
	reservation.Spec.ReservedCIDRs = []string{"10.0.0.0"}
	c := newCluster(t, newPool("p", "10.0.0.0/28", blockSize(29)), newPool("other", "fd00::/64"), newNode("n", nil), newNode("m", nil), reservation,
		newConfig(func(s *api.IPAMConfigSpec) { s.IPCooldownSeconds = 60 }))
	n, m := c.allocator("n"), c.allocator("m")
	if s := n.Stats(t.Context()); s.Blocks4 != 0 || s.Limit != 20 || len(s.Pools) != 2 || s.Pools[1].Total != 16 && s.Pools[1].Total != 2 {
		t.Errorf("at the start: %+v", s)
	}
	assign(t, n, "first", 1, 0) // one block each
	assign(t, m, "m0", 4, 0)
	assign(t, n, "n", 8, 0) // more than its block has
	if _, err := m.ReleaseByHandle(t.Context(), "m0"); err != nil {
		t.Fatal(err)
	}
	total := func(s ipam.Stats) ipam.PoolStats {
		for _, p := range s.Pools {
			if p.Pool == "p" {
				return p
			}
		}
		return ipam.PoolStats{}
	}
	sn, sm := total(n.Stats(t.Context())), total(m.Stats(t.Context()))
	if sn.Used+sn.Free+sn.Reserved+sn.Cooling != 8*sn.Blocks || sm.Used+sm.Free+sm.Reserved+sm.Cooling != 8*sm.Blocks || sn.Blocks+sm.Blocks != 2 {
		t.Errorf("n %+v\nm %+v", sn, sm)
	}
	if sn.Reserved+sm.Reserved != 1 || sn.Lent != sm.Borrowed || sm.Lent != sn.Borrowed || sm.Cooling == 0 && sn.Cooling == 0 || sn.Claimed != 2 || sn.Total != 2 {
		t.Errorf("n %+v\nm %+v", sn, sm)
	}
	if work := n.Stats(t.Context()); work.Committed == 0 || sum(work.Latency.Counts) != 2 {
		t.Errorf("work of n: %+v", work.Work)
	}
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// Statistics are had while the store hangs: the last ones.
func TestStatsDoNotWaitForTheStore(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/28", blockSize(28)), newNode("n", nil))
	gate, entered, armed := make(chan struct{}), make(chan struct{}), false
	a := c.allocator("n", &ipamtest.Faulty{Client: c.store, Decide: func(int, []datastore.Op) ipamtest.Fault {
		if armed {
			armed = false
			close(entered)
			<-gate
		}
		return ipamtest.Pass
	}})
	assign(t, a, "h", 1, 0)
	before := a.Stats(t.Context())
	armed = true
	done := make(chan error)
	go func() {
		_, err := a.AutoAssign(context.Background(), ipam.Request{Handle: "h2", Num4: 1})
		done <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s := a.Stats(ctx); s.Blocks4 != 1 || s.Pools[0].Used != before.Pools[0].Used {
		t.Errorf("got %+v", s)
	}
	close(gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWarningsComeBeforeTheEnd(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(32)), newNode("n", nil),
		newConfig(func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost, s.StrictAffinity = 10, true }))
	a := c.allocator("n")
	for i := range 8 {
		assign(t, a, fmt.Sprint("h", i), 1, 0)
		var lines []string
		for _, w := range a.Stats(t.Context()).Warnings() {
			lines = append(lines, w.Line)
		}
		all := strings.Join(lines, "\n")
		if pool := strings.Contains(all, fmt.Sprintf("nodes have %d of its 8 blocks: add a pool", i+1)); pool != (i >= 6) {
			t.Errorf("%d of 8 blocks of the pool: %q", i+1, all)
		}
		if node := strings.Contains(all, fmt.Sprintf("this node has %d of the 10 IPv4 blocks it may have", i+1)); node != (i >= 7) {
			t.Errorf("%d of 10 blocks of the node: %q", i+1, all)
		}
	}
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "more", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
}

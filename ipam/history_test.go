package ipam_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// recording is an allocator that writes history. stop ends the writing, as when the
// program ends.
func (c *cluster) recording(node string) (a *ipam.Allocator, stop func()) {
	r := ipam.NewRecorder(c.store, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	a = ipam.New(ipam.Config{Client: c.store, Node: node, View: c.view(node), Recorder: r})
	return a, func() { a.Close(); cancel(); <-done }
}

func (c *cluster) history(addr string) []ipam.Owner {
	c.t.Helper()
	owners, _, err := ipam.History(context.Background(), c.store, netip.MustParseAddr(addr))
	if err != nil {
		c.t.Fatal(err)
	}
	return owners
}

func handlesOf(owners []ipam.Owner) (out []string) {
	for _, o := range owners {
		out = append(out, string(o.Handle))
	}
	return out
}

func TestHistoryNamesTheOwnersOfAnAddressAndWhyTheyLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("p", "10.0.0.0/32", blockSize(32)), newNode("n", nil))
		a, stop := c.recording("n")
		defer stop()
		began := time.Now()
		for i := range 3 {
			handle := ipam.HandleID(fmt.Sprint("h", i))
			_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: handle, Num4: 1, Namespace: "ns1", Attrs: map[string]string{api.AttributePod: fmt.Sprint("pod", i)}})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if i < 2 {
				if _, err := a.ReleaseByHandle(ipam.WithReason(t.Context(), "CNI DEL"), handle); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
			}
		}
		got := c.history("10.0.0.0")
		if !slices.Equal(handlesOf(got), []string{"h2", "h1", "h0"}) {
			t.Fatalf("owners: %v", got)
		}
		if now := got[0]; !now.Released.IsZero() || !now.Assigned.Equal(began.Add(4*time.Minute)) {
			t.Errorf("present owner: %+v", now)
		}
		first := got[2]
		if first.Attrs[api.AttributePod] != "pod0" || first.Reason != "CNI DEL" || !first.Assigned.Equal(began) || !first.Released.Equal(began.Add(time.Minute)) {
			t.Errorf("first owner: %+v", first)
		}
	})
}

func TestHistoryWritesNothingOnTheWayOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("p", "10.0.0.0/24"), newNode("n", nil))
		a, stop := c.recording("n")
		defer stop()
		assign(t, a, "warm", 1, 0)
		before := c.store.Revision()
		for i := range 20 {
			assign(t, a, fmt.Sprint("h", i), 1, 0)
			if _, err := a.ReleaseByHandle(t.Context(), ipam.HandleID(fmt.Sprint("h", i))); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.store.Revision() - before; got != 40 {
			t.Errorf("20 assignments and releases took %d transactions", got)
		}
		time.Sleep(2 * time.Second)
		if got := c.store.Revision() - before; got != 41 {
			t.Errorf("20 releases took %d transactions for their history, want 1", got-40)
		}
	})
}

func TestHistoryStaysWithinItsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(29)), newNode("n", nil))
		a, stop := c.recording("n")
		defer stop()
		for i := range 100 {
			assign(t, a, fmt.Sprint("h", i), 1, 0)
			if _, err := a.ReleaseByHandle(t.Context(), ipam.HandleID(fmt.Sprint("h", i))); err != nil {
				t.Fatal(err)
			}
			if i%7 == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		time.Sleep(2 * time.Second)
		if pages := c.store.Paths("/calico/tortie/v1/history/"); len(pages) != 2 {
			t.Errorf("pages: %v", pages)
		}
		total, last := 0, false
		for addr := range 8 {
			owners := handlesOf(c.history(fmt.Sprintf("10.0.0.%d", addr)))
			total += len(owners)
			last = last || slices.Contains(owners, "h99")
		}
		if total < 17 || total > 32 || !last {
			t.Errorf("%d releases are remembered, the last one: %v", total, last)
		}
	})
}

// What waits when the store is away is written when it is back; what waits when the
// program ends is written then.
func TestHistoryOutlivesAnOutageAndTheEndOfTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("p", "10.0.0.0/32", blockSize(32)), newNode("n", nil))
		a, stop := c.recording("n")
		for i := range 2 {
			handle := ipam.HandleID(fmt.Sprint("h", i))
			assign(t, a, string(handle), 1, 0)
			if _, err := a.ReleaseByHandle(t.Context(), handle); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				c.store.SetUnavailable(true)
				time.Sleep(time.Minute)
				c.store.SetUnavailable(false)
				time.Sleep(2 * time.Second)
			}
		}
		stop()
		if got := handlesOf(c.history("10.0.0.0")); !slices.Equal(got, []string{"h1", "h0"}) {
			t.Errorf("got %v", got)
		}
	})
}

// Two programs write the history of one block.
func TestHistoryOfTwoWritersIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("p", "10.0.0.0/28", blockSize(28)), newNode("n", nil))
		a, stop := c.recording("n")
		for i := range 15 {
			assign(t, a, fmt.Sprint("h", i), 1, 0)
		}
		for i := range 15 {
			handle := ipam.HandleID(fmt.Sprint("h", i))
			var err error
			if i%2 == 0 {
				_, err = a.ReleaseByHandle(t.Context(), handle)
			} else {
				_, err = ipam.ReleaseHandle(ipam.WithReason(t.Context(), "leaked: the pod is gone"), c.store, handle)
			}
			if err != nil {
				t.Fatal(err)
			}
			if i%4 == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		stop()
		for i := range 15 {
			if got := handlesOf(c.history(fmt.Sprintf("10.0.0.%d", i))); !slices.Equal(got, []string{fmt.Sprint("h", i)}) {
				t.Errorf("10.0.0.%d: %v", i, got)
			}
		}
	})
}

// Pages that can't be read hide nothing else, and are written over.
func TestBrokenHistoryIsWrittenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("p", "10.0.0.0/32", blockSize(32)), newNode("n", nil))
		key := "/calico/tortie/v1/history/10.0.0.0-32.0"
		c.store.RawPut(key, []byte("garbage"))
		a, stop := c.recording("n")
		assign(t, a, "h", 1, 0)
		if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil {
			t.Fatal(err)
		}
		stop()
		if got := handlesOf(c.history("10.0.0.0")); !slices.Equal(got, []string{"h"}) {
			t.Errorf("got %v", got)
		}
		if snap, err := c.store.List(t.Context(), datastore.Range{Kind: api.KindIPAMHistory}); err != nil || len(snap.Invalid) != 0 {
			t.Errorf("left: %v, %v", snap.Invalid, err)
		}
	})
}

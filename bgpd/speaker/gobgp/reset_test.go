package gobgp_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"tortie/bgpd/speaker"
)

// TestResetOfAPeerTakesItsRoutesAtOnce although both restart gracefully, tells of the
// end of the session, and the session comes back.
func TestResetOfAPeerTakesItsRoutesAtOnce(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	db.Exports = []speaker.Export{{Prefix: prefix("10.65.2.0/26")}}
	apply(t, a, da)
	apply(t, b, db)
	av := watch(a)
	av.until(t, "route of b", av.has("10.65.2.0/26"))
	av.until(t, "End-of-RIB of b", av.endOfRIB("127.0.0.2"))
	if err := a.Reset(t.Context(), addr("127.0.0.2")); err != nil {
		t.Fatal(err)
	}
	av.until(t, "the route to go and the session to end", func() bool {
		return !av.has("10.65.2.0/26")() && !av.established("127.0.0.2")()
	})
	if s := av.peers[addr("127.0.0.2")]; s.Restarting || s.Removed {
		t.Errorf("session %+v: a peer that was reset keeps nothing, and is still one", s)
	}
	av.until(t, "route of b again", av.has("10.65.2.0/26"))
	if err := a.Reset(t.Context(), addr("127.0.0.9")); err != nil {
		t.Errorf("reset of one that is no peer: %v", err)
	}
}

// TestResetOfAPeerThatRestartsKeepsNothing: its routes would be kept for its return, but
// the way to it has failed.
func TestResetOfAPeerThatRestartsKeepsNothing(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	apply(t, a, da)
	apply(t, b, db)
	av := watch(a)
	av.until(t, "End-of-RIB of b", av.endOfRIB("127.0.0.2"))
	da.Peers[0].Port, da.Peers[0].RestartTime = freePort(t), 90*time.Second // where nobody is
	apply(t, a, da)
	restarting := func() bool { return av.peers[addr("127.0.0.2")].Restarting }
	av.until(t, "b to be taken for restarting", restarting)
	if err := a.Reset(t.Context(), addr("127.0.0.2")); err != nil {
		t.Fatal(err)
	}
	av.until(t, "what b told to be given up", func() bool { return !restarting() })
}

// TestPeerThatCouldNotBeChangedIsAddedAgain although GoBGP has lost it by then.
func TestPeerThatCouldNotBeChangedIsAddedAgain(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	apply(t, a, da)
	apply(t, b, db)
	av := watch(a)
	av.until(t, "session", av.established("127.0.0.2"))
	good := da.Peers[0]
	da.Peers[0].ReflectorClient = true // of no cluster, which GoBGP refuses
	if err := a.Apply(t.Context(), da); err == nil || !strings.Contains(err.Error(), "change peer 127.0.0.2") {
		t.Fatalf("error %v: want one of the change", err)
	}
	av.until(t, "the session to be over", func() bool { return av.peers[addr("127.0.0.2")].Removed })
	if paths, err := a.AdjIn(t.Context(), addr("127.0.0.2"), netip.Prefix{}); err != nil || len(paths) > 0 {
		t.Errorf("received from it: %v, %v; want nothing", paths, err)
	}
	da.Peers[0] = good
	apply(t, a, da)
	av.until(t, "session again", av.established("127.0.0.2"))
}

package gobgp_test

import (
	"testing"

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

package fib

import (
	"net/netip"
	"testing"

	"tortie/bgpd/speaker"
)

// TestPrefixesThatShareAPathHaveEachTheirOwnRoute, also while the peer restarts, and when
// only one of them is announced by another peer.
func TestPrefixesThatShareAPathHaveEachTheirOwnRoute(t *testing.T) {
	fx := newFixture(t)
	fx.expect(near, far)
	fx.f.Update(session(near, eor), start)
	shared := &speaker.Path{NextHop: near, Peer: near, Best: true}
	a, b := pfx("10.65.2.0/26"), pfx("10.65.3.0/26")
	fx.f.Update(speaker.Changes{Best: map[netip.Prefix]*speaker.Path{a: shared, b: shared}}, start)
	fx.apply(start)
	check := func(when string, stale bool, prefixes ...netip.Prefix) {
		t.Helper()
		for _, p := range prefixes {
			if e, _ := fx.f.Entry(p); e.Path.Prefix != p || e.Path.Stale != stale || e.Kernel == "" {
				t.Errorf("%s: entry of %s is %+v", when, p, e)
			}
		}
		if shared.Prefix.IsValid() || shared.Stale {
			t.Errorf("%s: the shared path has become %+v", when, *shared)
		}
	}
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.3.0/26 via 10.1.1.12")
	check("announced", false, a, b)

	fx.f.Update(session(near, lost), start)
	fx.f.Update(speaker.Changes{Best: map[netip.Prefix]*speaker.Path{a: nil, b: nil}}, start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.3.0/26 via 10.1.1.12")
	check("while the peer restarts", true, a, b)

	fx.f.Update(best("10.65.2.0/26", far), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.254", "10.65.3.0/26 via 10.1.1.12")
	check("announced by another", false, a)
	check("still kept", true, b)
}

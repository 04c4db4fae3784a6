package fib

import (
	"net/netip"
	"strings"
	"testing"
)

func at(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestPeerIsReachedByItsGateway: by a host route, which carries the next hops that the
// peer tells, too, and goes when nobody asks for it any more.
func TestPeerIsReachedByItsGateway(t *testing.T) {
	fx := newFixture(t, "10.9.9.9/32", "10.65.2.0/26") // of an earlier run
	gate, peer := near, at("10.9.9.9")
	fx.f.Reach(map[netip.Addr]netip.Addr{peer: gate, at("fd09::9"): nearSix})
	fx.expect(peer)
	fx.f.Update(best("10.65.2.0/26", peer), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.9.9.9/32 via 10.1.1.12", "fd09::9/128 via fd01::12")

	// What the peer says of the way to itself is no way to it.
	fx.f.Update(best("10.9.9.9/32", at("10.1.1.200")), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.9.9.9/32 via 10.1.1.12", "fd09::9/128 via fd01::12")
	if !fx.f.Installed(pfx("10.9.9.9/32")) {
		t.Error("nobody would notice that the route was taken away")
	}

	fx.f.Reach(map[netip.Addr]netip.Addr{peer: at("10.1.1.13")})
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.13", "10.9.9.9/32 via 10.1.1.13")

	fx.f.Update(gone("10.9.9.9/32"), start)
	fx.f.Reach(nil)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.254")
}

func TestGatewayThatCanNotBeIsNamed(t *testing.T) {
	for _, tt := range []struct{ name, gateway, want string }{
		{"elsewhere", "10.7.7.7", "peer 10.9.9.9 is not reachable by 10.7.7.7: it is on none of this node's segments: set spec.reachableBy to a router that is"},
		{"this node", "10.1.1.11", "peer 10.9.9.9 is not reachable by 10.1.1.11: that is an address of this node: set spec.reachableBy to that of the router on the way"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fx := newFixture(t)
			fx.f.Reach(map[netip.Addr]netip.Addr{at("10.9.9.9"): at(tt.gateway)})
			fx.expect()
			fx.apply(start)
			fx.want()
			if got := strings.Join(fx.f.Problems(), "\n"); got != tt.want {
				t.Errorf("problems %q, want %q", got, tt.want)
			}
		})
	}
}

// TestGatewayOverALinkThatIsDownWaits: the route comes and goes with the link.
func TestGatewayOverALinkThatIsDownWaits(t *testing.T) {
	fx := newFixture(t)
	fx.f.Reach(map[netip.Addr]netip.Addr{at("10.9.9.9"): near})
	fx.expect()
	fx.apply(start)
	fx.want("10.9.9.9/32 via 10.1.1.12")
	must(t, fx.k.SetDown(fx.eth0))
	must(t, fx.f.Read(t.Context()))
	fx.f.QueueResync()
	fx.apply(start)
	fx.want()
	if got := strings.Join(fx.f.Problems(), "\n"); got != "peer 10.9.9.9 is not reachable by 10.1.1.12: the link to it is down" {
		t.Errorf("problems %q", got)
	}
	must(t, fx.k.SetUp(fx.eth0))
	must(t, fx.f.Read(t.Context()))
	fx.apply(start)
	fx.want("10.9.9.9/32 via 10.1.1.12")
}

package fib

import (
	"net/netip"
	"testing"

	"tortie/bgpd/filter"
	"tortie/internal/kernel"
)

// TestNextHopIsNotReachedOverAnIgnoredInterface: nor is what is attached to it a segment,
// and both are again what they were when it is ignored no more.
func TestNextHopIsNotReachedOverAnIgnoredInterface(t *testing.T) {
	fx := newFixture(t)
	link, err := fx.k.CreateVeth(kernel.VethSpec{Host: "docker0", Peer: "wire2"})
	must(t, err)
	must(t, fx.k.SetUp(link.PeerIndex))
	must(t, fx.k.AddAddress(link.Index, pfx("172.17.0.1/16")))
	must(t, fx.f.Read(t.Context()))
	behind := netip.MustParseAddr("172.17.0.9")
	fx.expect(near)
	fx.f.Update(best("10.65.2.0/26", behind), start)
	fx.f.Update(best("172.17.5.0/24", near), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 172.17.0.9")
	for _, pattern := range []string{"docker*", "docker0"} {
		fx.f.Expect(nil, filter.Scope{IgnoredInterfaces: []string{"none", pattern}}, start)
		fx.apply(start)
		fx.want("10.65.2.0/26 via 10.1.1.254", "172.17.5.0/24 via 10.1.1.12")
		fx.f.Expect(nil, filter.Scope{}, start)
		fx.apply(start)
		fx.want("10.65.2.0/26 via 172.17.0.9")
	}
}

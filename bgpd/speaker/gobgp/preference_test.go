package gobgp_test

import (
	"net/netip"
	"testing"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
)

// TestOwnPrefixIsAnnouncedThoughAnUpstreamNodeAnnouncesItToo: all nodes announce the ranges
// of services, those of upstream with a local preference of 2³¹-1-1024. What another says of
// a prefix must not be better than a node's own, or that is announced no longer.
func TestOwnPrefixIsAnnouncedThoughAnUpstreamNodeAnnouncesItToo(t *testing.T) {
	const upstreams = 2147482623
	port := freePort(t)
	a := newSpeaker(t, gobgp.Config{})
	services, marker := prefix("10.96.0.0/12"), prefix("10.65.1.0/26")
	d := speaker.Desired{
		Global: global("127.0.0.1", 64512, port), Peers: []speaker.Peer{peer("127.0.0.1", "127.0.0.2", 64512, port)},
		Exports: []speaker.Export{{Prefix: services}},
	}
	d.Peers[0].Passive = true
	apply(t, a, d)
	av := watch(a)
	node := dialRaw(t, "127.0.0.2", "127.0.0.1", 64512, port)
	node.until("the services", func(heard map[netip.Prefix]policy.Route) bool { return heard[services].LocalPref == upstreams })
	for _, p := range []netip.Prefix{services, prefix("10.65.2.0/26")} {
		err := node.send(bgp.NewBGPUpdateMessage(nil, []bgp.PathAttributeInterface{
			bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP), bgp.NewPathAttributeAsPath(nil),
			bgp.NewPathAttributeNextHop("127.0.0.2"), bgp.NewPathAttributeLocalPref(upstreams),
		}, []*bgp.IPAddrPrefix{bgp.NewIPAddrPrefix(uint8(p.Bits()), p.Addr().String())}))
		if err != nil {
			t.Fatal(err)
		}
	}
	av.until(t, "what came after the services", av.has("10.65.2.0/26"))
	d.Exports = append(d.Exports, speaker.Export{Prefix: marker})
	apply(t, a, d)
	node.until("the marker", func(heard map[netip.Prefix]policy.Route) bool { return heard[marker].LocalPref == upstreams })
	node.until("the services still", func(heard map[netip.Prefix]policy.Route) bool { return heard[services].LocalPref == upstreams })
	if av.has(services.String())() {
		t.Error("the other's path to the services is the best")
	}
}

package filter

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tortie/bgpd/speaker"
)

var (
	meshPeer = netip.MustParseAddr("10.1.1.12")
	nodePeer = netip.MustParseAddr("10.1.1.13") // a node, by an explicit peer
	router   = netip.MustParseAddr("10.1.1.254")
)

func scope() *Scope {
	return &Scope{
		Pools: []netip.Prefix{netip.MustParsePrefix("10.65.0.0/16"), netip.MustParsePrefix("fd65::/16")},
		Blocks: map[netip.Prefix]bool{ // the pool of the last two is gone
			netip.MustParsePrefix("10.65.2.0/26"): true, netip.MustParsePrefix("10.66.2.0/26"): true, netip.MustParsePrefix("fd66:2::/122"): true,
		},
		OwnBlocks: []netip.Prefix{netip.MustParsePrefix("10.65.1.0/26")},
		Services: []netip.Prefix{ // the third is set much too wide
			netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.65.7.0/24"), netip.MustParsePrefix("fd66::/16"), netip.MustParsePrefix("0.0.0.0/0"),
		},
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.1.11")},
		Segments:  []Segment{{netip.MustParsePrefix("10.1.1.0/24"), "eth0"}},
		Nodes:     map[netip.Addr]bool{meshPeer: true, nodePeer: true},
		Mesh:      map[netip.Addr]bool{meshPeer: true},
	}
}

func TestImport(t *testing.T) {
	for _, tt := range []struct {
		prefix  string
		peer    netip.Addr
		nextHop string
		want    string // a part of the reason; "" when it is taken
	}{
		{"10.65.2.0/26", meshPeer, "10.1.1.12", ""},
		{"10.65.2.0/26", router, "10.1.1.254", ""},
		{"fd65:2::/122", meshPeer, "fd01::12", ""},
		{"192.0.2.0/24", router, "10.1.1.254", ""},
		{"192.0.2.0/24", nodePeer, "10.1.1.13", ""},
		{"192.0.2.0/24", meshPeer, "10.1.1.12", "outside every IP pool and block"},
		{"10.66.2.0/26", meshPeer, "10.1.1.12", ""},
		{"10.66.2.9/32", meshPeer, "10.1.1.12", ""},
		{"fd66:2::/122", meshPeer, "fd01::12", ""},
		{"fd66:2::9/128", meshPeer, "fd01::12", ""},
		{"10.96.0.0/12", meshPeer, "10.1.1.12", "inside 10.96.0.0/12, a range of service addresses"},
		{"10.96.0.10/32", router, "10.1.1.254", "inside 10.96.0.0/12, a range of service addresses"},
		{"10.65.7.7/32", meshPeer, "10.1.1.12", "inside 10.65.7.0/24, a range of service addresses"},
		{"10.64.0.0/10", router, "10.1.1.254", "covers 10.65.1.0/26"}, // wider than a range is none
		{"10.96.0.0/11", router, "10.1.1.254", ""},
		{"10.66.2.0/27", meshPeer, "10.1.1.12", "outside every IP pool and block"},
		{"10.66.0.0/16", meshPeer, "10.1.1.12", "outside every IP pool and block"},
		{"10.66.2.64/32", meshPeer, "10.1.1.12", "outside every IP pool and block"},
		{"fd66:2::40/128", meshPeer, "fd01::12", "inside fd66::/16, a range of service addresses"},
		{"0.0.0.0/0", router, "10.1.1.254", "default route"},
		{"::/0", router, "fd01::fe", "default route"},
		{"127.0.0.0/8", router, "10.1.1.254", "not routed between nodes"},
		{"169.254.0.0/16", router, "10.1.1.254", "not routed between nodes"},
		{"224.0.0.0/4", router, "10.1.1.254", "not routed between nodes"},
		{"240.0.0.0/4", router, "10.1.1.254", "not routed between nodes"},
		{"fe80::/10", router, "fd01::fe", "not routed between nodes"},
		{"10.1.1.0/24", router, "10.1.1.254", "a segment of this node on eth0"},
		{"10.1.1.7/32", router, "10.1.1.254", "a segment of this node on eth0"},
		{"10.0.0.0/8", router, "10.1.1.254", "covers 10.65.1.0/26"},
		{"10.1.0.0/16", router, "10.1.1.254", "a segment of this node on eth0"},
		{"10.65.1.0/26", meshPeer, "10.1.1.12", "belongs to this node"},
		{"10.65.1.0/27", meshPeer, "10.1.1.12", "inside 10.65.1.0/26"},
		{"10.65.1.7/32", meshPeer, "10.1.1.12", ""}, // borrowed from us
		{"10.65.1.7/32", router, "10.1.1.254", "inside 10.65.1.0/26"},
		{"10.65.2.0/26", meshPeer, "10.1.1.11", "this node itself"},
		{"10.65.2.0/26", meshPeer, "fd01::12", "another address family"},
		{"10.65.2.0/26", meshPeer, "0.0.0.0", "no next hop"},
	} {
		got := scope().Import(speaker.Path{
			Prefix: netip.MustParsePrefix(tt.prefix), Peer: tt.peer, NextHop: netip.MustParseAddr(tt.nextHop),
		})
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s from %s via %s: %q, want %q", tt.prefix, tt.peer, tt.nextHop, got, tt.want)
		}
	}
}

// TestNothingTakesTheNodesOwnWaysAway: whatever is accepted changes the way to
// no address of a segment and, but for borrowed addresses, of an own block.
func TestNothingTakesTheNodesOwnWaysAway(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := scope()
		raw := [4]byte{10, rapid.SampledFrom([]byte{0, 1, 64, 65}).Draw(rt, "b"), rapid.ByteRange(0, 3).Draw(rt, "c"), rapid.Byte().Draw(rt, "d")}
		p := speaker.Path{
			Prefix:  netip.PrefixFrom(netip.AddrFrom4(raw), rapid.IntRange(0, 32).Draw(rt, "bits")).Masked(),
			NextHop: router, Peer: rapid.SampledFrom([]netip.Addr{meshPeer, nodePeer, router}).Draw(rt, "peer"),
		}
		if s.Import(p) != "" {
			return
		}
		if p.Prefix.Bits() == 0 || p.Prefix.Overlaps(s.Segments[0].Prefix) {
			rt.Fatalf("%v taken over the node's own segment", p.Prefix)
		}
		borrowed := p.Prefix.IsSingleIP() && s.Nodes[p.Peer]
		if p.Prefix.Overlaps(s.OwnBlocks[0]) && !borrowed {
			rt.Fatalf("%v taken over an own block", p.Prefix)
		}
	})
}

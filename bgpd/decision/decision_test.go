package decision

import (
	"net/netip"
	"testing"

	"tortie/bgpd/speaker"
)

func TestRuleIsTheFirstThatTellsTwoPathsApart(t *testing.T) {
	peer := func(a string, change func(*speaker.Path)) speaker.Path {
		p := speaker.Path{
			Prefix: netip.MustParsePrefix("10.65.1.0/26"), Peer: netip.MustParseAddr(a), PeerID: netip.MustParseAddr(a), PeerASN: 64512, LocalPref: 100,
		}
		if change != nil {
			change(&p)
		}
		return p
	}
	external := func(p *speaker.Path) { p.PeerASN, p.ASPath = 64999, []uint32{64999} }
	plain := peer("10.0.0.2", nil)
	own := speaker.Path{Prefix: plain.Prefix, LocalPref: 100}
	for _, c := range []struct {
		name        string
		best, other speaker.Path
		want        string
	}{
		{
			"the last choice before all", plain, peer("10.0.0.1", func(p *speaker.Path) {
				p.LocalPref, p.Communities = 200, []speaker.Community{speaker.LongLivedStale()}
			}), "not kept for a peer that has long been away (RFC 9494)",
		},
		{"local preference before all", peer("10.0.0.3", func(p *speaker.Path) { p.LocalPref, p.ASPath = 200, []uint32{1, 2, 3} }), plain, "local preference: 200, not 100"},
		{"our own", own, plain, "this node's own"},
		{"path length", plain, peer("10.0.0.1", external), "AS path length: 0, not 1"},
		{"a set counts as one", peer("10.0.0.3", func(p *speaker.Path) { p.ASPath, p.ASSetExtra = []uint32{7, 8, 9}, 1 }), peer("10.0.0.1", func(p *speaker.Path) { p.ASPath = []uint32{1, 2, 3} }), "AS path length: 2, not 3"},
		{"origin", plain, peer("10.0.0.1", func(p *speaker.Path) { p.Origin = speaker.Incomplete }), "origin: IGP, not incomplete"},
		{"MED", peer("10.0.0.3", func(p *speaker.Path) { p.MED = 5 }), peer("10.0.0.1", func(p *speaker.Path) { p.MED = 6 }), "MED: 5, not 6"},
		{
			"MED of two ASes means nothing", peer("10.0.0.1", func(p *speaker.Path) { p.ASPath, p.MED, p.PeerASN = []uint32{1}, 9, 1 }),
			peer("10.0.0.3", func(p *speaker.Path) { p.ASPath, p.MED, p.PeerASN = []uint32{2}, 5, 2 }), "router ID: 10.0.0.1, not 10.0.0.3",
		},
		{
			"external before internal", peer("10.0.0.3", external), peer("10.0.0.1", func(p *speaker.Path) { p.ASPath = []uint32{64999} }),
			"from an external peer, not an internal one",
		},
		{"router ID", plain, peer("10.0.0.3", nil), "router ID: 10.0.0.2, not 10.0.0.3"},
		{"peer address", plain, peer("10.0.0.3", func(p *speaker.Path) { p.PeerID = plain.PeerID }), "peer address: 10.0.0.2, not 10.0.0.3"},
		{"nothing", plain, plain, "nothing tells them apart: the first stays"},
	} {
		internal := func(p speaker.Path) bool { return p.PeerASN == 64512 }
		if got := Rule(c.best, c.other, internal); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

package gobgp_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
)

// TestMalformedUpdateHurtsOnlyItsSender: each of many peers sends an UPDATE with some of
// its bytes changed. The speaker goes on, and what a good peer announces stays.
func TestMalformedUpdateHurtsOnlyItsSender(t *testing.T) {
	const seed, senders = 7, 40
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	port := freePort(t)
	s := newSpeaker(t, gobgp.Config{})
	d := speaker.Desired{Global: global("127.0.0.1", ownASN, port)}
	add := func(remote string) {
		p := peer("127.0.0.1", remote, sourceASN, port)
		p.Passive = true
		d.Peers = append(d.Peers, p)
		// An import filter looks at every attribute that it can.
		if d.Filters == nil {
			d.Filters = map[netip.Addr]speaker.Filter{}
		}
		d.Filters[p.Address] = speaker.Filter{Import: []speaker.Rule{
			{Community: speaker.Community{A: 9}}, {Community: speaker.Community{Large: true, A: 9}}, {ASPath: []uint32{9}}, {Interface: "none"},
		}}
	}
	sender := func(i int) string { return fmt.Sprintf("127.0.1.%d", 1+i) }
	add("127.0.0.2")
	for i := range senders {
		add(sender(i))
	}
	apply(t, s, d)
	v := watch(s)
	good := policy.Route{Prefix: prefix("10.65.1.0/26"), ASPath: []uint32{sourceASN}, NextHop: addr("127.0.0.2"), Communities: communities()}
	dialRaw(t, "127.0.0.2", "127.0.0.1", sourceASN, port).announce(good)
	v.until(t, "the good route", v.has("10.65.1.0/26"))
	ended := 0
	for i := range senders {
		p := dialRaw(t, sender(i), "127.0.0.1", sourceASN, port)
		if _, err := p.conn.Write(damage(t, random)); err != nil {
			t.Fatal(err)
		}
		// What comes after it is understood, or the session is over.
		after := policy.Route{Prefix: prefix(fmt.Sprintf("10.66.%d.0/24", i)), ASPath: []uint32{sourceASN}, NextHop: addr(sender(i))}
		_ = p.tryAnnounce(after) // which fails when it is over already
		if v.hasOrEnds(t, after.Prefix, p) {
			continue
		}
		ended++
	}
	t.Logf("%d of %d sessions ended", ended, senders)
	left := inTable(t, s)
	if _, there := left[good.Prefix]; !there {
		t.Errorf("the good peer suffered: %v", left)
	}
	states, err := s.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st := states[0]; st.Peer.Address != addr("127.0.0.2") || st.State != speaker.Established {
		t.Errorf("the good peer's session: %+v", st)
	}
}

// hasOrEnds waits for a route, and reports false when its sender's session ends instead.
func (v *view) hasOrEnds(t *testing.T, route netip.Prefix, sender *rawPeer) bool {
	t.Helper()
	late := time.After(patience)
	for {
		for p, path := range v.s.Take().Best {
			if path != nil {
				v.best[p] = *path
			}
		}
		if _, there := v.best[route]; there {
			return true
		}
		select {
		case <-v.s.Changed():
		case <-sender.gone:
			return false
		case <-late:
			t.Fatalf("neither %s nor the end of its session", route)
		}
	}
}

// damage is an UPDATE of which some bytes after the header are others.
func damage(t *testing.T, random *rand.Rand) []byte {
	t.Helper()
	m := bgp.NewBGPUpdateMessage(nil, []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(0),
		bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{sourceASN, 7})}),
		bgp.NewPathAttributeNextHop("127.0.0.9"),
		bgp.NewPathAttributeMultiExitDisc(5),
		bgp.NewPathAttributeCommunities([]uint32{1, 2}),
		bgp.NewPathAttributeLargeCommunities([]*bgp.LargeCommunity{bgp.NewLargeCommunity(1, 2, 3)}),
		bgp.NewPathAttributeMpReachNLRI("fd00::1", []bgp.AddrPrefixInterface{bgp.NewIPv6AddrPrefix(64, "fd65::")}),
	}, []*bgp.IPAddrPrefix{bgp.NewIPAddrPrefix(26, "10.67.0.0")})
	b, err := m.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	for range 1 + random.IntN(4) {
		b[bgp.BGP_HEADER_LENGTH+random.IntN(len(b)-bgp.BGP_HEADER_LENGTH)] = byte(random.IntN(256))
	}
	return b
}

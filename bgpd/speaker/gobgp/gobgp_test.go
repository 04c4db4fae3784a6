// As in bgpd itself.
//go:debug multipathtcp=0

package gobgp_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
	"tortie/internal/polltest"
)

// The speakers of these tests live on loopback addresses of their own, all on
// one port.

const (
	// upWithin is what is promised: a session that can be up is up in this time.
	upWithin = 3 * time.Second
	// patience is when a test gives up; far beyond upWithin, for a loaded machine.
	patience = 60 * time.Second
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func newSpeaker(t *testing.T, cfg gobgp.Config) *gobgp.Speaker {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := gobgp.New(cfg)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func global(ip string, asn uint32, port uint16) speaker.Global {
	return speaker.Global{ASN: asn, RouterID: addr(ip), Listen: []netip.Addr{addr(ip)}, Port: port}
}

func peer(local, remote string, asn uint32, port uint16) speaker.Peer {
	return speaker.Peer{
		Address: addr(remote), Port: port, ASN: asn, LocalAddress: addr(local), RestartTime: 120 * time.Second,
	}
}

func apply(t *testing.T, s speaker.Speaker, d speaker.Desired) {
	t.Helper()
	if err := s.Apply(t.Context(), d); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

// view is what a test has learned from a speaker's changes.
type view struct {
	s     speaker.Speaker
	best  map[netip.Prefix]speaker.Path
	peers map[netip.Addr]speaker.Session
	lost  map[netip.Addr]bool
}

func watch(s speaker.Speaker) *view {
	return &view{s: s, best: map[netip.Prefix]speaker.Path{}, peers: map[netip.Addr]speaker.Session{}, lost: map[netip.Addr]bool{}}
}

func (v *view) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-v.s.Changed():
		case <-ctx.Done():
			peers, _ := v.s.Peers(context.Background())
			t.Fatalf("still waiting for %s; best %v; sessions %v; peers %+v", what, v.best, v.peers, peers)
		}
		c := v.s.Take()
		for p, path := range c.Best {
			if path == nil {
				delete(v.best, p)
				continue
			}
			v.best[p] = *path
		}
		maps.Copy(v.lost, c.Lost)
		maps.Copy(v.peers, c.Peers)
	}
}

func (v *view) has(p string) func() bool {
	return func() bool { _, ok := v.best[prefix(p)]; return ok }
}

func (v *view) established(a string) func() bool {
	return func() bool { return v.peers[addr(a)].Established }
}

func (v *view) endOfRIB(a string) func() bool {
	return func() bool { return v.peers[addr(a)].EndOfRIB }
}

func TestSessionIsUpWithinThreeSecondsOfStart(t *testing.T) {
	port := freePort(t)
	a, b := newSpeaker(t, gobgp.Config{}), newSpeaker(t, gobgp.Config{})
	ga, gb := global("127.0.0.1", 64512, port), global("127.0.0.2", 64512, port)
	start := time.Now()
	startAll(t, map[*gobgp.Speaker]speaker.Global{a: ga, b: gb})
	passive := peer("127.0.0.2", "127.0.0.1", 64512, port)
	passive.Passive = true
	apply(t, a, speaker.Desired{
		Global: global("127.0.0.1", 64512, port), Peers: []speaker.Peer{peer("127.0.0.1", "127.0.0.2", 64512, port)},
		Exports: []speaker.Export{{Prefix: prefix("10.65.1.0/26")}},
	})
	apply(t, b, speaker.Desired{
		Global: global("127.0.0.2", 64512, port), Peers: []speaker.Peer{passive},
		Exports: []speaker.Export{{Prefix: prefix("10.65.2.0/26")}},
	})
	av, bv := watch(a), watch(b)
	bv.until(t, "route of a", bv.has("10.65.1.0/26"))
	took := time.Since(start)
	av.until(t, "route of b", av.has("10.65.2.0/26"))
	if took > upWithin {
		t.Errorf("first route after %v, want within %v", took, upWithin)
	}
	path := bv.best[prefix("10.65.1.0/26")]
	if path.NextHop != addr("127.0.0.1") || path.Peer != addr("127.0.0.1") || path.LocalPref != speaker.OwnPreference {
		t.Errorf("path %+v: want next hop and peer 127.0.0.1, local preference %d", path, speaker.OwnPreference)
	}
	av.until(t, "End-of-RIB from b", av.endOfRIB("127.0.0.2"))
}

func TestRestartingSpeakerStillAdvertisesWithinThreeSeconds(t *testing.T) {
	port := freePort(t)
	a, b := newSpeaker(t, gobgp.Config{Restarting: true}), newSpeaker(t, gobgp.Config{Restarting: true})
	passive := peer("127.0.0.2", "127.0.0.1", 64512, port)
	passive.Passive = true
	da := speaker.Desired{
		Global: global("127.0.0.1", 64512, port), Peers: []speaker.Peer{peer("127.0.0.1", "127.0.0.2", 64512, port)},
	}
	db := speaker.Desired{Global: global("127.0.0.2", 64512, port), Peers: []speaker.Peer{passive}}
	start := time.Now()
	apply(t, a, da) // without exports: see startAll
	apply(t, b, db)
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}
	db.Exports = []speaker.Export{{Prefix: prefix("10.65.2.0/26")}}
	apply(t, a, da)
	apply(t, b, db)
	av, bv := watch(a), watch(b)
	bv.until(t, "route of a", bv.has("10.65.1.0/26"))
	av.until(t, "route of b", av.has("10.65.2.0/26"))
	// The deferral adds a second to the session's three.
	if took := time.Since(start); took > upWithin+time.Second {
		t.Errorf("routes after %v, want within %v", took, upWithin+time.Second)
	}
	av.until(t, "End-of-RIB from b", av.endOfRIB("127.0.0.2"))
	bv.until(t, "End-of-RIB from a", bv.endOfRIB("127.0.0.1"))
	peers, err := a.Peers(t.Context())
	if err != nil || len(peers) != 1 || !peers[0].GracefulRestart {
		t.Errorf("peers %+v, %v: want one, with graceful restart, and no anchor", peers, err)
	}
}

// pair is two speakers with a session: a at 127.0.0.1 connects to b at 127.0.0.2.
func pair(t *testing.T, asnA, asnB uint32) (a, b *gobgp.Speaker, da, db speaker.Desired) {
	t.Helper()
	port := freePort(t)
	a, b = newSpeaker(t, gobgp.Config{}), newSpeaker(t, gobgp.Config{})
	pa, pb := peer("127.0.0.1", "127.0.0.2", asnB, port), peer("127.0.0.2", "127.0.0.1", asnA, port)
	pb.Passive = true
	da = speaker.Desired{Global: global("127.0.0.1", asnA, port), Peers: []speaker.Peer{pa}}
	db = speaker.Desired{Global: global("127.0.0.2", asnB, port), Peers: []speaker.Peer{pb}}
	startAll(t, map[*gobgp.Speaker]speaker.Global{a: da.Global, b: db.Global})
	return a, b, da, db
}

// startAll starts speakers before any has a path: starting one writes variables
// of GoBGP's package that those at work read. A process has only one.
func startAll(t *testing.T, speakers map[*gobgp.Speaker]speaker.Global) {
	t.Helper()
	for s, g := range speakers {
		apply(t, s, speaker.Desired{Global: g})
	}
}

func TestExportsChangeWithoutTouchingTheSession(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}, {Prefix: prefix("fd65:1::/122")}}
	apply(t, b, db)
	apply(t, a, da)
	bv := watch(b)
	bv.until(t, "first export", bv.has("10.65.1.0/26"))
	before, err := b.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.64/26")}, {Prefix: prefix("10.65.2.3/32")}}
	apply(t, a, da)
	bv.until(t, "new exports", bv.has("10.65.2.3/32"))
	bv.until(t, "the old one's withdrawal", func() bool { return !bv.has("10.65.1.0/26")() && bv.has("10.65.1.64/26")() })
	after, err := b.Peers(t.Context())
	if err != nil || len(after) != 1 || !after[0].Since.Equal(before[0].Since) || after[0].State != speaker.Established {
		t.Errorf("session %+v, before %+v: it was touched", after, before)
	}
	if after[0].Received != 2 || after[0].Advertised != 0 {
		t.Errorf("received %d, advertised %d; want 2 and 0", after[0].Received, after[0].Advertised)
	}
	routes, err := a.Routes(t.Context(), prefix("10.65.2.3/32"))
	if err != nil || len(routes) != 1 || !routes[0].Local() || !routes[0].Best {
		t.Errorf("own route %+v, %v", routes, err)
	}
}

func TestRemovedPeerTakesItsRoutesAlong(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}
	apply(t, b, db)
	apply(t, a, da)
	bv := watch(b)
	bv.until(t, "export", bv.has("10.65.1.0/26"))
	db.Peers = nil
	apply(t, b, db)
	bv.until(t, "the route to go", func() bool {
		return !bv.has("10.65.1.0/26")() && bv.peers[addr("127.0.0.1")].Removed
	})
}

// TestPeerRemovedOnBothSidesAndAddedAgainIsBackSoon is the mesh switched off and
// on: a session that was ended on purpose has no Idle time to wait for.
// TestLostSessionIsToldAndSoIsItsReturn: who moves routes away from a peer at the first
// word of its death has to hear that it is back.
func TestLostSessionIsToldAndSoIsItsReturn(t *testing.T) {
	port := freePort(t)
	a, b := newSpeaker(t, gobgp.Config{}), newSpeaker(t, gobgp.Config{})
	passive := peer("127.0.0.2", "127.0.0.1", 64512, port)
	passive.Passive = true
	passive.RestartTime = 0 // so that its end is no restart
	active := peer("127.0.0.1", "127.0.0.2", 64512, port)
	active.RestartTime = 0
	apply(t, b, speaker.Desired{Global: global("127.0.0.2", 64512, port), Peers: []speaker.Peer{passive}})
	apply(t, a, speaker.Desired{Global: global("127.0.0.1", 64512, port), Peers: []speaker.Peer{active}})
	v := watch(a)
	v.until(t, "the session", v.established("127.0.0.2"))
	apply(t, b, speaker.Desired{Global: global("127.0.0.2", 64512, port)})
	v.until(t, "word of its end", func() bool { return v.lost[addr("127.0.0.2")] })
	clear(v.peers)
	apply(t, b, speaker.Desired{Global: global("127.0.0.2", 64512, port), Peers: []speaker.Peer{passive}})
	v.until(t, "word of its return", v.established("127.0.0.2"))
}

// TestEquallyGoodPathsAreToldTogether (ECMP), and those that are not are left out.
func TestEquallyGoodPathsAreToldTogether(t *testing.T) {
	port := freePort(t)
	a, b, c := newSpeaker(t, gobgp.Config{}), newSpeaker(t, gobgp.Config{}), newSpeaker(t, gobgp.Config{})
	desired := func(local string, asn uint32, peers ...speaker.Peer) speaker.Desired {
		return speaker.Desired{Global: global(local, asn, port), Peers: peers, Exports: []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}}
	}
	external := func(local, remote string, asn uint32) speaker.Peer {
		p := peer(local, remote, asn, port)
		p.Passive = local != "127.0.0.1"
		return p
	}
	apply(t, b, desired("127.0.0.2", 64602, external("127.0.0.2", "127.0.0.1", 64601)))
	apply(t, c, desired("127.0.0.3", 64603, external("127.0.0.3", "127.0.0.1", 64601)))
	d := desired("127.0.0.1", 64601, external("127.0.0.1", "127.0.0.2", 64602), external("127.0.0.1", "127.0.0.3", 64603))
	d.Exports = nil
	apply(t, a, d)
	v := watch(a)
	nextHops := func(want ...string) func() bool {
		return func() bool {
			p, ok := v.best[prefix("10.65.1.0/26")]
			got := []string{p.NextHop.String()}
			for _, q := range p.Equals {
				got = append(got, q.NextHop.String())
			}
			slices.Sort(got)
			return ok && slices.Equal(got, want)
		}
	}
	v.until(t, "both paths", nextHops("127.0.0.2", "127.0.0.3"))
	apply(t, c, speaker.Desired{Global: global("127.0.0.3", 64603, port), Peers: []speaker.Peer{external("127.0.0.3", "127.0.0.1", 64601)}})
	v.until(t, "the path that is left", nextHops("127.0.0.2"))
}

func TestPeerRemovedOnBothSidesAndAddedAgainIsBackSoon(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	apply(t, b, db)
	apply(t, a, da)
	av, bv := watch(a), watch(b)
	av.until(t, "the session", av.established("127.0.0.2"))
	bv.until(t, "the session", bv.established("127.0.0.1"))
	off := func(d speaker.Desired) speaker.Desired { d.Peers = nil; return d }
	apply(t, b, off(db))
	apply(t, a, off(da))
	av.until(t, "the session's end", func() bool { return av.peers[addr("127.0.0.2")].Removed })
	start := time.Now()
	apply(t, b, db)
	apply(t, a, da)
	av.until(t, "the session again", av.established("127.0.0.2"))
	if took := time.Since(start); took > upWithin {
		t.Errorf("session back after %v, want within %v", took, upWithin)
	}
}

func TestChangedGlobalStartsAnew(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}
	apply(t, b, db)
	apply(t, a, da)
	bv := watch(b)
	bv.until(t, "export", bv.has("10.65.1.0/26"))
	// The peer is another speaker: one at work would read what starting writes, the
	// variables of GoBGP's package.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	da.Global.ASN, db.Peers[0].ASN = 64513, 64513
	apply(t, a, da)
	b = newSpeaker(t, gobgp.Config{})
	apply(t, b, db)
	bv = watch(b)
	bv.until(t, "the route with the new AS number in its path", func() bool {
		p := bv.best[prefix("10.65.1.0/26")]
		return len(p.ASPath) == 1 && p.ASPath[0] == 64513
	})
}

// TestOnlyTransitPassesOnWhatWasLearned: a is in AS 64512 with b; b has an outside peer c. Only
// a router, with Transit, passes on what it has learned, as the next hop.
func TestOnlyTransitPassesOnWhatWasLearned(t *testing.T) {
	for _, transit := range []bool{false, true} {
		t.Run(fmt.Sprintf("transit %v", transit), func(t *testing.T) { testTransit(t, transit) })
	}
}

func testTransit(t *testing.T, transit bool) {
	cv := passedOn(t, func(g *speaker.Global) { g.Transit = transit })
	if !cv.has("10.65.2.0/26")() {
		t.Errorf("transit %v: b's own export is missing at c", transit)
	}
	if got := cv.has("10.65.1.0/26")(); got != transit {
		t.Errorf("transit %v: a's export is at c: %v", transit, got)
	}
	if p := cv.best[prefix("10.65.1.0/26")]; transit && p.NextHop != addr("127.0.0.2") {
		t.Errorf("next hop %s of a passed on path, want b", p.NextHop)
	}
}

// passedOn is what c has when b has told it everything: b has an export and, from the
// internal a, another one; c is an external peer of b, whose Global the test sets.
func passedOn(t *testing.T, set func(b *speaker.Global)) *view {
	t.Helper()
	a, b, da, db := pair(t, 64512, 64512)
	c := newSpeaker(t, gobgp.Config{})
	port := da.Global.Port
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}
	db.Exports = []speaker.Export{{Prefix: prefix("10.65.2.0/26")}}
	set(&db.Global)
	toC := peer("127.0.0.2", "127.0.0.3", 64999, port)
	toC.Passive = true
	db.Peers = append(db.Peers, toC)
	dc := speaker.Desired{Global: global("127.0.0.3", 64999, port)}
	startAll(t, map[*gobgp.Speaker]speaker.Global{c: dc.Global})
	apply(t, b, db)
	apply(t, a, da)
	bv := watch(b)
	bv.until(t, "a's export", bv.has("10.65.1.0/26"))
	dc.Peers = []speaker.Peer{peer("127.0.0.3", "127.0.0.2", 64512, port)}
	apply(t, c, dc)
	cv := watch(c)
	cv.until(t, "End-of-RIB from b", cv.endOfRIB("127.0.0.2"))
	return cv
}

// TestNextHopOnASegmentIsKeptForAnExternalPeerThere: as c can reach a itself it must
// not be sent by way of b, unless one of the two is not on b's segments.
func TestNextHopOnASegmentIsKeptForAnExternalPeerThere(t *testing.T) {
	for _, tt := range []struct{ name, segment, want string }{
		{"all on one segment", "127.0.0.0/24", "127.0.0.1"},
		{"the next hop is elsewhere", "127.0.0.2/31", "127.0.0.2"},
		{"the external peer is elsewhere", "127.0.0.0/31", "127.0.0.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cv := passedOn(t, func(g *speaker.Global) {
				g.Transit, g.Segments = true, []netip.Prefix{prefix(tt.segment)}
			})
			if got := cv.best[prefix("10.65.1.0/26")].NextHop; got != addr(tt.want) {
				t.Errorf("next hop %s of what a has exported, want %s", got, tt.want)
			}
			if got := cv.best[prefix("10.65.2.0/26")].NextHop; got != addr("127.0.0.2") {
				t.Errorf("next hop %s of b's own export, want b", got)
			}
		})
	}
}

// TestNextHopModeIsFollowedWithoutANewSession: a is internal to b, c external, all of
// them on one segment.
func TestNextHopModeIsFollowedWithoutANewSession(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	c := newSpeaker(t, gobgp.Config{})
	port := da.Global.Port
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}
	db.Exports = []speaker.Export{{Prefix: prefix("10.65.2.0/26")}}
	db.Global.Transit, db.Global.Segments = true, []netip.Prefix{prefix("127.0.0.0/24")}
	toC := peer("127.0.0.2", "127.0.0.3", 64999, port)
	toC.Passive = true
	dc := speaker.Desired{Global: global("127.0.0.3", 64999, port), Peers: []speaker.Peer{peer("127.0.0.3", "127.0.0.2", 64512, port)}}
	startAll(t, map[*gobgp.Speaker]speaker.Global{c: dc.Global})
	apply(t, a, da)
	cv := watch(c)
	var up time.Time
	for i, tt := range []struct {
		mode speaker.NextHopMode
		want string
	}{
		{speaker.NextHopAuto, "127.0.0.1"},
		{speaker.NextHopSelf, "127.0.0.2"},
		{speaker.NextHopKeep, "127.0.0.1"},
		{speaker.NextHopSelf, "127.0.0.2"},
		{speaker.NextHopAuto, "127.0.0.1"},
	} {
		toC.NextHop = tt.mode
		db.Peers = []speaker.Peer{db.Peers[0], toC}
		apply(t, b, db)
		if i == 0 {
			apply(t, c, dc)
		}
		cv.until(t, fmt.Sprintf("next hop %s by mode %d", tt.want, tt.mode), func() bool {
			return cv.best[prefix("10.65.1.0/26")].NextHop == addr(tt.want)
		})
		if got := cv.best[prefix("10.65.2.0/26")].NextHop; i > 0 && got != addr("127.0.0.2") {
			t.Errorf("mode %d: next hop %s of b's own export, want b", tt.mode, got)
		}
		peers, err := c.Peers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			up = peers[0].Since
		}
		if peers[0].Since != up {
			t.Errorf("mode %d: the session is up since %v, was since %v", tt.mode, peers[0].Since, up)
		}
	}
}

// TestPasswordThatIsTakenAwayIsForgotten: b waits for a, so that its listener decides.
func TestPasswordThatIsTakenAwayIsForgotten(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	bv := watch(b)
	for _, password := range []speaker.Password{"first", "second", "", "third"} {
		da.Peers, db.Peers = slices.Clone(da.Peers), slices.Clone(db.Peers)
		da.Peers[0].Password, db.Peers[0].Password = password, password
		apply(t, a, da)
		apply(t, b, db)
		bv.until(t, fmt.Sprintf("the session with password %q", string(password)), bv.established("127.0.0.1"))
		apply(t, a, speaker.Desired{Global: da.Global})
		apply(t, b, speaker.Desired{Global: db.Global})
		bv.until(t, "its end", func() bool { return bv.peers[addr("127.0.0.1")].Removed })
	}
}

// TestChangeOfAPeerIsARestartToBothSides: what is learned may be kept until the new
// session has told everything again, by us and by the peer.
func TestChangeOfAPeerIsARestartToBothSides(t *testing.T) {
	for name, change := range map[string]func(da, db *speaker.Desired){
		"of the peer": func(da, _ *speaker.Desired) { da.Peers[0].RestartTime = 77 * time.Second },
		"of the speaker": func(da, db *speaker.Desired) {
			da.Global.ASN, db.Peers[0].ASN = 64513, 64513
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, da, db := pair(t, 64512, 64512)
			da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}
			apply(t, b, db)
			apply(t, a, da)
			av, bv := watch(a), watch(b)
			av.until(t, "End-of-RIB of b", av.endOfRIB("127.0.0.2"))
			bv.until(t, "End-of-RIB of a", bv.endOfRIB("127.0.0.1"))
			da.Peers, db.Peers = slices.Clone(da.Peers), slices.Clone(db.Peers)
			change(&da, &db)
			apply(t, a, da)
			av.until(t, "a's side of the restart", func() bool { s := av.peers[addr("127.0.0.2")]; return !s.Established && s.Restarting })
			bv.until(t, "b's side of the restart", func() bool { s := bv.peers[addr("127.0.0.1")]; return !s.Established && s.Restarting })
			apply(t, b, db)
			bv.until(t, "End-of-RIB of a again", bv.endOfRIB("127.0.0.1"))
			av.until(t, "End-of-RIB of b again", av.endOfRIB("127.0.0.2"))
			if s := av.peers[addr("127.0.0.2")]; s.Restarting {
				t.Error("the restart doesn't end")
			}
			if av.lost[addr("127.0.0.2")] {
				t.Error("the peer, whose routes are kept, is told to be lost")
			}
			if _, there := bv.best[prefix("10.65.1.0/26")]; !there {
				t.Error("the route is gone")
			}
		})
	}
}

func TestPeerThatIsDownSaysWhy(t *testing.T) {
	port := freePort(t)
	a, b := newSpeaker(t, gobgp.Config{}), newSpeaker(t, gobgp.Config{})
	fromB := peer("127.0.0.2", "127.0.0.1", 64513, port) // a is AS 64512
	fromB.Passive = true
	apply(t, b, speaker.Desired{Global: global("127.0.0.2", 64512, port), Peers: []speaker.Peer{fromB}})
	apply(t, a, speaker.Desired{Global: global("127.0.0.1", 64512, port), Peers: []speaker.Peer{
		peer("127.0.0.1", "127.0.0.2", 64512, port),
		peer("127.0.0.1", "127.0.0.3", 64512, port),
		{Address: addr("127.0.0.4"), Port: port, ASN: 64512, LocalAddress: addr("192.0.2.1")},
		{Address: addr("127.0.0.5"), Port: port, ASN: 64512, Passive: true},
	}})
	for _, tt := range []struct {
		at   *gobgp.Speaker
		peer string
		want string
	}{
		{a, "127.0.0.2", "the peer refused our OPEN: check that it expects AS 64512 from us"},
		{a, "127.0.0.3", fmt.Sprintf("connection refused: no BGP speaker listens on port %d of 127.0.0.3", port)},
		{a, "127.0.0.4", "local address 192.0.2.1 is not on any interface of this node"},
		{a, "127.0.0.5", "waiting for the peer to connect to us"},
		{b, "127.0.0.1", "we sent NOTIFICATION open message error/bad peer AS (2/2): its AS number is 64512, configured is 64513"},
	} {
		polltest.Until(t, patience, tt.peer+" to say "+tt.want, func() (bool, string) { // nothing tells of a failed connection
			peers, err := tt.at.Peers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(peers, func(p speaker.PeerState) bool { return p.Peer.Address == addr(tt.peer) })
			return i >= 0 && peers[i].Info == tt.want, fmt.Sprintf("%+v", peers)
		})
	}
}

func TestBadPeerDoesNotKeepOthersFromBeingConfigured(t *testing.T) {
	a, b, da, db := pair(t, 64512, 64512)
	da.Exports = []speaker.Export{{Prefix: prefix("10.65.1.0/26")}}
	bad := peer("127.0.0.1", "127.0.0.9", 64999, da.Global.Port)
	bad.ReflectorClient, bad.ClusterID = true, addr("fd00::1") // not a cluster ID
	da.Peers = append([]speaker.Peer{bad}, da.Peers...)
	if err := a.Apply(t.Context(), da); err == nil || !strings.Contains(err.Error(), "add peer 127.0.0.9") {
		t.Errorf("apply: %v, want an error that names the peer", err)
	}
	apply(t, b, db)
	bv := watch(b)
	bv.until(t, "the good peer's route", bv.has("10.65.1.0/26"))
}

// TestTablesOfAPeerAreWhatItSentAndIsSent: what was refused as a loop was sent all the
// same, and an external peer is sent our AS number and address.
func TestTablesOfAPeerAreWhatItSentAndIsSent(t *testing.T) {
	port := freePort(t)
	a, b := newSpeaker(t, gobgp.Config{}), newSpeaker(t, gobgp.Config{})
	startAll(t, map[*gobgp.Speaker]speaker.Global{a: global("127.0.0.1", 64512, port), b: global("127.0.0.2", 64513, port)})
	passive := peer("127.0.0.2", "127.0.0.1", 64512, port)
	passive.Passive = true
	exports := []speaker.Export{{Prefix: prefix("10.65.1.0/26")}, {Prefix: prefix("10.65.1.64/26")}}
	apply(t, a, speaker.Desired{
		Global: global("127.0.0.1", 64512, port), Peers: []speaker.Peer{peer("127.0.0.1", "127.0.0.2", 64513, port)}, Exports: exports,
	})
	apply(t, b, speaker.Desired{Global: global("127.0.0.2", 64513, port), Peers: []speaker.Peer{passive}})
	bv := watch(b)
	bv.until(t, "routes of a", func() bool { return bv.has("10.65.1.0/26")() && bv.has("10.65.1.64/26")() })
	in, err := b.AdjIn(t.Context(), addr("127.0.0.1"), netip.Prefix{})
	if err != nil || len(in) != 2 || in[0].Prefix != exports[0].Prefix || in[0].NextHop != addr("127.0.0.1") || in[0].PeerID != addr("127.0.0.1") ||
		in[0].LocalPref != 100 || in[0].Origin != speaker.IGP || !slices.Equal(in[0].ASPath, []uint32{64512}) {
		t.Errorf("received %+v, %v", in, err)
	}
	out, err := a.AdjOut(t.Context(), addr("127.0.0.2"), exports[1].Prefix)
	if err != nil || len(out) != 1 || out[0].Prefix != exports[1].Prefix || out[0].NextHop != addr("127.0.0.1") || !slices.Equal(out[0].ASPath, []uint32{64512}) {
		t.Errorf("sent %+v, %v", out, err)
	}
	if out, err := b.AdjOut(t.Context(), addr("127.0.0.1"), netip.Prefix{}); err != nil || len(out) != 0 {
		t.Errorf("a speaker without exports sends %+v, %v", out, err)
	}
	if in, err := a.AdjIn(t.Context(), addr("127.0.0.9"), netip.Prefix{}); err != nil || len(in) != 0 {
		t.Errorf("who is no peer has sent %+v, %v", in, err)
	}
	peers, err := b.Peers(t.Context())
	if err != nil || len(peers) != 1 || peers[0].UpdatesIn == 0 {
		t.Errorf("peers %+v, %v; want one that has sent UPDATEs", peers, err)
	}
}

package gobgp

import (
	"net/netip"
	"testing"
	"time"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"

	"tortie/bgpd/speaker"
)

// TestLateWordOfARemovedPeersSessionIsNotTheNextOnes: GoBGP says that the session of a
// removed peer has ended when its connection is closed. A write to a dead peer holds that
// up, and meanwhile the peer, added again, may be up.
func TestLateWordOfARemovedPeersSessionIsNotTheNextOnes(t *testing.T) {
	peer := netip.MustParseAddr("10.1.1.12")
	up := gracefulness{up: true}
	down := func(reason string) func(*events, *bridge) {
		return func(_ *events, b *bridge) {
			b.Info("Peer Down", gobgplog.Fields{"Key": peer.String(), "Reason": reason})
		}
	}
	orphaned := func(e *events, _ *bridge) { e.orphan(peer) }
	for _, tt := range []struct {
		name        string
		late        []func(*events, *bridge)
		established bool
		lost        bool
	}{
		{"nothing", nil, true, false},
		{"the removal", []func(*events, *bridge){down("dying"), orphaned}, true, false},
		{"another end, which the removal overtook", []func(*events, *bridge){down("read-failed"), orphaned}, true, false},
		{"both, and then the present session's own end", []func(*events, *bridge){
			down("dying"), orphaned, down("read-failed"), func(e *events, _ *bridge) { e.state(peer, speaker.Idle, gracefulness{}) },
		}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEvents(time.Now, newCauses())
			b := &bridge{causes: e.causes, lost: e.lost}
			s := &Speaker{events: e}
			e.expect(peer)
			e.state(peer, speaker.Established, up)
			e.expect(peer) // removed and added
			if c := s.Take(); c.Peers[peer].Established || !c.Lost[peer] {
				t.Errorf("changes %+v: the removed peer's session is over", c)
			}
			e.state(peer, speaker.Idle, gracefulness{})
			e.state(peer, speaker.Established, up)
			e.endOfRIB(peer)
			for _, say := range tt.late {
				say(e, b)
			}
			c := s.Take()
			if c.Peers[peer].Established != tt.established || c.Peers[peer].EndOfRIB != tt.established || c.Lost[peer] != tt.lost {
				t.Errorf("changes %+v: want a session that is established=%v and lost=%v", c, tt.established, tt.lost)
			}
		})
	}
}

// TestWordThatARemovedPeersSessionIsUpIsNotTheNextOnes: the watch may still have it to say
// when the peer has been removed and added, and nothing would take it back.
func TestWordThatARemovedPeersSessionIsUpIsNotTheNextOnes(t *testing.T) {
	peer := netip.MustParseAddr("10.1.1.12")
	e := newEvents(time.Now, newCauses())
	e.expect(peer)
	e.state(peer, speaker.Established, gracefulness{up: false})
	if s, _ := e.session(peer); s.Established {
		t.Error("a session is taken for up that the server has no longer")
	}
	e.state(peer, speaker.Established, gracefulness{up: true})
	if s, _ := e.session(peer); !s.Established {
		t.Error("a session that is up is not taken for it")
	}
}

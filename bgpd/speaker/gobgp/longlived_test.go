package gobgp

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"tortie/bgpd/speaker"
)

// TestNoPeerKeepsStaleRoutesForLong: a filter withdraws from a peer by marking routes as
// stale for long, which only a peer that knows of them (RFC 9494) would take for routes.
// So that is off unless it was asked for, and where it is on filters find another way.
func TestNoPeerKeepsStaleRoutesForLong(t *testing.T) {
	peer := speaker.Peer{Address: netip.MustParseAddr("10.0.0.1"), RestartTime: time.Minute}
	conf := peerToAPI(peer, true)
	if conf.GracefulRestart.LonglivedEnabled || conf.AfiSafis[0].LongLivedGracefulRestart.GetConfig().GetEnabled() {
		t.Error("long-lived graceful restart is on, though not asked for: policies.reject must find another way to withdraw from such a peer")
	}
	peer.LongLived = time.Hour
	rejecting := map[netip.Addr]speaker.Filter{peer.Address: {Export: []speaker.Rule{{Name: "none"}}}}
	for name, tt := range map[string]struct {
		now, next speaker.Desired
		anew      bool
	}{
		"the rules change":                {speaker.Desired{}, speaker.Desired{Filters: rejecting}, true},
		"graceful shutdown with rules":    {speaker.Desired{Filters: rejecting}, speaker.Desired{Filters: rejecting, Shutdown: true}, true},
		"graceful shutdown without rules": {speaker.Desired{}, speaker.Desired{Shutdown: true}, false},
		"nothing changes":                 {speaker.Desired{Filters: rejecting}, speaker.Desired{Filters: rejecting}, false},
	} {
		tt.now.Peers = []speaker.Peer{peer}
		s := &Speaker{applied: tt.now}
		if got := s.anew(tt.next)[peer.Address]; got != tt.anew {
			t.Errorf("%s: a new session: %v, want %v", name, got, tt.anew)
		}
		if _, withdrawing := s.refiltered(tt.next); withdrawing[peer.Address] && tt.anew {
			t.Errorf("%s: the peer is sent routes marked as stale for long, to withdraw them", name)
		}
	}
	peer.LongLived = 0
	s := &Speaker{applied: speaker.Desired{Peers: []speaker.Peer{peer}}}
	if s.anew(speaker.Desired{Filters: rejecting})[peer.Address] {
		t.Error("the session of a peer without long-lived graceful restart starts anew with its filter")
	}
}

// TestLongLivedRestartIsBounded: what GoBGP keeps of a peer is taken back when our own
// time is up, when it has been marked too often, and when nothing is kept at all.
func TestLongLivedRestartIsBounded(t *testing.T) {
	peer := netip.MustParseAddr("10.0.0.1")
	for name, tt := range map[string]struct {
		kept bool
		run  func(l *longLived)
		want int
	}{
		"before the time is up": {true, func(l *longLived) { l.began(peer); time.Sleep(time.Hour - time.Second) }, 0},
		"the time is up":        {true, func(l *longLived) { l.began(peer); time.Sleep(time.Hour) }, 1},
		"from the first on": {true, func(l *longLived) {
			l.began(peer)
			time.Sleep(time.Hour - time.Second)
			l.began(peer)
			time.Sleep(time.Second)
		}, 1},
		"it is back in time":                        {true, func(l *longLived) { l.began(peer); l.ended(peer); time.Sleep(2 * time.Hour) }, 0},
		"the peer's time":                           {true, func(l *longLived) { l.began(peer); l.expired(peer); time.Sleep(2 * time.Hour) }, 1},
		"a timer that ends on a session that is up": {true, func(l *longLived) { l.began(peer); l.ended(peer); l.expired(peer) }, 1},
		"a timer of nothing":                        {false, func(l *longLived) { l.began(peer) }, 1},
		"marked too often": {true, func(l *longLived) {
			for range maxMarks {
				l.began(peer)
			}
		}, 1},
		"no longer wanted": {true, func(l *longLived) {
			l.began(peer)
			l.configure(speaker.Peer{Address: peer})
			time.Sleep(2 * time.Hour)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLongLived()
				remade := make(chan netip.Addr, maxMarks)
				l.kept = func(netip.Addr) bool { return tt.kept }
				l.remake = func(a netip.Addr) { remade <- a }
				l.configure(speaker.Peer{Address: peer, LongLived: time.Hour})
				tt.run(l)
				synctest.Wait()
				if len(remade) != tt.want {
					t.Errorf("the peer was made anew %d times, want %d", len(remade), tt.want)
				}
				l.ended(peer)
			})
		})
	}
}

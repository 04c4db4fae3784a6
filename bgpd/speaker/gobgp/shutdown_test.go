package gobgp_test

import (
	"testing"
	"time"

	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
)

// TestGracefulShutdownMovesTrafficBeforehand: c has the same prefix of a and of b, and
// prefers the one that isn't about to go, in both directions and without a new session.
func TestGracefulShutdownMovesTrafficBeforehand(t *testing.T) {
	port := freePort(t)
	ips := []string{"127.0.0.1", "127.0.0.2"}
	c := newSpeaker(t, gobgp.Config{})
	dc := speaker.Desired{Global: global("127.0.0.3", 64999, port)}
	speakers := map[string]speaker.Speaker{}
	desired := map[string]*speaker.Desired{}
	for _, ip := range ips {
		s := newSpeaker(t, gobgp.Config{})
		d := &speaker.Desired{Global: global(ip, 64512, port), Exports: []speaker.Export{{Prefix: prefix("192.0.2.1/32")}}}
		d.Peers = []speaker.Peer{peer(ip, "127.0.0.3", 64999, port)}
		d.Peers[0].Passive = true
		apply(t, s, *d)
		speakers[ip], desired[ip] = s, d
		dc.Peers = append(dc.Peers, peer("127.0.0.3", ip, 64512, port))
	}
	apply(t, c, dc)
	cv := watch(c)
	cv.until(t, "both to have told everything", func() bool { return cv.endOfRIB(ips[0])() && cv.endOfRIB(ips[1])() })
	var since [2]time.Time
	states := func() (out [2]time.Time) {
		peers, err := c.Peers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return [2]time.Time{peers[0].Since, peers[1].Since}
	}
	since = states()
	for _, going := range []string{ips[0], ips[1], ips[0]} {
		stays := ips[0]
		for _, ip := range ips {
			desired[ip].Shutdown = ip == going
			if ip != going {
				stays = ip
			}
			apply(t, speakers[ip], *desired[ip])
		}
		cv.until(t, "the way by "+stays, func() bool { return cv.best[prefix("192.0.2.1/32")].Peer == addr(stays) })
	}
	for _, d := range desired {
		d.Shutdown = true
	}
	for _, ip := range ips {
		apply(t, speakers[ip], *desired[ip])
	}
	cv.until(t, "the last way to stay although its speaker goes", func() bool {
		path, there := cv.best[prefix("192.0.2.1/32")]
		return there && path.LocalPref == 1
	})
	if now := states(); now != since {
		t.Errorf("sessions are up since %v, were since %v", now, since)
	}
}

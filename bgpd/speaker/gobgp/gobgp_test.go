package gobgp_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
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
}

func watch(s speaker.Speaker) *view {
	return &view{s: s, best: map[netip.Prefix]speaker.Path{}, peers: map[netip.Addr]speaker.Session{}}
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
		for a, ses := range c.Peers {
			v.peers[a] = ses
		}
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
	start := time.Now()
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
	if path.NextHop != addr("127.0.0.1") || path.Peer != addr("127.0.0.1") || path.LocalPref != 100 {
		t.Errorf("path %+v: want next hop and peer 127.0.0.1, local preference 100", path)
	}
	av.until(t, "End-of-RIB from b", av.endOfRIB("127.0.0.2"))
}

func TestRestartingSpeakerStillAdvertisesWithinThreeSeconds(t *testing.T) {
	port := freePort(t)
	a, b := newSpeaker(t, gobgp.Config{Restarting: true}), newSpeaker(t, gobgp.Config{Restarting: true})
	start := time.Now()
	apply(t, a, speaker.Desired{
		Global: global("127.0.0.1", 64512, port), Peers: []speaker.Peer{peer("127.0.0.1", "127.0.0.2", 64512, port)},
		Exports: []speaker.Export{{Prefix: prefix("10.65.1.0/26")}},
	})
	passive := peer("127.0.0.2", "127.0.0.1", 64512, port)
	passive.Passive = true
	apply(t, b, speaker.Desired{
		Global: global("127.0.0.2", 64512, port), Peers: []speaker.Peer{passive},
		Exports: []speaker.Export{{Prefix: prefix("10.65.2.0/26")}},
	})
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

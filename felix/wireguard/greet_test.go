package wireguard

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"tortie/felix/calc"
	"tortie/internal/overlay"
)

// TestOnlyOneOfTwoStartsOver, in ever longer intervals, and neither for ever.
func TestOnlyOneOfTwoStartsOver(t *testing.T) {
	lesser, greater := overlay.Key{1}, overlay.Key{2}
	begun := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct {
		name      string
		own, peer overlay.Key
		handshake time.Duration // after it was greeted
		want      []time.Duration
	}{
		{"the lesser key, nobody answers", lesser, greater, time.Hour, []time.Duration{100, 300, 700, 1500, 3100}},
		{"the greater key, nobody answers", greater, lesser, time.Hour, nil},
		{"the lesser key, an answer", lesser, greater, 350, []time.Duration{100, 300}},
		{"an answer at once", lesser, greater, 1, nil},
		{"a handshake of before", lesser, greater, -1, []time.Duration{100, 300, 700, 1500, 3100}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := greetings{}
			g.expect(tt.own, tt.peer, begun)
			var got []time.Duration
			for ms := time.Duration(0); ms < 10_000; ms += 10 {
				var seen time.Time
				if tt.handshake <= ms {
					seen = begun.Add(tt.handshake * time.Millisecond)
				}
				if g.late(tt.peer, seen, begun.Add(ms*time.Millisecond)) {
					got = append(got, ms)
				}
			}
			if len(got) != len(tt.want) {
				t.Fatalf("started over at %v ms, want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("started over at %v ms, want %v", got, tt.want)
				}
			}
			if at, some := g.next(begun.Add(10 * time.Second)); some {
				t.Errorf("it is still looked at, %v", at)
			}
		})
	}
}

// TestRoutesToANewPeerWaitASecondAtMost, and not when it has answered: whoever keeps two
// nodes from their handshake shall not have their packets in clear for ever.
func TestRoutesToANewPeerWaitASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dst, key := netip.MustParsePrefix("10.65.2.0/26"), overlay.Key{2}
		tunnels := New(Config{})
		end := tunnels.ends[false]
		end.desired = &calc.SecureTunnel{Peers: []calc.SecurePeer{{Node: "b", End: overlay.End{Secure: overlay.Secure{Key: key}}, Allowed: []netip.Prefix{dst}}}}
		end.greetings.expect(overlay.Key{1}, key, time.Now())
		time.Sleep(holding - time.Millisecond)
		if !tunnels.Unready()[dst] {
			t.Error("what is at a peer that has not answered does not wait")
		}
		time.Sleep(time.Millisecond)
		if held := tunnels.Unready(); len(held) > 0 {
			t.Errorf("%v waits longer than %s", held, holding)
		}
		end.greetings.expect(overlay.Key{1}, key, time.Now())
		time.Sleep(time.Millisecond)
		end.greetings.late(key, time.Now(), time.Now())
		if held := tunnels.Unready(); len(held) > 0 {
			t.Errorf("%v waits though its peer has answered", held)
		}
	})
}

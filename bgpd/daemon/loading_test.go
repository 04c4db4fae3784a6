package daemon

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"tortie/bgpd/speaker"
)

func TestCollectorRestsWhileATableIsLoaded(t *testing.T) {
	for _, c := range []struct {
		name                string
		usual, while, after int
	}{
		{"usual", defaultPercent, loadingPercent, restingPercent},
		{"rests less anyway", 20, loadingPercent, 20},
		{"rests longer anyway", 800, 800, 800},
		{"switched off", -1, -1, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				percent, given := c.usual, 0
				l := newLoading()
				l.percent = func(p int) int { old := percent; percent = p; return old }
				l.giveBack = func() { given++ }
				l.begin()
				check := func(when string, wantPercent, wantGiven int) {
					t.Helper()
					synctest.Wait()
					if percent != wantPercent || given != wantGiven {
						t.Errorf("%s: GOGC %d, memory given back %d times; want %d and %d", when, percent, given, wantPercent, wantGiven)
					}
				}
				for range 10 {
					l.learned(nil, aTable-1)
					l.learned(nil, 0)
				}
				if l.over() != nil {
					t.Error("a peer that flaps with fewer routes counts as a table")
				}
				check("after flaps", c.after, 0)
				for i := range 5 { // for longer than loaded, without a pause as long
					l.learned(nil, aTable+i)
					check("while loading", c.while, 0)
					time.Sleep(loaded / 2)
				}
				<-l.over()
				l.done()
				check("loaded", c.after, 1)
				l.learned(sessions(aMesh-1), 2*aTable)
				check("as before, more or less", c.after, 1)
				l.learned(nil, 0)
				check("the table goes", c.while, 1)
				<-l.over()
				l.done()
				check("gone", c.after, 2)
				l.learned(sessions(2*aMesh), 0)
				check("many sessions", c.while, 2)
				l.stop()
				check("stopped", c.usual, 2)
			})
		})
	}
}

// sessions are n that are up.
func sessions(n int) map[netip.Addr]speaker.Session {
	out := map[netip.Addr]speaker.Session{}
	for i := range n {
		out[netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})] = speaker.Session{Established: true}
	}
	return out
}

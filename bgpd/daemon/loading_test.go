package daemon

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCollectorRestsWhileATableIsLoaded(t *testing.T) {
	for _, c := range []struct {
		name                string
		usual, while, after int
	}{
		{"usual", 100, loadingPercent, 100},
		{"rests longer anyway", 800, 800, 800},
		{"switched off", -1, -1, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				percent, given := c.usual, 0
				l := &loading{
					percent:  func(p int) int { old := percent; percent = p; return old },
					giveBack: func() { given++ },
				}
				check := func(when string, wantPercent, wantGiven int) {
					t.Helper()
					synctest.Wait()
					if percent != wantPercent || given != wantGiven {
						t.Errorf("%s: GOGC %d, memory given back %d times; want %d and %d", when, percent, given, wantPercent, wantGiven)
					}
				}
				for range 10 {
					l.has(aTable - 1)
					l.has(0)
				}
				if l.over() != nil {
					t.Error("a peer that flaps with fewer routes counts as a table")
				}
				check("after flaps", c.usual, 0)
				for i := range 5 { // for longer than loaded, without a pause as long
					l.has(aTable + i)
					check("while loading", c.while, 0)
					time.Sleep(loaded / 2)
				}
				<-l.over()
				l.done()
				check("loaded", c.after, 1)
				l.has(2 * aTable)
				check("as before, more or less", c.after, 1)
				l.has(0)
				check("the table goes", c.while, 1)
				l.stop()
				check("stopped", c.after, 1)
			})
		})
	}
}

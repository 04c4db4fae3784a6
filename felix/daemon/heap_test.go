package daemon

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestGarbageIsBoundedHoweverMuchIsKept(t *testing.T) {
	for _, tt := range []struct {
		live uint64
		want int
	}{{0, 400}, {3 << 20, 400}, {4 << 20, 400}, {8 << 20, 200}, {16 << 20, 100}, {64 << 20, 50}, {1 << 30, 50}} {
		if got := percentFor(tt.live); got != tt.want {
			t.Errorf("%d MiB kept: GOGC %d, want %d", tt.live>>20, got, tt.want)
		}
	}
}

// TestWhatTheStartTookIsGivenBack, once, and GOGC follows what is kept.
func TestWhatTheStartTookIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		use := heapUse{live: 40 << 20, held: 200 << 20}
		given, percents := 0, []int{}
		m := &heapKeeper{
			percent:  func(p int) int { percents = append(percents, p); return 0 },
			giveBack: func() { given++; use = heapUse{live: 8 << 20, held: 10 << 20} },
			usage:    func() heapUse { return use }, is: gcPercent,
		}
		go m.run(t.Context())
		time.Sleep(settling + 10*memoryInterval)
		synctest.Wait()
		if given != 1 || len(percents) != 1 || percents[0] != 200 {
			t.Errorf("given back %d times, GOGC %v", given, percents)
		}
	})
}

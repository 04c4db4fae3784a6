package carry

import (
	"net/netip"
	"testing"
	"time"

	"tortie/internal/kernel/kerneltest"
)

func TestStreamAndRoundTripsOverLoopback(t *testing.T) {
	ns := kerneltest.NewNetns(t)
	w := Way{From: ns.Do, To: ns.Do, At: netip.MustParseAddr("127.0.0.1"), MSS: 1398}
	if rate, err := w.Stream(t.Context(), 50*time.Millisecond); err != nil || rate < chunk {
		t.Errorf("%g bytes a second, %v", rate, err)
	}
	took, err := w.RoundTrips(t.Context(), 5)
	if err != nil || len(took) != 5 {
		t.Errorf("%v, %v", took, err)
	}
	for _, d := range took {
		if d <= 0 {
			t.Errorf("a round trip of %s", d)
		}
	}
	w.At = netip.MustParseAddr("192.0.2.1")
	if _, err := w.Stream(t.Context(), time.Millisecond); err == nil {
		t.Error("an address that isn't there is measured")
	}
}

package fib

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestHistoryKeepsTheLastChangesOfThePrefixesThatChangedLast(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	h := NewHistory(func() time.Time { now = now.Add(time.Second); return now })
	prefix := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	for i := range historyChanges + 3 {
		h.add(prefix(0), event{kernel: fmt.Sprint(i), peer: netip.MustParseAddr("10.0.0.1")})
	}
	got := h.Of(prefix(0))
	if len(got) != historyChanges || got[0].Text != "3, from peer 10.0.0.1" || got[historyChanges-1].Text != fmt.Sprintf("%d, from peer 10.0.0.1", historyChanges+2) || !got[0].Time.Before(got[1].Time) {
		t.Errorf("changes %v, want the last %d, oldest first", got, historyChanges)
	}
	for i := 1; i < historyPrefixes; i++ {
		h.add(prefix(i), event{})
	}
	h.add(prefix(0), event{}) // now the latest
	h.add(prefix(historyPrefixes), event{})
	if len(h.of) != historyPrefixes || h.byAge.Len() != historyPrefixes {
		t.Errorf("%d prefixes, want %d", len(h.of), historyPrefixes)
	}
	if h.Of(prefix(1)) != nil || h.Of(prefix(0)) == nil || h.Of(prefix(2)) == nil {
		t.Error("another prefix was forgotten than the one that changed the longest time ago")
	}
}

func nowIsStart() time.Time { return start }

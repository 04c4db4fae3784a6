package gobgp

import (
	"net/netip"
	"testing"
	"time"

	"tortie/bgpd/speaker"
)

// TestNoPeerKeepsStaleRoutesForLong: a filter withdraws from a peer by marking routes as
// stale for long, which only a peer that knows of them (RFC 9494) would take for routes.
func TestNoPeerKeepsStaleRoutesForLong(t *testing.T) {
	conf := peerToAPI(speaker.Peer{Address: netip.MustParseAddr("10.0.0.1"), RestartTime: time.Minute}, true)
	if conf.GracefulRestart.LonglivedEnabled {
		t.Error("long-lived graceful restart is on: policies.reject must find another way to withdraw from such a peer")
	}
}

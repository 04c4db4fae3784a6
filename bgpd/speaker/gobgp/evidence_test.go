package gobgp

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"tortie/bgpd/speaker"
)

const arp = `IP address       HW type     Flags       HW address            Mask     Device
10.1.1.12        0x1         0x2         ca:fe:00:00:00:01     *        eth0
10.1.1.99        0x1         0x0         00:00:00:00:00:00     *        eth0
`

func TestKernelsNeighboursAreRead(t *testing.T) {
	e := evidence{read: func(name string) ([]byte, error) {
		return []byte(map[string]string{"arp": arp}[name]), nil
	}}
	for address, want := range map[string]bool{"10.1.1.12": false, "10.1.1.99": true, "10.1.1.9": false, "fd00::1": false} {
		if got := e.unresolved(netip.MustParseAddr(address)); got != want {
			t.Errorf("unresolved %s: %v, want %v", address, got, want)
		}
	}
	none := evidence{read: func(string) ([]byte, error) { return nil, errors.New("no such file") }}
	if none.unresolved(netip.MustParseAddr("10.1.1.99")) {
		t.Error("something was found where nothing can be read")
	}
}

func TestStrangersAreFewRecentAndNoPeers(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c := newCauses()
	c.now = func() time.Time { return now }
	configured := netip.MustParseAddr("10.1.1.12")
	c.configured = func(a netip.Addr) bool { return a == configured }
	peer := speaker.Peer{Address: netip.MustParseAddr("10.1.1.13"), Passive: true}
	says := func() string { return c.explain(peer, 64512) }
	const waiting = "waiting for the peer to connect to us"
	c.strange(configured)
	c.strange(netip.MustParseAddr("fd00::1"))
	if got := says(); got != waiting {
		t.Errorf("a peer, or one of the other family: %q", got)
	}
	c.strange(netip.MustParseAddr("10.1.1.14"))
	if got, want := says(), waiting+"; meanwhile 10.1.1.14 connects to us, which is no peer: is that its address?"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.strange(netip.MustParseAddr("10.1.1.15"))
	if got := says(); got != waiting {
		t.Errorf("one of two strangers is guessed: %q", got)
	}
	now = now.Add(strangerTime + time.Second)
	c.strange(netip.MustParseAddr("10.1.1.15"))
	if got, want := says(), waiting+"; meanwhile 10.1.1.15 connects to us, which is no peer: is that its address?"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for i := range 100 {
		c.strange(netip.AddrFrom4([4]byte{10, 2, 2, byte(i)}))
	}
	if len(c.strangers) > maxStrangers {
		t.Errorf("%d strangers are remembered, want at most %d", len(c.strangers), maxStrangers)
	}
}

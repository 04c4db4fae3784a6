package gobgp

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"tortie/bgpd/speaker"
)

func TestCountersOfDroppedSegmentsAreRead(t *testing.T) {
	const text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure TCPLast\n" +
		"TcpExt: 7 1 2 3 9\nIpExt: InNoRoutes\nIpExt: 5\n"
	if got, want := parseMD5(text), (md5Counters{unsigned: 1, unexpected: 2, wrong: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, text := range []string{"", "TcpExt:\n", "TcpExt: TCPMD5Failure\nTcpExt: x\n", "TcpExt: a TCPMD5Failure\nTcpExt: 1\n"} {
		if got := parseMD5(text); got != (md5Counters{}) {
			t.Errorf("%q: %+v, want none", text, got)
		}
	}
}

// timeout is what a dial says that nobody has answered.
type timeout struct{ error }

func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

func TestSessionWithoutAnswerNamesAPasswordMismatch(t *testing.T) {
	silent := func(c *causes, addr netip.Addr) { c.dialFailed(addr, timeout{errors.New("i/o timeout")}) }
	waiting := func(*causes, netip.Addr) {}
	heldOn := func(c *causes, addr netip.Addr) { c.notified(addr, "hold timer expired", 4, 0, true) }
	refused := func(c *causes, addr netip.Addr) {
		c.dialFailed(addr, os.NewSyscallError("connect", errors.New("refused")))
	}
	for _, tt := range []struct {
		name     string
		password speaker.Password
		happened func(*causes, netip.Addr)
		dropped  md5Counters
		want     string
	}{
		{"other password, we connect", "a", silent, md5Counters{wrong: 1}, "likely a TCP MD5 mismatch: segments arrive that are signed with another password: make that of 10.1.1.1 and ours the same"},
		{"other password, we wait", "a", waiting, md5Counters{wrong: 1}, "likely a TCP MD5 mismatch: segments arrive that are signed with another password: make that of 10.1.1.1 and ours the same"},
		{"changed at the other end of a session", "a", heldOn, md5Counters{wrong: 1}, "likely a TCP MD5 mismatch: segments arrive that are signed with another password: make that of 10.1.1.1 and ours the same"},
		{"no password there", "a", silent, md5Counters{unsigned: 1}, "likely a TCP MD5 mismatch: segments arrive without signature: give 10.1.1.1 the password, or start a BGP speaker there on port 179"},
		{"no password here", "", silent, md5Counters{unexpected: 1}, "likely a TCP MD5 mismatch: signed segments arrive, and 10.1.1.1 is configured without password: set spec.password"},
		{"no answer with a password", "a", silent, md5Counters{}, "no answer from 10.1.1.1 port 179: likely a TCP MD5 mismatch: it has another password, or none; else it is down or filtered"},
		{"no answer without a password", "", silent, md5Counters{wrong: 1}, "no answer from 10.1.1.1 port 179: it is down, filtered, or has a password or TTL security"},
		{"refused is no mismatch", "a", refused, md5Counters{wrong: 1}, "connect to 10.1.1.1: connect: refused"},
		{"nothing dropped", "a", waiting, md5Counters{}, "connecting"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, now := newCauses(), md5Counters{unsigned: 5, unexpected: 5, wrong: 5}
			c.md5 = func() md5Counters { return now }
			p := speaker.Peer{Address: netip.MustParseAddr("10.1.1.1"), Password: tt.password}
			clock := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
			c.now = func() time.Time { return clock }
			c.begin(p.Address)
			clock = clock.Add(settling)
			tt.happened(c, p.Address)
			now.unsigned, now.unexpected, now.wrong = 5+tt.dropped.unsigned, 5+tt.dropped.unexpected, 5+tt.dropped.wrong
			if got := c.explain(p, 64512); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

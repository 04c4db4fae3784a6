package gobgp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"tortie/bgpd/speaker"
)

// causes remembers, per peer, the last thing that kept its session from being
// up. GoBGP tells this to its log only.
type causes struct {
	down atomic.Int64 // sessions that are not up

	// md5 reads the kernel's counters of what TCP MD5 made it drop.
	md5 func() md5Counters

	mu    sync.Mutex
	peers map[netip.Addr]cause
	// since is what they were when a session went down, or was configured.
	since map[netip.Addr]md5Counters
}

// cause is one of: a failed dial, a NOTIFICATION, or an end without one.
type cause struct {
	dial error
	// notification is in words, and sent if it was us who sent it.
	notification string
	sent         bool
	// lost is the state the session was in when it ended, and why in GoBGP's words.
	lost   string
	reason string
}

func newCauses() *causes {
	return &causes{md5: readMD5, peers: map[netip.Addr]cause{}, since: map[netip.Addr]md5Counters{}}
}

func (c *causes) setDown(n int) { c.down.Store(int64(n)) }

func (c *causes) clear(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, addr)
	delete(c.since, addr)
}

// begin notes that a session is down from now on.
func (c *causes) begin(addr netip.Addr) {
	now := c.md5()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since[addr] = now
}

func (c *causes) set(addr netip.Addr, why cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[addr] = why
}

func (c *causes) dialFailed(addr netip.Addr, err error) { c.set(addr, cause{dial: err}) }

func (c *causes) notified(addr netip.Addr, words string, sent bool) {
	c.set(addr, cause{notification: words, sent: sent})
}

// ended notes that a session fell back to Idle, unless a NOTIFICATION has just
// said more.
func (c *causes) ended(addr netip.Addr, from, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peers[addr].notification == "" {
		c.peers[addr] = cause{lost: from, reason: reason}
	}
}

// explain says why the session to p is not up, and where it helps what to do. It
// reads on after the state: "Idle: …".
func (c *causes) explain(p speaker.Peer, asn uint32) string {
	c.mu.Lock()
	why := c.peers[p.Address]
	before, known := c.since[p.Address]
	c.mu.Unlock()
	if p.LocalASN != 0 {
		asn = p.LocalASN
	}
	if known && why.silent() {
		if words := explainMD5(p, before, c.md5()); words != "" {
			return words
		}
	}
	switch {
	case why.dial != nil:
		return explainDial(p, why.dial)
	case why.notification != "" && why.sent:
		return "we sent NOTIFICATION " + why.notification
	case why.notification != "":
		return "the peer sent NOTIFICATION " + why.notification
	case why.lost != "":
		return explainLost(why, p, asn)
	case p.Passive:
		return "waiting for the peer to connect to us"
	}
	return "connecting"
}

// silent: nothing was heard of the peer, as when segments are dropped.
func (c cause) silent() bool {
	switch {
	case c.dial != nil:
		return isTimeout(c.dial)
	case c.notification != "":
		return strings.HasPrefix(c.notification, holdTimerWords())
	}
	return c.lost == "" || c.lost == bgp.BGP_FSM_ESTABLISHED.String()
}

// holdTimerWords begin the cause of a session that heard nothing for the hold time.
func holdTimerWords() string { return notificationWords(bgp.BGP_ERROR_HOLD_TIMER_EXPIRED, 0) }

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func explainDial(p speaker.Peer, err error) string {
	port := portOf(p)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Sprintf("connection refused: no BGP speaker listens on port %d of %s", port, p.Address)
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return fmt.Sprintf("no route to %s", p.Address)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf("local address %s is not on any interface of this node", p.LocalAddress)
	case isTimeout(err) && p.Password != "":
		return fmt.Sprintf("no answer from %s port %d: likely a TCP MD5 mismatch: it has another password, or none; else it is down or filtered", p.Address, port)
	case isTimeout(err):
		return fmt.Sprintf("no answer from %s port %d: it is down, filtered, or has a password", p.Address, port)
	}
	return fmt.Sprintf("connect to %s: %v", p.Address, err)
}

func portOf(p speaker.Peer) uint16 {
	if p.Port == 0 {
		return bgp.BGP_PORT
	}
	return p.Port
}

func explainLost(why cause, p speaker.Peer, asn uint32) string {
	opening := why.lost == bgp.BGP_FSM_OPENSENT.String() || why.lost == bgp.BGP_FSM_OPENCONFIRM.String()
	switch {
	case opening && why.reason == "invalid-msg":
		return fmt.Sprintf("the peer refused our OPEN: check that it expects AS %d from us", asn)
	case opening:
		return fmt.Sprintf("the peer closed the connection before the session was up: "+
			"check that it has a session for %s with AS %d", localName(p), asn)
	case why.reason == restartReason:
		return "connection lost; the peer's routes are kept while it restarts"
	case why.reason == "restart-timer-expired":
		return "the peer did not come back within its restart time"
	case why.reason == "hold-timer-expired":
		return "hold timer expired: nothing was heard from the peer"
	case why.reason == "read-failed", why.reason == "write-failed":
		return "connection lost"
	}
	return "the session ended: " + strings.ReplaceAll(why.reason, "-", " ")
}

func localName(p speaker.Peer) string {
	if p.LocalAddress.IsValid() {
		return p.LocalAddress.String()
	}
	return "our address"
}

package gobgp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"tortie/bgpd/speaker"
)

// causes remembers, per peer, the last thing that kept its session from being
// up. GoBGP tells this to its log only.
type causes struct {
	down     atomic.Int64 // sessions that are not up
	now      func() time.Time
	evidence evidence
	// configured reports whether an address is a peer's; it may be called without mu only.
	configured func(netip.Addr) bool

	mu        sync.Mutex
	peers     map[netip.Addr]cause
	traces    map[netip.Addr]trace
	strangers map[netip.Addr]time.Time // who connected and is no peer, and when
}

// cause is one of: a failed dial, a NOTIFICATION, or an end without one.
type cause struct {
	dial error
	// notification is in words, and sent if it was us who sent it.
	notification  string
	code, subcode uint8
	sent          bool
	// lost is the state the session was in when it ended, and why in GoBGP's words.
	lost   string
	reason string
}

func newCauses() *causes {
	return &causes{
		now: time.Now, evidence: procfs(), configured: func(netip.Addr) bool { return false },
		peers: map[netip.Addr]cause{}, traces: map[netip.Addr]trace{}, strangers: map[netip.Addr]time.Time{},
	}
}

func (c *causes) setDown(n int) { c.down.Store(int64(n)) }

func (c *causes) clear(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, addr)
	delete(c.traces, addr)
	delete(c.strangers, addr)
}

func (c *causes) set(addr netip.Addr, why cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(addr)
	c.peers[addr] = why
}

func (c *causes) dialFailed(addr netip.Addr, err error) { c.set(addr, cause{dial: err}) }

func (c *causes) notified(addr netip.Addr, words string, code, subcode uint8, sent bool) {
	c.set(addr, cause{notification: words, code: code, subcode: subcode, sent: sent})
}

// ended notes that a session fell back to Idle, unless a NOTIFICATION has just
// said more.
func (c *causes) ended(addr netip.Addr, from, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(addr)
	if c.peers[addr].notification == "" {
		c.peers[addr] = cause{lost: from, reason: reason}
	}
}

// explain says why the session to p is not up, and where it helps what to do. It
// reads on after the state: "Idle: …".
func (c *causes) explain(p speaker.Peer, asn uint32) string {
	c.mu.Lock()
	why, seen := c.peers[p.Address], c.traces[p.Address]
	c.mu.Unlock()
	if p.LocalASN != 0 {
		asn = p.LocalASN
	}
	waiting := false
	var words string
	switch {
	case why.dial != nil:
		words, waiting = c.explainDial(p, why.dial, seen)
	case why.notification != "" && why.sent:
		return "we sent NOTIFICATION " + why.notification + adviceSent(why)
	case why.notification != "":
		return "the peer sent NOTIFICATION " + why.notification + adviceReceived(why, p, asn)
	case why.lost != "":
		return explainLost(why, p, asn)
	case p.Passive:
		words, waiting = "waiting for the peer to connect to us"+c.signatures(p, seen), true
	default:
		words = "connecting"
	}
	switch {
	case seen.wrongLocal.IsValid():
		words += fmt.Sprintf("; it connects to our address %s, but its session is with %s: correct the address there or the session's source address here",
			seen.wrongLocal, localName(p))
	case waiting:
		stranger := c.stranger(p.Address)
		if !stranger.IsValid() {
			break
		}
		words += fmt.Sprintf("; meanwhile %s connects to us, which is no peer: is that its address?", stranger)
	}
	return words
}

// explainDial reports besides whether nobody was there: the peer may then be elsewhere.
func (c *causes) explainDial(p speaker.Peer, err error, seen trace) (words string, nobody bool) {
	port := p.Port
	if port == 0 {
		port = bgp.BGP_PORT
	}
	var timeout net.Error
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Sprintf("connection refused: no BGP speaker listens on port %d of %s", port, p.Address), true
	case errors.Is(err, unix.ENETUNREACH):
		return fmt.Sprintf("no route to %s: this node's routing table has none", p.Address), false
	case errors.Is(err, unix.EHOSTUNREACH) && c.evidence.unresolved(p.Address):
		return nobodyThere(p.Address), true
	case errors.Is(err, unix.EHOSTUNREACH):
		return fmt.Sprintf("no route to %s: a router on the way, or a route of this node, says it is unreachable, or nobody has the address on its segment", p.Address), true
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Sprintf("connect to %s: forbidden by a route or a packet filter of this node", p.Address), false
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf("local address %s is not on any interface of this node", p.LocalAddress), false
	case errors.As(err, &timeout) && timeout.Timeout():
		if words := c.signatures(p, seen); words != "" {
			return fmt.Sprintf("no answer from %s port %d", p.Address, port) + words, false
		}
		if c.evidence.unresolved(p.Address) {
			return nobodyThere(p.Address), true
		}
		return fmt.Sprintf("no answer from %s port %d: it is down, filtered, or has another password or TTL security", p.Address, port), true
	}
	return fmt.Sprintf("connect to %s: %v", p.Address, err), false
}

func nobodyThere(a netip.Addr) string {
	return fmt.Sprintf("nobody has the address %s on its segment (no answer to ARP): it is down, or the address is wrong", a)
}

// adviceReceived says what to do about a NOTIFICATION of the peer's.
func adviceReceived(why cause, p speaker.Peer, asn uint32) string {
	switch [2]uint8{why.code, why.subcode} {
	case [2]uint8{2, 2}:
		return fmt.Sprintf("; check that it expects AS %d from us", asn)
	case [2]uint8{2, 3}:
		return "; its router ID may be ours"
	case [2]uint8{4, 0}:
		return "; it heard nothing from us for the hold time: packets are lost between the two, or this node is overloaded"
	case [2]uint8{6, 1}:
		return "; we send it more prefixes than it is set to take"
	case [2]uint8{6, 2}:
		return "; somebody has shut the session down there"
	case [2]uint8{6, 3}:
		return "; it has no session with us any more: configure it there, or delete the peer here"
	case [2]uint8{6, 5}:
		return fmt.Sprintf("; check that it has a session for %s with AS %d", localName(p), asn)
	}
	return ""
}

// adviceSent says more of a NOTIFICATION of ours.
func adviceSent(why cause) string {
	switch {
	case why.code == bgp.BGP_ERROR_HOLD_TIMER_EXPIRED:
		return ": nothing was heard from the peer for the hold time"
	case why.code == 2 && why.subcode == 3:
		return "; its router ID is ours, or 0.0.0.0"
	}
	return ""
}

func explainLost(why cause, p speaker.Peer, asn uint32) string {
	opening := why.lost == bgp.BGP_FSM_OPENSENT.String() || why.lost == bgp.BGP_FSM_OPENCONFIRM.String()
	switch {
	case opening && why.reason == "invalid-msg":
		return fmt.Sprintf("the peer refused our OPEN: check that it expects AS %d from us", asn)
	case opening:
		return fmt.Sprintf("the peer closed the connection before the session was up: "+
			"check that it has a session for %s with AS %d", localName(p), asn)
	case why.reason == "graceful-restart":
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

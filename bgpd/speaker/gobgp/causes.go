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
	// md5 reads the kernel's counters of what TCP MD5 made it drop.
	md5 func() md5Counters

	mu        sync.Mutex
	peers     map[netip.Addr]cause
	strangers map[netip.Addr]time.Time // who connected and is no peer, and when
	// astray are addresses of ours that peers connect to in vain.
	astray map[netip.Addr]netip.Addr
	// since is when a session went down, or was configured.
	since map[netip.Addr]beginning
	// first is why a session ended, be it that it was up or that the peer said no.
	first map[netip.Addr]cause
}

// beginning is when a session began to be down, and what the counters were.
type beginning struct {
	at  time.Time
	md5 md5Counters
}

// settling is for how long an attempt that fails says nothing: the other side may be
// starting, or refuse connections for some seconds after the session was lost, as GoBGP
// (5 s) and BIRD do.
const settling = 10 * time.Second

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
		now: time.Now, evidence: procfs(), configured: func(netip.Addr) bool { return false }, md5: readMD5,
		peers: map[netip.Addr]cause{}, strangers: map[netip.Addr]time.Time{}, astray: map[netip.Addr]netip.Addr{},
		since: map[netip.Addr]beginning{}, first: map[netip.Addr]cause{},
	}
}

func (c *causes) setDown(n int) { c.down.Store(int64(n)) }

func (c *causes) clear(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, addr)
	delete(c.since, addr)
	delete(c.first, addr)
	delete(c.astray, addr)
	delete(c.strangers, addr)
}

// begin notes that a session is down from now on.
func (c *causes) begin(addr netip.Addr) {
	now := c.md5()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since[addr] = beginning{c.now(), now}
}

func (c *causes) set(addr netip.Addr, why cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(addr, why)
}

// note is called with mu held.
func (c *causes) note(addr netip.Addr, why cause) {
	c.peers[addr] = why
	if _, known := c.first[addr]; !known && why.dial == nil && !why.passing() {
		c.first[addr] = why
	}
}

// passing: what failed may go well in a moment, without anybody's doing.
func (c cause) passing() bool {
	switch {
	case c.dial != nil:
		return errors.Is(c.dial, unix.ECONNREFUSED) || errors.Is(c.dial, unix.ECONNRESET)
	case c.notification != "":
		// Connection rejected, and collision resolution.
		return !c.sent && c.code == bgp.BGP_ERROR_CEASE &&
			(c.subcode == bgp.BGP_ERROR_SUB_CONNECTION_REJECTED || c.subcode == bgp.BGP_ERROR_SUB_CONNECTION_COLLISION_RESOLUTION)
	}
	return c.lost == bgp.BGP_FSM_OPENSENT.String() || c.lost == bgp.BGP_FSM_OPENCONFIRM.String()
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
	if c.peers[addr].notification == "" {
		c.note(addr, cause{lost: from, reason: reason})
	}
}

// explain says why the session to p is not up, and where it helps what to do. It
// reads on after the state: "Idle: …".
func (c *causes) explain(p speaker.Peer, asn uint32) string {
	c.mu.Lock()
	why, astray := c.peers[p.Address], c.astray[p.Address]
	before, known := c.since[p.Address]
	first, ended := c.first[p.Address]
	c.mu.Unlock()
	fresh := known && c.now().Sub(before.at) < settling
	switch {
	case !fresh:
	case why.passing() && ended:
		why = first
	case why.passing():
		return "still connecting"
	}
	if p.LocalASN != 0 {
		asn = p.LocalASN
	}
	// The counters are the whole host's: of one without password that we don't even dial
	// there is no sign that it is up at all.
	if known && !fresh && why.silent() && (p.Password != "" || why.dial != nil) {
		if words := explainMD5(p, before.md5, c.md5()); words != "" {
			return words
		}
	}
	waiting := false
	var words string
	switch {
	case why.dial != nil:
		words, waiting = c.explainDial(p, why.dial)
	case why.notification != "" && why.sent:
		return "we sent NOTIFICATION " + why.notification + adviceSent(why)
	case why.notification != "":
		return "the peer sent NOTIFICATION " + why.notification + adviceReceived(why, p, asn)
	case why.lost != "":
		return explainLost(why, p, asn)
	case p.Passive:
		words, waiting = "waiting for the peer to connect to us", true
	default:
		words = "connecting"
	}
	switch {
	case astray.IsValid():
		words += fmt.Sprintf("; it connects to our address %s, but its session is with %s: correct the address there or the session's source address here",
			astray, localName(p))
	case waiting && !fresh:
		stranger := c.stranger(p.Address)
		if !stranger.IsValid() {
			break
		}
		words += fmt.Sprintf("; meanwhile %s connects to us, which is no peer: is that its address?", stranger)
	}
	return words
}

// silent: nothing was heard of the peer, as when segments are dropped.
func (c cause) silent() bool {
	switch {
	case c.dial != nil:
		return isTimeout(c.dial)
	case c.notification != "":
		return c.code == bgp.BGP_ERROR_HOLD_TIMER_EXPIRED
	}
	return c.lost == "" || c.lost == bgp.BGP_FSM_ESTABLISHED.String()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func portOf(p speaker.Peer) uint16 {
	if p.Port == 0 {
		return bgp.BGP_PORT
	}
	return p.Port
}

// explainDial reports besides whether nobody was there: the peer may then be elsewhere.
func (c *causes) explainDial(p speaker.Peer, err error) (words string, nobody bool) {
	port := portOf(p)
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
	case isTimeout(err) && c.evidence.unresolved(p.Address):
		return nobodyThere(p.Address), true
	case isTimeout(err) && p.Password != "":
		return fmt.Sprintf("no answer from %s port %d: likely a TCP MD5 mismatch: it has another password, or none; else it is down or filtered", p.Address, port), true
	case isTimeout(err):
		return fmt.Sprintf("no answer from %s port %d: it is down, filtered, or has a password or TTL security", p.Address, port), true
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

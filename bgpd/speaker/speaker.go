// Package speaker is bgpd's vocabulary of BGP (RFC 4271): what a speaker is told
// to be, what it has learned and in which state its sessions are. It knows no
// BGP library; the packages below it implement the Speaker interface with one.
package speaker

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Speaker is one BGP speaker. All methods are safe for concurrent use.
type Speaker interface {
	// Apply makes the speaker what d says: the difference to what was applied
	// before is found inside. Exports are published before peers are added, so
	// that the first thing a peer hears is complete. A peer that can't be
	// configured is reported in the error and doesn't keep the others from it.
	Apply(ctx context.Context, d Desired) error
	// Reset ends the session with a peer and begins it anew. What the peer has announced
	// is gone at once, as when it had no graceful restart.
	Reset(ctx context.Context, peer netip.Addr) error
	// Changed is readable when Take has something to give.
	Changed() <-chan struct{}
	// Take returns, and forgets, what changed since the last call. What is
	// waiting is bounded by the number of prefixes and peers, never by the
	// number of events.
	Take() Changes
	// Peers are all configured peers, sorted by address.
	Peers(ctx context.Context) ([]PeerState, error)
	// Routes are all paths of the Loc-RIB (RFC 4271 section 3.2), our own
	// included, best first per prefix; of one prefix when it is valid.
	Routes(ctx context.Context, prefix netip.Prefix) ([]Path, error)
	// AdjIn are the paths that a peer has sent, before any filter (Adj-RIB-In), AdjOut
	// those it is sent, as they are sent (Adj-RIB-Out); of one prefix when it is valid.
	AdjIn(ctx context.Context, peer netip.Addr, prefix netip.Prefix) ([]Path, error)
	AdjOut(ctx context.Context, peer netip.Addr, prefix netip.Prefix) ([]Path, error)
	// Close ends the speaker for good: sessions get a NOTIFICATION and peers drop
	// our routes. A speaker that will be back must not be closed: when the
	// process just ends, peers see the connection close and keep our routes as
	// RFC 4724 says.
	Close() error
}

// Desired is everything a speaker is told.
type Desired struct {
	Global  Global
	Peers   []Peer   // no two with the same address
	Exports []Export // no two with the same prefix
	// Shutdown has peers asked to prefer other ways (GRACEFUL_SHUTDOWN, RFC 8326). It is
	// carried out on the sessions as they are.
	Shutdown bool
	// Filters are those of peers that have one. A change is carried out on the session
	// as it is: what is no longer accepted is withdrawn, the rest sent or taken anew.
	Filters map[netip.Addr]Filter
	// Links are the subnets of the host's devices, by which a rule's Interface is known.
	Links []Link
}

// Link is a subnet that a device has an address in.
type Link struct {
	Name   string
	Subnet netip.Prefix
}

// Global is the speaker itself. Changing any of it resets all sessions.
type Global struct {
	ASN uint32
	// RouterID is the BGP identifier, in the form of an IPv4 address.
	RouterID netip.Addr
	// Listen are the addresses to accept connections on; an unspecified address
	// (0.0.0.0 or ::) stands for all of its family.
	Listen []netip.Addr
	Port   uint16
	// Transit makes the speaker advertise what it has learned, as a router or a
	// route reflector does. A node without it advertises its exports only: it
	// must never draw traffic for prefixes of others.
	Transit bool
	// Segments are the subnets that the speaker has an address in; they count with
	// Transit. What an external peer on a segment is told keeps a next hop on a segment
	// (RFC 4271 section 5.1.3): packets go there straight, also when we are gone.
	Segments []netip.Prefix
}

// Peer is one configured session. It carries the unicast routes of the family
// of its address. The address is the peer's identity.
type Peer struct {
	Address netip.Addr
	Port    uint16 // 0 means 179
	ASN     uint32
	// LocalASN is the AS number used towards this peer; 0 means the speaker's.
	LocalASN uint32
	// LocalAddress is the source of the session and the next hop of our exports;
	// invalid lets the kernel choose.
	LocalAddress netip.Addr
	// Password is that of the TCP MD5 signatures (RFC 2385); empty for none.
	Password Password
	// Passive waits for the peer to connect.
	Passive bool
	// Multihop allows an external peer that is not directly connected.
	Multihop bool
	// TTLSecurity is the greatest number of hops to the peer (RFC 5082); 0 is off.
	TTLSecurity uint8
	// AllowOwnASN is how often our own AS number may stand in a received AS path.
	AllowOwnASN uint8
	// ReflectorClient makes the peer our client (RFC 4456).
	ReflectorClient bool
	// ClusterID is ours as a reflector: what has been through that cluster is refused.
	ClusterID netip.Addr
	// NextHop is what the peer is told as next hop of what the speaker passes on.
	NextHop NextHopMode
	// RestartTime is how long the peer is asked to keep our routes after the
	// session is lost (RFC 4724); 0 turns graceful restart off.
	RestartTime time.Duration
	// LongLived is how long the peer is asked to keep our routes after that, as the last
	// choice, and the longest its routes are kept so (RFC 9494); 0 turns that off.
	LongLived time.Duration
	// AddPath lets the peer send several paths to a prefix (RFC 7911).
	AddPath bool
	// HoldTime is what is offered to the peer, KeepaliveTime how often it hears of us at
	// least, ConnectRetry the least time between attempts to connect; 0 is the default.
	HoldTime, KeepaliveTime, ConnectRetry time.Duration
}

// SameSession reports whether a session to p can go on as one to q.
func (p Peer) SameSession(q Peer) bool {
	p.NextHop = q.NextHop
	return p == q
}

// NextHopMode is a rule for next hops.
type NextHopMode uint8

// The rules. Of an export of its own the speaker is always the next hop.
const (
	// NextHopAuto: an internal peer is told the next hop as it was learned, an external
	// one the speaker itself, or what is on a segment that it is on too.
	NextHopAuto NextHopMode = iota
	// NextHopSelf: the speaker.
	NextHopSelf
	// NextHopKeep: as it was learned.
	NextHopKeep
)

// String is the mode as a BGPPeer has it, in lower case.
func (m NextHopMode) String() string {
	switch m {
	case NextHopSelf:
		return "self"
	case NextHopKeep:
		return "keep"
	}
	return "auto"
}

// MaxPassword is how many bytes of a password the kernel takes.
const MaxPassword = 80

// Password is a TCP MD5 password. It stays out of logs and messages: printed, it
// is a placeholder.
type Password string

// String implements fmt.Stringer.
func (p Password) String() string {
	if p == "" {
		return ""
	}
	return "(secret)"
}

// GoString implements fmt.GoStringer.
func (p Password) GoString() string { return p.String() }

// Export is a prefix the speaker originates. Its next hop is the local address
// of each session.
type Export struct {
	Prefix netip.Prefix
	// Communities are what it carries, in order and none twice.
	Communities []Community
}

// OwnPreference is the local preference of what a speaker originates: that of upstream's
// nodes (v3.32: 2³¹-1 less the priority, 1024). With less, what one of those announces besides
// us, as a range of services, would be better here than our own, which would go unsaid.
const OwnPreference = 1<<31 - 1 - 1024

// Path is one way to a prefix.
type Path struct {
	Prefix  netip.Prefix
	NextHop netip.Addr // unspecified for our own
	// Peer is the address of the peer it was learned from; invalid for our own.
	Peer    netip.Addr
	PeerASN uint32
	// ID tells apart the paths to a prefix that one peer sends (RFC 7911).
	ID     uint32
	ASPath []uint32
	// ASSetExtra is by how much ASPath is longer than the path counts: all of an AS_SET
	// counts as one.
	ASSetExtra int
	LocalPref  uint32
	MED        uint32
	Origin     Origin
	// PeerID is the router ID of the peer; invalid for our own.
	PeerID netip.Addr
	// Communities are standard and large ones, in the order of the attributes.
	Communities []Community
	Best        bool
	// Stale: kept while the peer restarts (RFC 4724).
	Stale   bool
	Learned time.Time
	// Equals are the further paths that are as good, the best one's alone (ECMP). They
	// are told by Changes; Routes gives every path by itself.
	Equals []Path
}

// Origin says how the originator of a path came to it (RFC 4271 section 5.1.1).
type Origin uint8

// The origins, the better first.
const (
	IGP Origin = iota
	EGP
	Incomplete
)

// String is the origin as operators call it.
func (o Origin) String() string {
	switch o {
	case IGP:
		return "IGP"
	case EGP:
		return "EGP"
	}
	return "incomplete"
}

// LongLived reports that the path is kept for a peer that has long been away, here or by
// who sent it: it is the last choice (RFC 9494).
func (p Path) LongLived() bool { return slices.Contains(p.Communities, LongLivedStale()) }

// Local reports whether the path is one of our exports.
func (p Path) Local() bool { return !p.Peer.IsValid() }

// Changes is what happened to the best paths and the sessions. A caller handles
// Best before Peers: a peer's End-of-RIB stands for paths that are in the same
// or an earlier Changes.
type Changes struct {
	// Best has the present best path of every prefix whose best path changed;
	// nil means the prefix is gone. Our own exports are not among them. Prefixes of which
	// nothing else differs share a path, whose Prefix then says nothing: it is read only.
	Best map[netip.Prefix]*Path
	// Peers has the present state of every peer whose session changed.
	Peers map[netip.Addr]Session
	// Lost are peers whose session was lost, and not for a restart. It is told at once,
	// before what Best and Peers will say of it: where Peers has the session as up, that
	// is from before. One that is up again is not among them.
	Lost map[netip.Addr]bool
}

// Empty reports whether there is nothing in it.
func (c Changes) Empty() bool { return len(c.Best) == 0 && len(c.Peers) == 0 && len(c.Lost) == 0 }

// Session is what the routes of a peer can be trusted for.
type Session struct {
	Established bool
	// EndOfRIB: the peer has sent everything it had (RFC 4724 section 2).
	EndOfRIB bool
	// Graceful: the peer restarts gracefully, and so will send End-of-RIB.
	Graceful bool
	// Removed: the peer is no longer configured.
	Removed bool
	// Restarting: the session was lost in a way that lets the peer's routes be
	// kept, until End-of-RIB on a new session, for RestartTime at most. The speaker
	// may withdraw them earlier all the same; whoever forwards by them decides.
	Restarting  bool
	RestartTime time.Duration
}

// State is a state of the session's state machine (RFC 4271 section 8.2.2).
type State string

// The states of a session.
const (
	Idle        State = "Idle"
	Connect     State = "Connect"
	Active      State = "Active"
	OpenSent    State = "OpenSent"
	OpenConfirm State = "OpenConfirm"
	Established State = "Established"
)

// PeerState is a configured peer and its session.
type PeerState struct {
	Peer  Peer
	State State
	// Since is when State was entered.
	Since time.Time
	// Info says in words why the session is not up, and what is wrong with what the peer
	// sends; empty when all is well.
	Info string
	// Received and Advertised count prefixes.
	Received, Advertised uint64
	// UpdatesIn and UpdatesOut count UPDATE messages since the peer was configured.
	UpdatesIn, UpdatesOut uint64
	// GracefulRestart, LongLived (RFC 9494) and AddPath (RFC 7911): both sides have it.
	GracefulRestart, LongLived, AddPath bool
	// HoldTime and KeepaliveTime are those agreed upon; 0 while the session is not up.
	HoldTime, KeepaliveTime time.Duration
	// EndOfRIB: the peer has sent everything it had.
	EndOfRIB bool
}

// Package bfd is Bidirectional Forwarding Detection, asynchronous mode without
// authentication and echo (RFC 5880): the packets, and the state machine of one
// session. It is pure: packets and the time come in, packets and the time of the
// next step come out. Package server has the sockets.
package bfd

import "time"

// slow is the least Desired Min TX Interval of a session that isn't up (RFC 5880
// section 6.8.3).
const slow = time.Second

// Timers is what a session is asked to do.
type Timers struct {
	// Transmit and Receive are the intervals we would like to send at, and want to be
	// sent to at most: the greater of the two systems' counts for each direction.
	Transmit, Receive time.Duration
	// Multiplier is how many of our packets may be lost in a row.
	Multiplier uint8
}

// intervals are the two that a packet announces.
type intervals struct{ tx, rx time.Duration }

// peer is what the other system last said.
type peer struct {
	discriminator       uint32
	state               State
	diag                Diag
	minTx, minRx        time.Duration
	multiplier          uint8
	demand, independent bool
}

// unheard is a peer of which nothing is known (RFC 5880 section 6.8.1).
func unheard() peer { return peer{state: Down, minRx: time.Microsecond} }

// Session is one session's state machine.
type Session struct {
	timers        Timers
	random        func() float64
	discriminator uint32

	state    State
	diag     Diag
	since    time.Time
	failures uint64

	peer  peer
	heard time.Time // the last packet's; zero when the peer was silent for a detection time

	// said is what our packets announce, used what we go by. They differ while a peer
	// that hasn't confirmed a change could suffer by it.
	said, used intervals
	poll       bool // a Poll Sequence is running
	// again: said changed while no new Poll Sequence could begin.
	again bool
	// answered says that since the last Final no packet without the bit was received, so a new
	// Poll Sequence's Final could not be told from the last one's.
	answered bool

	sent   time.Time // the last packet of the schedule
	spread float64   // of the interval after it
	last   Packet    // as last sent, but for the P and F bits
}

// NewSession makes a session in state Down that sends at once. The discriminator
// is unique on this system and not 0; random gives numbers in [0, 1).
func NewSession(t Timers, discriminator uint32, random func() float64, now time.Time) *Session {
	i := intervals{tx: max(t.Transmit, slow), rx: t.Receive}
	return &Session{
		timers: t, discriminator: discriminator, random: random, state: Down, since: now,
		peer: unheard(), said: i, used: i,
	}
}

// SetTimers changes what the session is asked to do.
func (s *Session) SetTimers(t Timers) {
	s.timers = t
	s.announce()
}

// Stop makes the session say that it is administratively down: to the peer that is
// no failure. It goes on sending.
func (s *Session) Stop(now time.Time) { s.enter(AdminDown, DiagAdminDown, now) }

// Start ends what Stop began.
func (s *Session) Start(now time.Time) {
	if s.state == AdminDown {
		s.enter(Down, DiagNone, now)
	}
}

// Receive takes a packet that Parse let pass and that belongs to the session, and
// returns a packet to send at once, if any.
func (s *Session) Receive(p Packet, now time.Time) (Packet, bool) {
	s.heard = now
	s.peer = peer{
		discriminator: p.My, state: p.State, diag: p.Diag, minTx: p.DesiredMinTx, minRx: p.RequiredMinRx,
		multiplier: p.Multiplier, demand: p.Demand, independent: p.Independent,
	}
	s.polled(p)
	if s.state == AdminDown {
		return Packet{}, false
	}
	s.follow(p.State, now)
	if p.Poll {
		out := s.packet()
		s.last = out
		out.Final = true
		return out, true
	}
	return s.news(now)
}

// follow is the state machine of RFC 5880 section 6.2.
func (s *Session) follow(remote State, now time.Time) {
	switch {
	case remote == AdminDown:
		if s.state != Down {
			s.enter(Down, DiagNeighborDown, now)
		}
	case s.state == Down && remote == Down:
		s.enter(Init, DiagNone, now)
	case s.state == Down && remote == Init, s.state == Init && remote != Down:
		s.enter(Up, DiagNone, now)
	case s.state == Up && remote == Down:
		s.enter(Down, DiagNeighborDown, now)
	}
}

// Advance does what time alone brings about, and returns a packet to send, if any.
// Whoever calls it has given every packet to Receive that came before now, and may
// have given later ones.
func (s *Session) Advance(now time.Time) (Packet, bool) {
	if at := s.expiry(); !at.IsZero() && !now.Before(at) {
		if s.state == Init || s.state == Up {
			s.enter(Down, DiagExpired, now)
		}
		s.heard, s.peer = time.Time{}, unheard()
	}
	if at := s.due(); !at.IsZero() && !now.Before(at) {
		return s.send(now), true
	}
	return s.news(now)
}

// Next is when Advance has something to do; the zero time for never.
func (s *Session) Next() time.Time {
	at, due := s.expiry(), s.due()
	if at.IsZero() || !due.IsZero() && due.Before(at) {
		return due
	}
	return at
}

func (s *Session) enter(state State, diag Diag, now time.Time) {
	if state == s.state {
		return
	}
	// What the other side's operator did, or ours, is no failure of the path (RFC 5882
	// section 3.2).
	if s.state == Up && state == Down && s.peer.state != AdminDown {
		s.failures++
	}
	s.state, s.diag, s.since = state, diag, now
	s.announce()
}

// announce makes our packets say what timers and state ask for (RFC 5880 section
// 6.8.3).
func (s *Session) announce() {
	want := intervals{tx: s.timers.Transmit, rx: s.timers.Receive}
	if s.state != Up {
		want.tx = max(want.tx, slow)
	}
	if want == s.said {
		return
	}
	s.said = want
	if s.state == Up {
		want = intervals{tx: min(s.used.tx, want.tx), rx: max(s.used.rx, want.rx)}
	}
	s.used = want
	if s.poll || s.answered {
		s.again = true
		return
	}
	s.poll = true
}

// polled ends our Poll Sequence when the peer has answered it.
func (s *Session) polled(p Packet) {
	switch {
	case p.Final && s.poll:
		s.poll, s.answered = false, true
		if !s.again {
			s.used = s.said
		}
	case !p.Final && s.answered:
		s.answered = false
		s.poll, s.again = s.again, false
	}
}

// send makes the packet of the schedule.
func (s *Session) send(now time.Time) Packet {
	p := s.packet()
	s.last, s.sent, s.spread = p, now, s.random()
	p.Poll = s.poll
	return p
}

// news is a packet that tells at once what has changed since the last, if anything.
func (s *Session) news(now time.Time) (Packet, bool) {
	if s.sent.IsZero() || s.packet() == s.last {
		return Packet{}, false
	}
	return s.send(now), true
}

func (s *Session) packet() Packet {
	return Packet{
		State: s.state, Diag: s.diag, Multiplier: s.timers.Multiplier, My: s.discriminator, Your: s.peer.discriminator,
		DesiredMinTx: s.said.tx, RequiredMinRx: s.said.rx,
	}
}

// due is when the next packet of the schedule is to be sent; zero for never.
func (s *Session) due() time.Time {
	resting := s.peer.demand && s.state == Up && s.peer.state == Up && !s.poll // Demand mode is active there
	if s.peer.minRx == 0 || resting {
		return time.Time{}
	}
	// With a multiplier of 1 a packet must come well before the detection time ends.
	share := 1 - 0.25*s.spread
	if s.timers.Multiplier == 1 {
		share = 0.9 - 0.15*s.spread
	}
	return s.sent.Add(time.Duration(float64(s.interval()) * share))
}

func (s *Session) interval() time.Duration { return max(s.used.tx, s.peer.minRx) }

// expiry is when the detection time is over; zero when nothing is awaited.
func (s *Session) expiry() time.Time {
	if s.heard.IsZero() {
		return time.Time{}
	}
	return s.heard.Add(s.detection())
}

func (s *Session) detection() time.Duration {
	return time.Duration(s.peer.multiplier) * max(s.used.rx, s.peer.minTx)
}

// Linger is how long a stopped session goes on sending, so that the peer knows.
func (s *Session) Linger() time.Duration { return time.Duration(s.timers.Multiplier) * s.interval() }

// Status is a session as others see it.
type Status struct {
	State State
	Since time.Time
	Diag  Diag
	// Peer, PeerDiag and Independent are what the peer last said: its state, why, and
	// whether its BFD outlives its control plane (the C bit).
	Peer        State
	PeerDiag    Diag
	Independent bool
	// Failures counts how often the session went down from Up by a failure.
	Failures uint64
	// Transmit is the interval we send at, before jitter; Detection how long the
	// silence lasts that is a failure, 0 when the peer is not heard.
	Transmit, Detection time.Duration
	// Multiplier is the peer's.
	Multiplier uint8
	// Problem is why packets can't be sent; empty when they can.
	Problem string
	// Discarded is why the neighbour's last packet counted for nothing; 0 when it counted.
	Discarded Discard
}

// Status tells the state.
func (s *Session) Status() Status {
	return Status{
		State: s.state, Since: s.since, Diag: s.diag, Peer: s.peer.state, PeerDiag: s.peer.diag, Independent: s.peer.independent,
		Failures: s.failures, Transmit: s.interval(), Detection: s.detection(), Multiplier: s.peer.multiplier,
	}
}

// Package server runs the BFD sessions of a node over UDP (RFC 5881): to neighbours
// on one link, with a TTL that shows it (RFC 5082), IPv4 and IPv6.
package server

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tortie/bgpd/bfd"
)

const (
	// retry is how soon sockets that couldn't be opened are tried again.
	retry = time.Second
	// burst bounds how many packets are read between two looks at the clock.
	burst = 4096
	// niceness of the thread: a late packet is a failure to the peer.
	niceness = -10
)

// Peer is a session that is wanted.
type Peer struct {
	// Address is the neighbour's, and the session's identity.
	Address netip.Addr
	// Local is what to send from; invalid lets the kernel choose.
	Local netip.Addr
	// Link is the index of the link that the neighbour is on.
	Link   int
	Timers bfd.Timers
}

// Server runs sessions. Its methods are safe for concurrent use.
type Server struct {
	log     *slog.Logger
	changed chan struct{} // one slot

	mu       sync.Mutex
	wake     int // an eventfd, -1 when Run is not running
	wanted   map[netip.Addr]Peer
	news     bool // wanted was set since Run looked
	status   map[netip.Addr]bfd.Status
	discards [bfd.Discards]uint64
	problem  string

	// The rest is Run's alone.
	sessions map[netip.Addr]*session
	byNumber map[uint32]*session
	agenda   agenda
	touched  []*session   // whose status may be another than published
	sockets  map[bool]int // by "is IPv6"
	failedAt time.Time    // when sockets could last not be opened
	buf      [largestPacket]byte
	control  [256]byte
}

// session is one that runs, or that says that it ends.
type session struct {
	*bfd.Session
	peer    Peer
	number  uint32
	fd      int
	problem string // why the last packet wasn't sent
	discard bfd.Discard
	until   time.Time // when it ends; zero while it is wanted
	at      time.Time // when something has to be done
	index   int       // in the agenda
}

// New makes a server without sessions.
func New(log *slog.Logger) *Server {
	return &Server{
		log: log, changed: make(chan struct{}, 1), wake: -1,
		wanted: map[netip.Addr]Peer{}, status: map[netip.Addr]bfd.Status{},
		sessions: map[netip.Addr]*session{}, byNumber: map[uint32]*session{}, sockets: map[bool]int{},
	}
}

// Set says which sessions there have to be. One that is no longer wanted tells its
// peer that this is no failure.
func (s *Server) Set(peers []Peer) {
	wanted := make(map[netip.Addr]Peer, len(peers))
	for _, p := range peers {
		wanted[p.Address] = p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if maps.Equal(wanted, s.wanted) {
		return
	}
	s.wanted, s.news = wanted, true
	s.rouse()
}

// rouse makes Run look; mu is held.
func (s *Server) rouse() {
	if s.wake >= 0 {
		_, _ = unix.Write(s.wake, binary.NativeEndian.AppendUint64(nil, 1)) // fails only when a wake-up waits already
	}
}

// Changed is readable when a session's state has changed.
func (s *Server) Changed() <-chan struct{} { return s.changed }

// Status tells the state of every wanted session that has begun.
func (s *Server) Status() map[netip.Addr]bfd.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.status)
}

// Discarded counts packets that were received and not used, by reason.
func (s *Server) Discarded() map[bfd.Discard]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[bfd.Discard]uint64{}
	for d, n := range s.discards {
		if n > 0 {
			out[bfd.Discard(d)] = n
		}
	}
	return out
}

// Problem says why sessions can't run; empty when they can.
func (s *Server) Problem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// Run runs the sessions until ctx is done, and then tells every peer that the end
// is no failure. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	// The thread is never given back: it ends with this goroutine.
	runtime.LockOSThread()
	// Without CAP_SYS_NICE it runs as the others do.
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("run BFD: eventfd: %w", err)
	}
	s.mu.Lock()
	s.wake = wake
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rouse()
	})
	defer s.close(stop)
	for ctx.Err() == nil {
		// What came while this thread was late is no silence: no session is told a time
		// before all that came until then has been read.
		now := time.Now()
		for _, fd := range s.sockets {
			s.read(fd)
		}
		s.reconcile(now)
		for at := s.agenda.next(); !at.IsZero() && !now.Before(at); at = s.agenda.next() {
			s.advance(s.agenda[0], now)
		}
		s.publish()
		if err := s.wait(); err != nil {
			return err
		}
	}
	for _, r := range s.sessions {
		r.Stop(time.Now())
		s.advance(r, time.Now())
	}
	return nil
}

func (s *Server) close(stop func() bool) {
	stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	unix.Close(s.wake)
	s.wake = -1
	for _, fd := range s.sockets {
		unix.Close(fd)
	}
	for _, r := range s.sessions {
		unix.Close(r.fd)
	}
}

// wait returns when something has to be done, or when there is something to read.
func (s *Server) wait() error {
	fds := []unix.PollFd{{Fd: int32(s.wake), Events: unix.POLLIN}}
	for _, fd := range s.sockets {
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	at := s.agenda.next()
	if !s.failedAt.IsZero() {
		at = earlier(at, s.failedAt.Add(retry))
	}
	var timeout *unix.Timespec
	if !at.IsZero() {
		t := unix.NsecToTimespec(int64(max(time.Until(at), 0)))
		timeout = &t
	}
	if _, err := unix.Ppoll(fds, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("run BFD: poll: %w", err)
	}
	if fds[0].Revents != 0 {
		var seen [8]byte
		_, _ = unix.Read(s.wake, seen[:]) // it only has to be empty
	}
	return nil
}

// earlier is the earlier of two times, of which the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// reconcile makes the sessions those that are wanted.
func (s *Server) reconcile(now time.Time) {
	s.mu.Lock()
	wanted := s.wanted
	again := s.news || !s.failedAt.IsZero() && !now.Before(s.failedAt.Add(retry))
	s.news = false
	s.mu.Unlock()
	if !again {
		return
	}
	for address, r := range s.sessions {
		if _, still := wanted[address]; !still && r.until.IsZero() {
			r.Stop(now)
			r.until = now.Add(r.Linger())
			s.advance(r, now)
		}
	}
	var errs []error
	for address, p := range wanted {
		errs = append(errs, s.set(address, p, now))
	}
	s.report(errors.Join(errs...), now)
}

// set makes one session what it has to be.
func (s *Server) set(address netip.Addr, p Peer, now time.Time) error {
	if r := s.sessions[address]; r != nil {
		if r.peer.Local == p.Local && r.peer.Link == p.Link {
			r.peer, r.until = p, time.Time{}
			r.Start(now)
			r.SetTimers(p.Timers)
			s.advance(r, now)
			return nil
		}
		s.drop(r)
	}
	v6 := address.Is6()
	if _, ok := s.sockets[v6]; !ok {
		fd, err := listen(v6)
		if err != nil {
			return err
		}
		s.sockets[v6] = fd
	}
	fd, err := source(p.Local, v6)
	if err != nil {
		return err
	}
	r := &session{peer: p, fd: fd, number: s.number()}
	r.Session = bfd.NewSession(p.Timers, r.number, rand.Float64, now)
	s.sessions[address], s.byNumber[r.number] = r, r
	heap.Push(&s.agenda, r)
	s.advance(r, now)
	return nil
}

// number is a discriminator that no session has (RFC 5880 section 6.8.1).
func (s *Server) number() uint32 {
	for {
		if n := rand.Uint32(); n != 0 && s.byNumber[n] == nil {
			return n
		}
	}
}

// drop forgets a session, and gives the port of its family back if it was the last.
func (s *Server) drop(r *session) {
	unix.Close(r.fd)
	v6 := r.peer.Address.Is6()
	delete(s.sessions, r.peer.Address)
	delete(s.byNumber, r.number)
	heap.Remove(&s.agenda, r.index)
	s.touched = append(s.touched, r)
	for address := range s.sessions {
		if address.Is6() == v6 {
			return
		}
	}
	unix.Close(s.sockets[v6])
	delete(s.sockets, v6)
}

// report tells once why sessions can't run.
func (s *Server) report(err error, now time.Time) {
	problem := ""
	s.failedAt = time.Time{}
	if err != nil {
		problem, s.failedAt = err.Error(), now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if problem != "" && problem != s.problem {
		s.log.Error("BFD sessions can't run, trying again", "err", err)
	}
	s.problem = problem
}

// advance tells a session the time, and ends it when its peer knows of its end.
func (s *Server) advance(r *session, now time.Time) {
	if !r.until.IsZero() && !now.Before(r.until) {
		s.drop(r)
		return
	}
	if p, ok := r.Advance(now); ok {
		s.transmit(r, p)
	}
	s.touch(r)
}

// touch is called after whatever changes a session.
func (s *Server) touch(r *session) {
	r.at = earlier(r.Next(), r.until)
	heap.Fix(&s.agenda, r.index)
	s.touched = append(s.touched, r)
}

func (s *Server) transmit(r *session, p bfd.Packet) {
	r.problem = ""
	if err := transmit(r.fd, r.peer, p.Append(nil)); err != nil {
		r.problem = err.Error()
	}
}

// read takes what has come.
func (s *Server) read(fd int) {
	for range burst {
		d, err := receive(fd, s.buf[:], s.control[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			continue // an error of an earlier packet, told once
		}
		if why := s.packet(d, time.Now()); why != 0 {
			s.discard(d.from, why)
		}
	}
}

// discard counts a packet that counts for nothing.
func (s *Server) discard(from netip.Addr, why bfd.Discard) {
	s.mu.Lock()
	s.discards[why]++
	s.mu.Unlock()
	if r := s.sessions[from]; r != nil {
		r.discard = why
		s.touch(r)
	}
}

// packet gives a datagram to its session, or says why it counts for nothing.
func (s *Server) packet(d received, now time.Time) bfd.Discard {
	if d.ttl != requiredTTL {
		return bfd.DiscardTTL
	}
	p, why := bfd.Parse(d.data)
	if why != 0 {
		return why
	}
	r := s.byNumber[p.Your]
	if p.Your == 0 {
		r = s.sessions[d.from]
	}
	switch {
	case r == nil:
		return bfd.DiscardNoSession
	case r.peer.Link != d.link:
		return bfd.DiscardLink
	}
	r.discard = 0
	if out, ok := r.Receive(p, now); ok {
		s.transmit(r, out)
	}
	s.touch(r)
	return 0
}

// publish makes the states of those sessions known that were touched.
func (s *Server) publish() {
	news := false
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.touched {
		address := r.peer.Address
		st := r.Status()
		st.Problem, st.Discarded = r.problem, r.discard
		switch old, told := s.status[address]; {
		case s.sessions[address] != nil && s.sessions[address] != r: // another has taken its place
		case s.sessions[address] == nil || !r.until.IsZero():
			delete(s.status, address)
			news = news || told
		case !told || old != st:
			s.status[address] = st
			news = true
		}
	}
	s.touched = s.touched[:0]
	if !news {
		return
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

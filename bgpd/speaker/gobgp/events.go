package gobgp

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"tortie/bgpd/speaker"
)

// events turns GoBGP's watch into Changes. The watch buffers without bound when
// its callback is slow, so the callback only merges what it gets into maps.
type events struct {
	now     func() time.Time
	causes  *causes
	up      func(netip.Addr) // told of a session that has come up
	changed chan struct{}    // one slot: "pending is not empty"

	decoder decoder    // of the watch's goroutine
	read    []bestPath // likewise: the room for what it reads

	mu       sync.Mutex
	pending  speaker.Changes
	sessions map[netip.Addr]session // of the configured peers
}

type session struct {
	speaker.Session
	state speaker.State
	since time.Time
	lost  bool // told by lost, and not up again since
	// fresh: the peer was added, and has not been up since. What the watch still has to
	// say may be of one with the same address that was removed before.
	fresh bool
}

func newEvents(now func() time.Time, c *causes) *events {
	return &events{
		now: now, causes: c, up: func(netip.Addr) {},
		changed:  make(chan struct{}, 1),
		pending:  noChanges(),
		sessions: map[netip.Addr]session{},
	}
}

func noChanges() speaker.Changes {
	return speaker.Changes{
		Best: map[netip.Prefix]*speaker.Path{}, Peers: map[netip.Addr]speaker.Session{}, Lost: map[netip.Addr]bool{},
	}
}

// Changed implements speaker.Speaker.
func (s *Speaker) Changed() <-chan struct{} { return s.events.changed }

// Take implements speaker.Speaker.
func (s *Speaker) Take() speaker.Changes {
	e := s.events
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.pending
	e.pending = noChanges()
	if n := min(len(out.Best), roomAhead); n > 1 {
		e.pending.Best = make(map[netip.Prefix]*speaker.Path, n) // as many again, mostly
	}
	return out
}

// roomAhead bounds the room that is made for changes before there are any.
const roomAhead = 1024

// signal is called with mu held, after pending has changed.
func (e *events) signal() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// expect makes a peer known before its first event. A session that it had before it was
// removed is over: GoBGP says so when it has closed the connection, which may be after the
// next one is up. What is held stays held.
func (e *events) expect(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.sessions[addr]
	s := session{state: speaker.Idle, since: e.now(), fresh: true}
	s.Restarting, s.RestartTime = old.Restarting, old.RestartTime
	if old.Established {
		s.Session = speaker.Session{}
		e.pending.Lost[addr], e.pending.Peers[addr] = true, s.Session
		e.signal()
	}
	e.sessions[addr] = s
	e.causes.clear(addr)
	e.causes.begin(addr)
}

// hold ends a session that is made anew with another configuration. The peer's routes
// may be kept meanwhile, as those of one that restarts: GoBGP withdraws them.
func (e *events) hold(addr netip.Addr, restartTime time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.sessions[addr]
	if !ok || !s.Established || !s.Graceful {
		return
	}
	s.Session = speaker.Session{Restarting: true, RestartTime: restartTime}
	s.state, s.since = speaker.Idle, e.now()
	e.sessions[addr] = s
	e.causes.begin(addr)
	e.pending.Peers[addr] = s.Session
	e.signal()
}

// reset ends what is kept of a peer that restarts, whose session is made anew.
func (e *events) reset(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.sessions[addr]
	if !ok || s.Established || !s.Restarting {
		return
	}
	s.Restarting, s.RestartTime = false, 0
	e.sessions[addr] = s
	e.pending.Peers[addr] = s.Session
	e.signal()
}

// forget ends a peer that is no longer configured.
func (e *events) forget(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sessions, addr)
	e.causes.clear(addr)
	e.pending.Peers[addr] = speaker.Session{Removed: true}
	e.signal()
}

// bestPath is the best path to a prefix; nil for none.
type bestPath struct {
	prefix netip.Prefix
	path   *speaker.Path
}

// best takes over best paths in the order GoBGP chose them.
func (e *events) best(paths []bestPath) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range paths {
		e.pending.Best[b.prefix] = b.path
	}
	e.signal()
}

// lost notes that a session has ended. GoBGP's watch says so only after it has said of
// every path what becomes of it, which may take a second.
func (e *events) lost(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// One that is held is known to be over: its peer's next hops stay good.
	if s, ok := e.sessions[addr]; ok && s.Established {
		s.lost = true
		e.sessions[addr] = s
		e.pending.Lost[addr] = true
		e.signal()
	}
}

// orphan notes that the session of a peer that was removed has ended at last. If its end
// was taken for that of the present one, it is so no longer; had both ended, GoBGP would
// say it of the present one, too.
func (e *events) orphan(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.sessions[addr]
	if !ok || !s.Established || !s.lost {
		return
	}
	s.lost = false
	e.sessions[addr] = s
	delete(e.pending.Lost, addr)
	e.pending.Peers[addr] = s.Session
	e.signal()
}

func (e *events) endOfRIB(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.sessions[addr]
	if !ok || !s.Established || s.lost {
		return
	}
	s.EndOfRIB, s.Restarting, s.RestartTime = true, false, 0
	e.sessions[addr] = s
	e.pending.Peers[addr] = s.Session
	e.signal()
}

func (e *events) state(addr netip.Addr, state speaker.State, gr gracefulness) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, ok := e.sessions[addr]
	if !ok || old.fresh && state == speaker.Established && !gr.up {
		return // of a peer that was removed
	}
	now := session{state: state, since: e.now()}
	now.Established = state == speaker.Established
	now.fresh = old.fresh && !now.Established
	now.lost = old.lost && !now.Established
	now.Restarting, now.RestartTime = old.Restarting, old.RestartTime
	switch {
	case now.Established:
		now.Graceful = gr.capable
	case old.Established && old.Graceful: // lost
		e.causes.begin(addr)
		now.Restarting, now.RestartTime = gr.restarting, gr.restartTime
	case old.Established:
		e.causes.begin(addr)
		// GoBGP says that one restarts which only helps others, and so has kept nothing.
		now.Restarting, now.RestartTime = false, 0
	}
	if old.state == state {
		now.since = old.since
	}
	if now.Established {
		e.causes.clear(addr)
		e.up(addr)
		if old.lost {
			delete(e.pending.Lost, addr)
		}
		if old.Established && !old.lost { // no transition: keep what the peer has said
			now.Session, now.since = old.Session, old.since
		}
	}
	e.sessions[addr] = now
	e.causes.setDown(e.countDown())
	if old.Established != now.Established || old.lost != now.lost {
		e.pending.Peers[addr] = now.Session
		e.signal()
	}
}

func (e *events) countDown() int {
	n := 0
	for _, s := range e.sessions {
		if !s.Established {
			n++
		}
	}
	return n
}

// restarting reports that what a peer has told is kept while it is away.
func (e *events) restarting(addr netip.Addr) bool {
	s, ok := e.session(addr)
	return ok && s.Restarting
}

func (e *events) session(addr netip.Addr) (session, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.sessions[addr]
	return s, ok
}

func watchRequest() *gobgpapi.WatchEventRequest {
	return &gobgpapi.WatchEventRequest{
		Peer: &gobgpapi.WatchEventRequest_Peer{},
		Table: &gobgpapi.WatchEventRequest_Table{Filters: []*gobgpapi.WatchEventRequest_Table_Filter{
			{Type: gobgpapi.WatchEventRequest_Table_Filter_BEST, Init: true},
			{Type: gobgpapi.WatchEventRequest_Table_Filter_EOR, Init: true},
		}},
	}
}

// watched is the callback of the watch; GoBGP calls it from one goroutine.
func (s *Speaker) watched(r *gobgpapi.WatchEventResponse) {
	switch ev := r.Event.(type) {
	case *gobgpapi.WatchEventResponse_Table:
		s.watchedPaths(ev.Table.Paths)
	case *gobgpapi.WatchEventResponse_Peer:
		s.watchedPeer(ev.Peer)
	}
}

func (s *Speaker) watchedPaths(in []*gobgpapi.Path) {
	read := s.events.read[:0]
	for _, p := range in {
		if p.Nlri == nil { // an End-of-RIB
			if addr, err := netip.ParseAddr(p.NeighborIp); err == nil {
				s.events.endOfRIB(addr)
			}
			continue
		}
		p.Best = true // which a watch doesn't say
		prefix, path, err := s.events.decoder.path(p)
		if err != nil {
			s.log.Warn("ignored a BGP path that can't be read", "peer", p.NeighborIp, "err", err)
			continue
		}
		gone := p.IsWithdraw || path.Local() // what we export ourselves has no learned best path
		if n := len(read); n > 0 && read[n-1].prefix == prefix && read[n-1].path != nil && !gone {
			// The paths that are equally good come one after another, the best first. Whether
			// one is the last choice the library has not looked at.
			if path.LongLived() == read[n-1].path.LongLived() {
				read[n-1].path = withEqual(read[n-1], path)
			}
			continue
		}
		if gone {
			path = nil
		}
		read = append(read, bestPath{prefix, path})
	}
	if len(read) > 0 {
		s.events.best(read)
	}
	clear(read)
	s.events.read = read
}

// withEqual is a best path with one more that is as good; the shared ones stay as they are.
func withEqual(best bestPath, equal *speaker.Path) *speaker.Path {
	out, too := *best.path, *equal
	out.Prefix, too.Prefix, too.Best = best.prefix, best.prefix, false
	out.Equals = append(slices.Clip(out.Equals), too)
	return &out
}

func (s *Speaker) watchedPeer(ev *gobgpapi.WatchEventResponse_PeerEvent) {
	if ev.Type == gobgpapi.WatchEventResponse_PeerEvent_END_OF_INIT || ev.Peer == nil {
		return
	}
	addr, err := netip.ParseAddr(ev.Peer.Conf.NeighborAddress)
	if err != nil {
		return
	}
	if ev.Type == gobgpapi.WatchEventResponse_PeerEvent_UNKNOWN {
		s.events.orphan(addr) // what GoBGP says of no session but of one whose peer was removed
		return
	}
	state := stateFromAPI(ev.Peer.State.SessionState)
	var gr gracefulness
	if old, _ := s.events.session(addr); old.Established || state == speaker.Established {
		// The state may have moved on since; what is asked for lasts longer than that. GoBGP
		// goes through all peers for it, so it is asked for no other state.
		gr = s.gracefulness(addr)
	}
	s.events.state(addr, state, gr)
}

func stateFromAPI(s gobgpapi.PeerState_SessionState) speaker.State {
	switch s {
	case gobgpapi.PeerState_CONNECT:
		return speaker.Connect
	case gobgpapi.PeerState_ACTIVE:
		return speaker.Active
	case gobgpapi.PeerState_OPENSENT:
		return speaker.OpenSent
	case gobgpapi.PeerState_OPENCONFIRM:
		return speaker.OpenConfirm
	case gobgpapi.PeerState_ESTABLISHED:
		return speaker.Established
	}
	return speaker.Idle
}

// gracefulness is what graceful restart is to a peer.
type gracefulness struct {
	up          bool // its session is established now
	capable     bool // its OPEN had the capability for our family
	restarting  bool // its session was lost, and its routes are kept
	restartTime time.Duration
}

func (s *Speaker) gracefulness(addr netip.Addr) gracefulness {
	var out gracefulness
	// The error is that of a request without address.
	_ = s.server.ListPeer(context.Background(), &gobgpapi.ListPeerRequest{Address: addr.String()}, func(p *gobgpapi.Peer) {
		out.up = p.State.GetSessionState() == gobgpapi.PeerState_ESTABLISHED
		gr := p.GracefulRestart
		if gr == nil || !gr.Enabled {
			return
		}
		out.restarting = gr.PeerRestarting
		out.restartTime = time.Duration(gr.PeerRestartTime) * time.Second
		_, out.capable = gracefulCapability(p)
	})
	return out
}

// gracefulCapability reports whether a peer's last OPEN had the graceful restart
// capability (RFC 4724 section 3), and whether with a family in it: without, the
// peer only helps others.
func gracefulCapability(p *gobgpapi.Peer) (present, withFamily bool) {
	if !p.GracefulRestart.GetEnabled() {
		return false, false
	}
	for _, c := range capabilities(p) {
		if gr, ok := c.(*bgp.CapGracefulRestart); ok {
			present, withFamily = true, withFamily || len(gr.Tuples) > 0
		}
	}
	return present, withFamily
}

// capabilities are those of a peer's last OPEN.
func capabilities(p *gobgpapi.Peer) []bgp.ParameterCapabilityInterface {
	caps, err := apiutil.UnmarshalCapabilities(p.State.GetRemoteCap())
	if err != nil {
		return nil
	}
	return caps
}

// Package gobgp is the Speaker made with GoBGP v3, and the only importer of it.
// No type of that library leaves this package.
//
// What GoBGP does that a caller would not expect, and what is done about it, is
// written where it matters; DESIGN.md of bgpd has the list.
package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"

	"tortie/bgpd/speaker"
)

// Config is what a Speaker needs besides what it is told by Apply.
type Config struct {
	// Restarting: the kernel still forwards by the routes of our last run. Peers
	// of the first Apply are told so (the R and F bits of RFC 4724 section 3), so
	// that they go on sending us traffic.
	Restarting bool
	Log        *slog.Logger
	// Now is the clock of PeerState.Since; nil means time.Now.
	Now func() time.Time
}

// Speaker is a speaker.Speaker.
type Speaker struct {
	restarting bool
	log        *slog.Logger
	server     *server.BgpServer
	causes     *causes
	events     *events
	stopWatch  context.CancelFunc

	mu      sync.Mutex // held over the whole of Apply and Close
	started bool
	closed  bool
	applied speaker.Desired // what the server was last made to be
	anchor  *anchor         // see anchor.go; nil when not restarting
	// policiesSet: there are policies, made of applied.
	policiesSet bool
}

var _ speaker.Speaker = (*Speaker)(nil)

// New makes a speaker that does nothing until the first Apply. GoBGP offers no
// way to end its main goroutine: it stays, idle, for the life of the process.
func New(cfg Config) *Speaker {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := newCauses()
	c.now = cfg.Now
	e := newEvents(cfg.Now, c)
	s := &Speaker{
		restarting: cfg.Restarting,
		log:        cfg.Log,
		causes:     c,
		events:     e,
		server:     server.NewBgpServer(server.LoggerOption(&bridge{log: cfg.Log, causes: c, lost: e.lost})),
	}
	c.configured = func(addr netip.Addr) bool {
		_, ok := s.events.session(addr)
		return ok
	}
	go s.server.Serve()
	return s
}

// Apply implements speaker.Speaker.
func (s *Speaker) Apply(ctx context.Context, d speaker.Desired) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("apply BGP configuration: the speaker is closed")
	}
	if s.started && !sameGlobal(s.applied.Global, d.Global) {
		if err := s.stop(ctx, d.Peers); err != nil {
			return err
		}
	}
	first := !s.started
	if first {
		if err := s.start(ctx, d.Global); err != nil {
			return err
		}
	}
	// A peer must never be told or heard without its filter.
	err := s.removePeers(ctx, d.Peers)
	if filtering := s.applyFilters(ctx, d); filtering != nil {
		return errors.Join(err, filtering)
	}
	return errors.Join(err,
		s.applyExports(ctx, d.Exports),
		s.applyPeers(ctx, d.Peers, first && s.restarting))
}

func sameGlobal(a, b speaker.Global) bool {
	return a.ASN == b.ASN && a.RouterID == b.RouterID && a.Port == b.Port && a.Transit == b.Transit &&
		slices.Equal(a.Listen, b.Listen) && slices.Equal(a.Segments, b.Segments)
}

func (s *Speaker) start(ctx context.Context, g speaker.Global) error {
	if err := s.server.StartBgp(ctx, &gobgpapi.StartBgpRequest{Global: globalToAPI(g)}); err != nil {
		return fmt.Errorf("start BGP speaker on port %d: %w", g.Port, err)
	}
	s.started = true
	s.applied = speaker.Desired{Global: g}
	if s.stopWatch == nil {
		watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // until Close
		if err := s.server.WatchEvent(watchCtx, watchRequest(), s.watched); err != nil {
			cancel()
			return fmt.Errorf("watch BGP speaker: %w", err)
		}
		s.stopWatch = cancel
	}
	if s.restarting {
		s.anchor = startAnchor(ctx, s.server, g, s.log)
	}
	return nil
}

// stop ends all sessions with a NOTIFICATION; those with the peers in next come back. A
// restart of the process must not come through here.
func (s *Speaker) stop(ctx context.Context, next []speaker.Peer) error {
	s.anchor.close(ctx)
	s.anchor = nil
	stays := map[netip.Addr]bool{}
	for _, p := range next {
		stays[p.Address] = true
		s.hold(p)
	}
	for _, p := range s.applied.Peers {
		if !stays[p.Address] {
			s.events.forget(p.Address)
		}
	}
	if err := s.server.StopBgp(ctx, &gobgpapi.StopBgpRequest{}); err != nil {
		return fmt.Errorf("stop BGP speaker: %w", err)
	}
	s.started, s.restarting, s.policiesSet = false, false, false
	s.applied = speaker.Desired{}
	return nil
}

func (s *Speaker) applyExports(ctx context.Context, want []speaker.Export) error {
	var errs []error
	wanted := make(map[netip.Prefix]speaker.Export, len(want))
	for _, e := range want {
		wanted[e.Prefix] = e
	}
	have := make(map[netip.Prefix]speaker.Export, len(s.applied.Exports))
	for _, e := range s.applied.Exports {
		have[e.Prefix] = e
		if _, ok := wanted[e.Prefix]; ok {
			continue
		}
		// By path: deleting by UUID makes GoBGP scan its whole table.
		err := s.server.DeletePath(ctx, &gobgpapi.DeletePathRequest{
			TableType: gobgpapi.TableType_GLOBAL, Path: exportToAPI(e, true),
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("withdraw %s: %w", e.Prefix, err))
			continue
		}
		delete(have, e.Prefix)
	}
	for _, e := range want {
		if old, ok := have[e.Prefix]; ok && slices.Equal(old.Communities, e.Communities) {
			continue
		}
		_, err := s.server.AddPath(ctx, &gobgpapi.AddPathRequest{
			TableType: gobgpapi.TableType_GLOBAL, Path: exportToAPI(e, false),
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("export %s: %w", e.Prefix, err))
			continue
		}
		have[e.Prefix] = e
	}
	s.applied.Exports = slices.AppendSeq(s.applied.Exports[:0:0], maps.Values(have))
	return errors.Join(errs...)
}

// removePeers removes those that are not wanted.
func (s *Speaker) removePeers(ctx context.Context, want []speaker.Peer) error {
	var errs []error
	wanted := make(map[netip.Addr]bool, len(want))
	for _, p := range want {
		wanted[p.Address] = true
	}
	s.applied.Peers = slices.DeleteFunc(s.applied.Peers, func(p speaker.Peer) bool {
		if wanted[p.Address] {
			return false
		}
		if err := s.deletePeer(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("remove peer %s: %w", p.Address, err))
			return false
		}
		s.events.forget(p.Address)
		return true
	})
	return errors.Join(errs...)
}

// applyPeers adds and changes peers.
func (s *Speaker) applyPeers(ctx context.Context, want []speaker.Peer, restarting bool) error {
	var errs []error
	have := make(map[netip.Addr]speaker.Peer, len(s.applied.Peers))
	for _, p := range s.applied.Peers {
		have[p.Address] = p
	}
	for _, p := range want {
		old, exists := have[p.Address]
		if exists && old == p {
			continue
		}
		if err := s.applyPeer(ctx, p, exists && old.SameSession(p), exists, restarting); err != nil {
			errs = append(errs, err)
			if !s.isApplied(p.Address) {
				delete(have, p.Address)
			}
			continue
		}
		have[p.Address] = p
	}
	s.applied.Peers = slices.AppendSeq(s.applied.Peers[:0:0], maps.Values(have))
	return errors.Join(errs...)
}

// applyPeer makes a peer as wanted: on its session as it is where that can be.
func (s *Speaker) applyPeer(ctx context.Context, p speaker.Peer, sameSession, exists, restarting bool) error {
	switch {
	case sameSession:
		return s.advertiseAnew(ctx, p)
	case exists:
		s.hold(p)
	}
	return s.setPeer(ctx, p, exists, restarting)
}

// setPeer adds a peer or changes one, by a new session.
// UpdatePeer is used for nothing less than that: on a session it leaves up it
// forgets which families the peer restarts gracefully.
func (s *Speaker) setPeer(ctx context.Context, p speaker.Peer, exists, restarting bool) error {
	conf := peerToAPI(p, restarting)
	if !exists {
		s.events.expect(p.Address)
		if err := s.server.AddPeer(ctx, &gobgpapi.AddPeerRequest{Peer: conf}); err != nil {
			s.events.forget(p.Address)
			return fmt.Errorf("add peer %s: %w", p.Address, err)
		}
		return nil
	}
	if err := s.deletePeer(ctx, s.asApplied(p.Address)); err != nil {
		return fmt.Errorf("change peer %s: %w", p.Address, err)
	}
	s.events.expect(p.Address)
	if err := s.server.AddPeer(ctx, &gobgpapi.AddPeerRequest{Peer: conf}); err != nil {
		// The server has it no more: the next Apply is to add it.
		s.applied.Peers = slices.DeleteFunc(s.applied.Peers, func(q speaker.Peer) bool { return q.Address == p.Address })
		s.events.forget(p.Address)
		return fmt.Errorf("change peer %s: %w", p.Address, err)
	}
	return nil
}

func (s *Speaker) isApplied(addr netip.Addr) bool {
	return slices.ContainsFunc(s.applied.Peers, func(p speaker.Peer) bool { return p.Address == addr })
}

// asApplied is a configured peer as the server has it.
func (s *Speaker) asApplied(addr netip.Addr) speaker.Peer {
	i := slices.IndexFunc(s.applied.Peers, func(p speaker.Peer) bool { return p.Address == addr })
	return s.applied.Peers[i]
}

// Close implements speaker.Speaker.
func (s *Speaker) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.started {
		err = s.stop(context.Background(), nil)
	}
	if s.stopWatch != nil {
		s.stopWatch()
	}
	return err
}

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"tortie/bgpd/speaker"
)

var errNotStarted = errors.New("the BGP speaker has not been started: it has no configuration yet")

// snapshot is the configured peers at this moment.
func (s *Speaker) snapshot() (map[netip.Addr]speaker.Peer, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		return nil, 0, errNotStarted
	}
	peers := make(map[netip.Addr]speaker.Peer, len(s.applied.Peers))
	for _, p := range s.applied.Peers {
		peers[p.Address] = p
	}
	return peers, s.applied.Global.ASN, nil
}

// Peers implements speaker.Speaker.
func (s *Speaker) Peers(ctx context.Context) ([]speaker.PeerState, error) {
	peers, asn, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	var out []speaker.PeerState
	err = s.server.ListPeer(ctx, &gobgpapi.ListPeerRequest{EnableAdvertised: true}, func(p *gobgpapi.Peer) {
		addr, err := netip.ParseAddr(p.Conf.NeighborAddress)
		if err != nil {
			return
		}
		conf, ok := peers[addr]
		if !ok {
			return // the anchor, or a peer removed a moment ago
		}
		ses, _ := s.events.session(addr)
		ps := speaker.PeerState{
			Peer: conf, State: stateFromAPI(p.State.SessionState), Since: ses.since,
			GracefulRestart: ses.Graceful, EndOfRIB: ses.EndOfRIB,
		}
		ps.UpdatesIn, ps.UpdatesOut = p.State.GetMessages().GetReceived().GetUpdate(), p.State.GetMessages().GetSent().GetUpdate()
		agreed(&ps, p)
		for _, af := range p.AfiSafis {
			if af.State != nil && ps.State == speaker.Established {
				ps.Received += af.State.Received
				ps.Advertised += af.State.Advertised
			}
		}
		// GoBGP counts the End-of-RIB that it sends as a path.
		if present, _ := gracefulCapability(p); present && ps.Advertised > 0 {
			ps.Advertised--
		}
		if ps.State != speaker.Established {
			ps.Info = s.causes.explain(conf, asn)
		}
		ps.Info = joined(ps.Info, s.complaints.words(addr))
		out = append(out, ps)
	})
	if err != nil {
		return nil, fmt.Errorf("list BGP peers: %w", err)
	}
	slices.SortFunc(out, func(a, b speaker.PeerState) int { return a.Peer.Address.Compare(b.Peer.Address) })
	return out, nil
}

// joined are two clauses, of which either may be missing.
func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// agreed fills in what both sides of a session that is up have come to.
func agreed(ps *speaker.PeerState, p *gobgpapi.Peer) {
	if ps.State != speaker.Established {
		return
	}
	timers := p.Timers.GetState()
	ps.HoldTime = time.Duration(timers.GetNegotiatedHoldTime()) * time.Second
	ps.KeepaliveTime = time.Duration(timers.GetKeepaliveInterval()) * time.Second
	for _, c := range capabilities(p) {
		switch c := c.(type) {
		case *bgp.CapLongLivedGracefulRestart:
			ps.LongLived = ps.Peer.LongLived > 0 && len(c.Tuples) > 0
		case *bgp.CapAddPath:
			sends := func(t *bgp.CapAddPathTuple) bool { return t.Mode&bgp.BGP_ADD_PATH_SEND != 0 }
			ps.AddPath = ps.AddPath || ps.Peer.AddPath && slices.ContainsFunc(c.Tuples, sends)
		}
	}
}

// Routes implements speaker.Speaker.
func (s *Speaker) Routes(ctx context.Context, prefix netip.Prefix) ([]speaker.Path, error) {
	if _, _, err := s.snapshot(); err != nil {
		return nil, err
	}
	families := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if prefix.IsValid() {
		families = []netip.Addr{prefix.Addr()}
	}
	var out []speaker.Path
	for _, f := range families {
		req := &gobgpapi.ListPathRequest{TableType: gobgpapi.TableType_GLOBAL, Family: familyOf(f), Prefixes: lookup(prefix)}
		err := s.server.ListPath(ctx, req, func(d *gobgpapi.Destination) {
			for _, p := range d.Paths {
				if path, err := pathFromAPI(p); err == nil {
					out = append(out, path)
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list BGP routes: %w", err)
		}
	}
	sortByPrefix(out)
	return out, nil
}

// sortByPrefix leaves the paths to one prefix in the order GoBGP has chosen.
func sortByPrefix(paths []speaker.Path) {
	slices.SortStableFunc(paths, func(a, b speaker.Path) int {
		if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
			return c
		}
		return a.Prefix.Bits() - b.Prefix.Bits()
	})
}

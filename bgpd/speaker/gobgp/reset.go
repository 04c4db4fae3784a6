package gobgp

import (
	"context"
	"net/netip"
)

// Reset implements speaker.Speaker. The peer is removed and added: GoBGP's own reset
// waits until a NOTIFICATION is written, which to a dead peer may take a hold time,
// and then takes that for a restart of the peer and keeps its paths.
func (s *Speaker) Reset(ctx context.Context, peer netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.applied.Peers {
		if p.Address == peer {
			s.events.reset(peer)
			return s.setPeer(ctx, p, true, false)
		}
	}
	return nil // no longer a peer
}

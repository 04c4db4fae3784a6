package gobgp

import (
	"context"
	"fmt"

	gobgpapi "github.com/osrg/gobgp/v3/api"

	"tortie/bgpd/speaker"
)

// nextHops changes the next hop for the peers with a mode of their own and lets others
// decide the rest. It comes after the statement for segments, which it overrules. Only a
// speaker with Transit has it: of its own exports it is always the next hop.
func (b *policies) nextHops(peers []speaker.Peer) {
	for _, mode := range []struct {
		mode   speaker.NextHopMode
		name   string
		action *gobgpapi.NexthopAction
	}{
		{speaker.NextHopSelf, "next-hop-self", &gobgpapi.NexthopAction{Self: true}},
		{speaker.NextHopKeep, "next-hop-keep", &gobgpapi.NexthopAction{Unchanged: true}},
	} {
		var list []string
		for _, p := range peers {
			if p.NextHop == mode.mode {
				list = append(list, hostPrefix(p.Address))
			}
		}
		if len(list) == 0 {
			continue // an empty set would be all
		}
		b.exports = append(b.exports, &gobgpapi.Statement{
			Name:       mode.name,
			Conditions: &gobgpapi.Conditions{NeighborSet: b.set(gobgpapi.DefinedType_NEIGHBOR, mode.name, list...)},
			Actions:    &gobgpapi.Actions{Nexthop: mode.action},
		})
	}
}

// advertiseAnew tells a peer everything again, by the policy of now.
func (s *Speaker) advertiseAnew(ctx context.Context, p speaker.Peer) error {
	err := s.server.ResetPeer(ctx, &gobgpapi.ResetPeerRequest{
		Address: p.Address.String(), Soft: true, Direction: gobgpapi.ResetPeerRequest_OUT,
	})
	if err != nil {
		return fmt.Errorf("advertise anew to peer %s: %w", p.Address, err)
	}
	return nil
}

package gobgp

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	gobgpapi "github.com/osrg/gobgp/v3/api"

	"tortie/bgpd/speaker"
)

// nextHopSets name the peers that are told a next hop other than usual.
func nextHopSets() map[speaker.NextHopMode]string {
	return map[speaker.NextHopMode]string{speaker.NextHopSelf: "next-hop-self", speaker.NextHopKeep: "next-hop-keep"}
}

// nobody keeps a set from being empty: an empty one matches every peer.
const nobody = "0.0.0.0/32"

// nextHopStatements change the next hop and let others decide the rest. They come after
// the one for segments, which they overrule.
func (s *Speaker) nextHopStatements(ctx context.Context) ([]*gobgpapi.Statement, error) {
	actions := map[speaker.NextHopMode]*gobgpapi.NexthopAction{speaker.NextHopSelf: {Self: true}, speaker.NextHopKeep: {Unchanged: true}}
	var out []*gobgpapi.Statement
	for mode, name := range nextHopSets() {
		if err := s.server.AddDefinedSet(ctx, &gobgpapi.AddDefinedSetRequest{DefinedSet: neighborSet(name, nobody)}); err != nil {
			return nil, fmt.Errorf("name the peers with a next hop mode: %w", err)
		}
		out = append(out, &gobgpapi.Statement{
			Name:       name,
			Conditions: &gobgpapi.Conditions{NeighborSet: &gobgpapi.MatchSet{Type: gobgpapi.MatchSet_ANY, Name: name}},
			Actions:    &gobgpapi.Actions{Nexthop: actions[mode]},
		})
	}
	s.nextHops = map[speaker.NextHopMode]map[netip.Addr]bool{}
	return out, nil
}

func neighborSet(name string, list ...string) *gobgpapi.DefinedSet {
	return &gobgpapi.DefinedSet{DefinedType: gobgpapi.DefinedType_NEIGHBOR, Name: name, List: list}
}

// applyNextHops puts the peers into the sets of their modes, before any of them is
// told anything. Only a speaker with Transit has them: of its own exports it is always
// the next hop. A set is changed in place, as statements hold on to what they were made
// with.
func (s *Speaker) applyNextHops(ctx context.Context, want []speaker.Peer) error {
	if !s.applied.Global.Transit {
		return nil
	}
	wanted := map[speaker.NextHopMode]map[netip.Addr]bool{}
	for _, p := range want {
		if wanted[p.NextHop] == nil {
			wanted[p.NextHop] = map[netip.Addr]bool{}
		}
		wanted[p.NextHop][p.Address] = true
	}
	for mode, name := range nextHopSets() {
		more, less := missing(wanted[mode], s.nextHops[mode]), missing(s.nextHops[mode], wanted[mode])
		if len(more) > 0 {
			if err := s.server.AddDefinedSet(ctx, &gobgpapi.AddDefinedSetRequest{DefinedSet: neighborSet(name, more...)}); err != nil {
				return fmt.Errorf("set the next hop mode of peers: %w", err)
			}
		}
		if len(less) > 0 {
			if err := s.server.DeleteDefinedSet(ctx, &gobgpapi.DeleteDefinedSetRequest{DefinedSet: neighborSet(name, less...)}); err != nil {
				return fmt.Errorf("set the next hop mode of peers: %w", err)
			}
		}
		s.nextHops[mode] = wanted[mode]
	}
	return nil
}

// missing are those of a that b has not, as a set lists them.
func missing(a, b map[netip.Addr]bool) (out []string) {
	for _, addr := range slices.SortedFunc(maps.Keys(a), netip.Addr.Compare) {
		if !b[addr] {
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()).String())
		}
	}
	return out
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

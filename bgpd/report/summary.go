package report

import (
	"context"
	"fmt"
	"time"

	"tortie/internal/bgpsummary"
	"tortie/internal/control/nodestatus"
)

// summary is the node's BGP in few words. What the node acts by is asked for first: so
// the sessions told are those that it has by then.
func summary(ctx context.Context, node Node, now time.Time) (string, error) {
	state, err := node.Status(ctx, &nodestatus.StatusRequest{})
	if err != nil {
		return "", fmt.Errorf("ask for the agent's status: %w", err)
	}
	peers, err := node.Peers(ctx, &nodestatus.PeersRequest{})
	if err != nil {
		return "", fmt.Errorf("ask for the BGP peers: %w", err)
	}
	routes, err := node.Routes(ctx, &nodestatus.RoutesRequest{})
	if err != nil {
		return "", fmt.Errorf("ask for the routes: %w", err)
	}
	return bgpsummary.Encode(summarize(state.GetClusterId(), peers.GetPeers(), routes.GetRoutes(), now))
}

// established is the state of a session that is up.
const established = "Established"

// meshType is what peers of the mesh are called.
const meshType = "node-to-node mesh"

func summarize(cluster string, peers []*nodestatus.Peer, routes []*nodestatus.Route, now time.Time) bgpsummary.Summary {
	out := bgpsummary.Summary{ClusterID: cluster, Peers: map[string]bgpsummary.Group{}}
	up := map[string]string{} // address → type, of sessions that are
	for _, p := range peers {
		if p.GetType() == meshType {
			out.Mesh = count(out.Mesh, p, now)
		} else {
			out.Peers[p.GetResource()] = count(out.Peers[p.GetResource()], p, now)
		}
		if p.GetState() == established {
			up[p.GetAddress()] = p.GetType()
		}
	}
	for _, s := range supports(routes, up) {
		s.count(&out)
	}
	return out
}

func count(g bgpsummary.Group, p *nodestatus.Peer, now time.Time) bgpsummary.Group {
	g.Sessions++
	if p.GetState() != established {
		if g.Down == nil {
			g.Down = map[string]string{}
		}
		g.Down[p.GetAddress()] = p.GetInfo()
		return g
	}
	age := max(0, now.Unix()-p.GetSince())
	if first := g.Sessions-len(g.Down) == 1; first || age < g.Youngest {
		g.Youngest = age
	}
	return g
}

// support is what a learned prefix in the kernel stands on: the sessions that are up
// and have told it.
type support struct {
	installed bool
	mesh, all int
	// only is the address of the last of the sessions, direct whether one is with the
	// next hop itself.
	only, nextHop string
	direct        bool
}

func supports(routes []*nodestatus.Route, up map[string]string) map[string]*support {
	out := map[string]*support{}
	own := map[string]bool{}
	for _, r := range routes {
		if r.GetPeer() == "" {
			own[r.GetPrefix()] = true
			continue
		}
		s := out[r.GetPrefix()]
		if s == nil {
			s = &support{}
			out[r.GetPrefix()] = s
		}
		s.installed = s.installed || r.GetKernel() != ""
		kind, live := up[r.GetPeer()]
		if !live || r.GetStale() {
			continue
		}
		s.all++
		s.only, s.nextHop = r.GetPeer(), r.GetNextHop()
		if kind == meshType {
			s.mesh++
		}
		s.direct = s.direct || r.GetNextHop() == r.GetPeer()
	}
	for prefix, s := range out {
		if own[prefix] || !s.installed {
			delete(out, prefix)
		}
	}
	return out
}

func (s *support) count(out *bgpsummary.Summary) {
	switch {
	case s.all == 0:
		out.Kept++
		return
	case s.mesh == s.all:
		out.MeshOnly++
	case s.all == 1 && out.ClusterID == "":
		out.Only = plus(out.Only, s.only)
	}
	if !s.direct {
		out.Reflected = plus(out.Reflected, s.nextHop)
	}
}

func plus(m map[string]int, key string) map[string]int {
	if m == nil {
		m = map[string]int{}
	}
	m[key]++
	return m
}

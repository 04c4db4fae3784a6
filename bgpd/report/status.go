// Package report fills the status of the CalicoNodeStatus resources that name this
// node, as upstream's node agent does: at once, then every updatePeriodSeconds, and
// only when something has changed.
package report

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/control/nodestatus"
)

// status is the node's state as far as classes ask for it.
func status(ctx context.Context, node Node, classes []v3.NodeStatusClassType) (v3.CalicoNodeStatusStatus, error) {
	var out v3.CalicoNodeStatusStatus
	if slices.Contains(classes, v3.NodeStatusClassTypeAgent) {
		state, err := node.Status(ctx, &nodestatus.StatusRequest{})
		if err != nil {
			return out, fmt.Errorf("ask for the agent's status: %w", err)
		}
		out.Agent = agent(state)
	}
	var peers *nodestatus.PeersResponse
	var err error
	if slices.Contains(classes, v3.NodeStatusClassTypeBGP) || slices.Contains(classes, v3.NodeStatusClassTypeRoutes) {
		if peers, err = node.Peers(ctx, &nodestatus.PeersRequest{}); err != nil {
			return out, fmt.Errorf("ask for the BGP peers: %w", err)
		}
	}
	if slices.Contains(classes, v3.NodeStatusClassTypeBGP) {
		out.BGP = sessions(peers.GetPeers())
	}
	if slices.Contains(classes, v3.NodeStatusClassTypeRoutes) {
		routes, err := node.Routes(ctx, &nodestatus.RoutesRequest{})
		if err != nil {
			return out, fmt.Errorf("ask for the routes: %w", err)
		}
		out.Routes = routesOf(routes.GetRoutes(), peers.GetPeers())
	}
	return out, nil
}

// agent is one daemon where upstream has two.
func agent(s *nodestatus.StatusResponse) v3.CalicoNodeAgentStatus {
	d := v3.BGPDaemonStatus{
		State: v3.BGPDaemonStateNotReady, Version: s.GetVersion(), RouterID: s.GetRouterId(),
		LastBootTime: stamp(s.GetStarted()), LastReconfigurationTime: stamp(s.GetConfigured()),
	}
	if s.GetDatastoreInSync() && s.GetRouterId() != "" {
		d.State = v3.BGPDaemonStateReady
	}
	return v3.CalicoNodeAgentStatus{BIRDV4: d, BIRDV6: d}
}

func stamp(seconds int64) string {
	if seconds == 0 {
		return ""
	}
	return time.Unix(seconds, 0).UTC().Format(time.RFC3339)
}

// disabled is the state of a BGPPeer that isn't a session; upstream knows no such.
const disabled = "Disabled"

func sessions(peers []*nodestatus.Peer) v3.CalicoNodeBGPStatus {
	var out v3.CalicoNodeBGPStatus
	for _, p := range peers {
		if p.GetState() == disabled {
			continue
		}
		list, up, down := &out.PeersV4, &out.NumberEstablishedV4, &out.NumberNotEstablishedV4
		if strings.Contains(p.GetAddress(), ":") {
			list, up, down = &out.PeersV6, &out.NumberEstablishedV6, &out.NumberNotEstablishedV6
		}
		if p.GetState() == string(v3.BGPSessionStateEstablished) {
			*up++
		} else {
			*down++
		}
		*list = append(*list, v3.CalicoNodePeer{
			PeerIP: p.GetAddress(), Type: peerType(p.GetType()), State: v3.BGPSessionState(p.GetState()), Since: stamp(p.GetSince()),
		})
	}
	return out
}

func peerType(t string) v3.BGPPeerType {
	switch t {
	case meshType:
		return v3.BGPPeerTypeNodeMesh
	case "global":
		return v3.BGPPeerTypeGlobalPeer
	}
	return v3.BGPPeerTypeNodePeer
}

// routesOf are the routes; type FIB marks the one of several that counts, as upstream's
// does.
func routesOf(routes []*nodestatus.Route, peers []*nodestatus.Peer) v3.CalicoNodeBGPRouteStatus {
	mesh := map[string]bool{}
	for _, p := range peers {
		mesh[p.GetAddress()] = peerType(p.GetType()) == v3.BGPPeerTypeNodeMesh
	}
	var out v3.CalicoNodeBGPRouteStatus
	for _, r := range routes {
		m := v3.CalicoNodeRoute{Type: v3.RouteTypeRIB, Destination: r.GetPrefix()}
		if r.GetBest() && (r.GetPeer() == "" || r.GetKernel() != "") {
			m.Type = v3.RouteTypeFIB
		}
		m.Gateway, m.Interface = way(r)
		m.LearnedFrom = v3.CalicoNodeRouteLearnedFrom{SourceType: v3.RouteSourceTypeBGPPeer, PeerIP: r.GetPeer()}
		switch {
		case r.GetPeer() == "":
			m.LearnedFrom.SourceType = v3.RouteSourceTypeStatic
		case mesh[r.GetPeer()]:
			m.LearnedFrom.SourceType = v3.RouteSourceTypeNodeMesh
		}
		if p, err := netip.ParsePrefix(r.GetPrefix()); err == nil && p.Addr().Is4() {
			out.RoutesV4 = append(out.RoutesV4, m)
		} else {
			out.RoutesV6 = append(out.RoutesV6, m)
		}
	}
	return out
}

// way reads "via GATEWAY dev LINK"; what isn't in the kernel has its next hop only.
func way(r *nodestatus.Route) (gateway, link string) {
	const none = "N/A" // upstream's word
	if r.GetPeer() == "" {
		return none, "blackhole"
	}
	words := strings.Fields(r.GetKernel())
	for i := 0; i+1 < len(words); i++ {
		switch words[i] {
		case "via":
			gateway = words[i+1]
		case "dev":
			link = words[i+1]
		}
	}
	if gateway == "" {
		gateway = r.GetNextHop()
	}
	return gateway, link
}

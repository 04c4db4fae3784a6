package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/bgpd/fib"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

// statusService answers calicoctl.
type statusService struct {
	nodestatus.UnsafeNodeStatusServer // every method is here, or it does not compile
	engine                            *engine
	node, version                     string
	// inSync reports whether the datastore has been read.
	inSync func() bool
	// datastore is why it isn't being followed now; nil when it is.
	datastore func() error
	updates   updates
}

// listenStatus opens the socket, for root only, in place of one that a dead
// process left. The lock of this node is held.
func listenStatus(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open status socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open status socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open status socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("open status socket: %w", err)
	}
	return l, nil
}

// serveStatus serves until the returned function is called.
func serveStatus(l net.Listener, s nodestatus.NodeStatusServer) (stop func()) {
	srv := grpc.NewServer()
	nodestatus.RegisterNodeStatusServer(srv, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Ends with Stop; an accept that fails before is seen by every client.
		_ = srv.Serve(l)
	}()
	return func() {
		srv.Stop()
		<-done
	}
}

// view is the engine's state at one moment, without what may be very much.
type view struct {
	node string
	plan topology.Output
	// entries are those that were asked for, by entriesOf.
	entries map[netip.Prefix]fib.Entry
	names   map[netip.Addr]topology.Peer
	holding bool
	// bfd is the state of BFD with a peer in words, dead why a peer is taken for dead.
	bfd, dead map[netip.Addr]string
	takenAt   time.Time
	links     []speaker.Link // as the filters know them
}

func (s *statusService) view(ctx context.Context) (view, error) {
	var v view
	err := s.engine.do(ctx, func() {
		v = view{
			node: s.node, plan: s.engine.plan.Output,
			holding: s.engine.planned && s.engine.fib.Holding(), names: map[netip.Addr]topology.Peer{},
			bfd: s.engine.live.describeAll(s.engine.detector.Problem()), dead: s.engine.live.dead(),
			takenAt: s.engine.takenAt, links: s.engine.links,
		}
	})
	for _, p := range v.plan.Peers {
		v.names[p.Address] = p
	}
	return v, err
}

// Status implements nodestatus.NodeStatusServer.
func (s *statusService) Status(ctx context.Context, _ *nodestatus.StatusRequest) (*nodestatus.StatusResponse, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	out := &nodestatus.StatusResponse{
		Node: s.node, Version: s.version, Started: s.engine.started.Unix(),
		Asn: v.plan.Global.ASN, Mesh: v.plan.Mesh, DatastoreInSync: s.inSync(),
		Restarting: v.holding, Configured: seconds(v.takenAt), GracefulShutdown: v.plan.Shutdown,
	}
	if err := s.engine.do(ctx, func() { out.Problems = s.engine.problems() }); err != nil {
		return nil, err
	}
	if v.plan.Global.RouterID.IsValid() {
		out.RouterId = v.plan.Global.RouterID.String()
		twice, err := s.floatingTwice(ctx, v)
		if err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		out.Problems = append(out.Problems, twice...)
	}
	if v.plan.ClusterID.IsValid() {
		out.ClusterId = v.plan.ClusterID.String()
	}
	if err := s.datastore(); err != nil {
		out.Problems = append(out.Problems, err.Error())
	}
	return out, nil
}

// Peers implements nodestatus.NodeStatusServer.
func (s *statusService) Peers(ctx context.Context, _ *nodestatus.PeersRequest) (*nodestatus.PeersResponse, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	states := s.states(ctx, v)
	out := &nodestatus.PeersResponse{}
	for _, p := range v.plan.Peers {
		m := peerMessage(p, states, v.plan.Global.ASN)
		m.Bfd = v.bfd[p.Address]
		if m.State != string(speaker.Established) {
			m.Info = because(v.dead[p.Address], m.Info)
		} else if v.plan.Shutdown {
			m.Info = strings.TrimSuffix("graceful shutdown: the peer is asked to prefer other ways; "+m.Info, "; ")
		}
		out.Peers = append(out.Peers, m)
	}
	for _, r := range v.plan.Refused {
		out.Peers = append(out.Peers, &nodestatus.Peer{
			Name: r.Name, Address: r.Address, Asn: r.ASN, Type: string(r.Type), LocalAsn: v.plan.Global.ASN,
			State: disabled, Info: r.Problem, Resource: r.Name,
		})
	}
	return out, nil
}

// disabled is the state of a BGPPeer that a problem keeps from being a session.
const disabled = "Disabled"

// states are the sessions as the speaker has them. Without a speaker there are
// none; its problem is in the status.
func (s *statusService) states(ctx context.Context, v view) map[netip.Addr]speaker.PeerState {
	states := map[netip.Addr]speaker.PeerState{}
	if len(v.plan.Peers) == 0 {
		return states
	}
	list, _ := s.engine.speaker.Peers(ctx)
	for _, ps := range list {
		states[ps.Peer.Address] = ps
	}
	return states
}

func peerMessage(p topology.Peer, states map[netip.Addr]speaker.PeerState, asn uint32) *nodestatus.Peer {
	m := &nodestatus.Peer{
		Name: p.Name, Address: p.Address.String(), Port: uint32(p.Port), Asn: p.ASN, Type: string(p.Type), LocalAsn: asn,
		Resource: p.Resource,
	}
	if p.LocalASN != 0 {
		m.LocalAsn = p.LocalASN
	}
	ps, ok := states[p.Address]
	t := timersOf(p, ps)
	m.HoldTime, m.KeepaliveTime, m.ConnectTime = wholeSeconds(t.Hold), wholeSeconds(t.Keepalive), wholeSeconds(t.Connect)
	if !ok {
		m.State, m.Info = string(speaker.Idle), "not configured in the speaker: see the problems in the node's status"
		return m
	}
	m.State, m.Since, m.Info = string(ps.State), ps.Since.Unix(), ps.Info
	m.Received, m.Advertised, m.GracefulRestart = ps.Received, ps.Advertised, ps.GracefulRestart
	m.AddPath, m.LongLivedRestart = ps.AddPath, ps.LongLived
	return m
}

// timersOf are those agreed upon, or while the session is not up those configured.
func timersOf(p topology.Peer, ps speaker.PeerState) api.Timers {
	t := api.Timers{Hold: p.HoldTime, Keepalive: p.KeepaliveTime, Connect: p.ConnectRetry}.OrDefault()
	if ps.HoldTime != 0 {
		t.Hold, t.Keepalive = ps.HoldTime, ps.KeepaliveTime
	}
	return t
}

func wholeSeconds(d time.Duration) uint32 { return uint32(d / time.Second) }

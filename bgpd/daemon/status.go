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
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/bgpd/fib"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/control/nodestatus"
)

// statusService answers calicoctl.
type statusService struct {
	nodestatus.UnimplementedNodeStatusServer
	engine        *engine
	node, version string
	// inSync reports whether the datastore has been read.
	inSync func() bool
	// datastore is why it isn't being followed now; nil when it is.
	datastore func() error
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
func serveStatus(l net.Listener, s *statusService) (stop func()) {
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

// view is the engine's state at one moment.
type view struct {
	plan     topology.Output
	entries  map[netip.Prefix]fib.Entry
	names    map[netip.Addr]topology.Peer
	problems []string
	holding  bool
}

func (s *statusService) view(ctx context.Context) (view, error) {
	var v view
	err := s.engine.do(ctx, func() {
		v = view{
			plan: s.engine.plan, entries: s.engine.fib.Entries(), problems: s.engine.problems(),
			holding: s.engine.planned && s.engine.fib.Holding(), names: map[netip.Addr]topology.Peer{},
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
		Restarting: v.holding, Problems: v.problems,
	}
	if v.plan.Global.RouterID.IsValid() {
		out.RouterId = v.plan.Global.RouterID.String()
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
	states := map[netip.Addr]speaker.PeerState{}
	if len(v.plan.Peers) > 0 {
		// Without a speaker there are no states; its problem is in the status.
		list, _ := s.engine.speaker.Peers(ctx)
		for _, ps := range list {
			states[ps.Peer.Address] = ps
		}
	}
	out := &nodestatus.PeersResponse{}
	for _, p := range v.plan.Peers {
		out.Peers = append(out.Peers, peerMessage(p, states, v.plan.Global.ASN))
	}
	return out, nil
}

func peerMessage(p topology.Peer, states map[netip.Addr]speaker.PeerState, asn uint32) *nodestatus.Peer {
	m := &nodestatus.Peer{
		Name: p.Name, Address: p.Address.String(), Port: uint32(p.Port), Asn: p.ASN, Type: string(p.Type), LocalAsn: asn,
	}
	if p.LocalASN != 0 {
		m.LocalAsn = p.LocalASN
	}
	ps, ok := states[p.Address]
	if !ok {
		m.State, m.Info = string(speaker.Idle), "not configured in the speaker: see the problems in the node's status"
		return m
	}
	m.State, m.Since, m.Info = string(ps.State), ps.Since.Unix(), ps.Info
	m.Received, m.Advertised, m.GracefulRestart = ps.Received, ps.Advertised, ps.GracefulRestart
	return m
}

// Routes implements nodestatus.NodeStatusServer.
func (s *statusService) Routes(ctx context.Context, req *nodestatus.RoutesRequest) (*nodestatus.RoutesResponse, error) {
	var prefix netip.Prefix
	var addr netip.Addr
	if req.Prefix != "" {
		var err error
		if prefix, addr, err = parsePrefixOrAddress(req.Prefix); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	if !v.plan.Global.RouterID.IsValid() {
		return &nodestatus.RoutesResponse{}, nil
	}
	paths, err := s.engine.speaker.Routes(ctx, prefix)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	if addr.IsValid() {
		paths = longestMatch(paths, addr)
	}
	out := &nodestatus.RoutesResponse{}
	for _, p := range paths {
		out.Routes = append(out.Routes, v.routeMessage(p))
	}
	return out, nil
}

func parsePrefixOrAddress(s string) (netip.Prefix, netip.Addr, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.Prefix{}, a, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, netip.Addr{}, fmt.Errorf("%q is neither a prefix nor an address", s)
	}
	return p.Masked(), netip.Addr{}, nil
}

// longestMatch are the paths of the prefix that a packet to addr would take.
func longestMatch(paths []speaker.Path, addr netip.Addr) []speaker.Path {
	longest := -1
	for _, p := range paths {
		if p.Prefix.Contains(addr) {
			longest = max(longest, p.Prefix.Bits())
		}
	}
	return slices.DeleteFunc(paths, func(p speaker.Path) bool {
		return p.Prefix.Bits() != longest || !p.Prefix.Contains(addr)
	})
}

func (v view) routeMessage(p speaker.Path) *nodestatus.Route {
	m := &nodestatus.Route{
		Prefix: p.Prefix.String(), AsPath: p.ASPath, Best: p.Best, Stale: p.Stale,
		LocalPref: p.LocalPref, Med: p.MED, Age: seconds(p.Learned),
	}
	if p.Local() {
		m.Reason = v.exportReason(p.Prefix)
		return m
	}
	m.NextHop, m.Peer = p.NextHop.String(), p.Peer.String()
	entry := v.entries[p.Prefix]
	if p.Best {
		m.Kernel = entry.Kernel
	}
	m.Reason = v.reason(p, entry)
	return m
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (v view) exportReason(prefix netip.Prefix) string {
	for _, e := range v.plan.Exports {
		if e.Prefix == prefix {
			return e.Reason
		}
	}
	return "no longer advertised by this node"
}

// reason says what a learned prefix is, where it was learned, how its next hop
// is reached, and why it isn't installed if it isn't.
func (v view) reason(p speaker.Path, e fib.Entry) string {
	parts := []string{v.what(p.Prefix)}
	from := v.names[p.Peer].Reason
	if from == "" {
		from = "no longer a peer"
	}
	parts = append(parts, fmt.Sprintf("learned from %s (%s)", p.Peer, from))
	switch {
	case !p.Best:
		parts = append(parts, "not the best path")
	case e.Problem != "":
		parts = append(parts, "not installed: "+e.Problem)
	case e.Gateway.IsValid():
		parts = append(parts, fmt.Sprintf("via router %s", e.Gateway))
	}
	if p.Stale {
		parts = append(parts, "kept while the peer restarts")
	}
	return strings.Join(parts, ", ")
}

func (v view) what(prefix netip.Prefix) string {
	if owner := v.plan.BlockOwners[prefix]; owner != "" {
		return fmt.Sprintf("block %s of %s", prefix, owner)
	}
	if prefix.IsSingleIP() {
		for bits := prefix.Bits() - 1; bits > 0; bits-- {
			block, err := prefix.Addr().Prefix(bits)
			if owner := v.plan.BlockOwners[block]; err == nil && owner != "" {
				return fmt.Sprintf("address %s borrowed from block %s of %s", prefix.Addr(), block, owner)
			}
		}
	}
	return "prefix " + prefix.String()
}

package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/bgpd/decision"
	"tortie/bgpd/fib"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/control/nodestatus"
)

// Routes implements nodestatus.NodeStatusServer. When a prefix or address is asked
// for to which there is no path, the error says why, where that is known.
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
	if req.Table != nodestatus.Table_LOC_RIB && v.plan.Global.RouterID.IsValid() {
		if addr.IsValid() {
			if prefix, err = s.taken(ctx, v, addr); err != nil {
				return nil, err
			}
		}
		return s.otherTable(ctx, v, req, prefix)
	}
	var paths []speaker.Path
	if v.plan.Global.RouterID.IsValid() {
		if paths, err = s.engine.speaker.Routes(ctx, prefix); err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
	}
	best := bestPaths(paths)
	if addr.IsValid() {
		prefix, paths = netip.PrefixFrom(addr, addr.BitLen()), covering(paths, addr)
	}
	if v.entries, err = s.entriesOf(ctx, prefixesOf(paths)); err != nil {
		return nil, err
	}
	if addr.IsValid() {
		paths = v.toAddress(paths)
	}
	if len(paths) == 0 && prefix.IsValid() {
		return nil, status.Errorf(codes.NotFound, "no route to %s: %s", req.Prefix, v.noPath(prefix, s.states(ctx, v)))
	}
	out := &nodestatus.RoutesResponse{}
	for _, p := range paths {
		out.Routes = append(out.Routes, v.routeMessage(p, best[p.Prefix]))
	}
	return out, nil
}

func parsePrefixOrAddress(s string) (netip.Prefix, netip.Addr, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.Prefix{}, a.Unmap(), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, netip.Addr{}, fmt.Errorf("%q is neither a prefix nor an address", s)
	}
	return p.Masked(), netip.Addr{}, nil
}

func bestPaths(paths []speaker.Path) map[netip.Prefix]speaker.Path {
	best := map[netip.Prefix]speaker.Path{}
	for _, p := range paths {
		if p.Best {
			best[p.Prefix] = p
		}
	}
	return best
}

// covering are the paths of the prefixes that an address is in.
func covering(paths []speaker.Path, addr netip.Addr) []speaker.Path {
	return slices.DeleteFunc(paths, func(p speaker.Path) bool { return !p.Prefix.Contains(addr) })
}

// toAddress are, of the paths that cover an address, those of the prefix that a packet to it
// would take, after those of longer prefixes that it would take if they were installed.
func (v view) toAddress(paths []speaker.Path) []speaker.Path {
	taken := -1
	for _, p := range paths {
		if p.Best && (p.Local() || v.entries[p.Prefix].Kernel != "") {
			taken = max(taken, p.Prefix.Bits())
		}
	}
	paths = slices.DeleteFunc(paths, func(p speaker.Path) bool { return p.Prefix.Bits() < taken })
	slices.SortStableFunc(paths, func(a, b speaker.Path) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	return paths
}

// noPath says why nobody, this node included, announces a prefix.
func (v view) noPath(prefix netip.Prefix, states map[netip.Addr]speaker.PeerState) string {
	if v.plan.Missing != "" {
		return v.plan.Missing
	}
	if slices.Contains(v.plan.Addresses, prefix.Addr()) {
		return "it is this node's own address"
	}
	block, owner := v.ownerOf(prefix)
	switch {
	case owner == v.node && owner != "":
		return fmt.Sprintf("it is in block %s of this node, which its IP pool keeps from being advertised", block)
	case owner != "":
		return fmt.Sprintf("it is in block %s of %s, which no peer announces: %s", block, owner, v.sessionWith(owner, prefix.Addr(), states))
	}
	if why := v.noService(prefix); why != "" {
		return why
	}
	for _, pool := range v.plan.Pools {
		if pool.Bits() <= prefix.Bits() && pool.Contains(prefix.Addr()) {
			return fmt.Sprintf("it is in the IP pool %s, but in no block that a node has", pool)
		}
	}
	return "it is outside every IP pool and block, and no peer announces it"
}

// noService says why nobody announces a service's address; empty when it is in no
// range of such.
func (v view) noService(prefix netip.Prefix) string {
	service, ok := v.serviceRange(prefix)
	if !ok {
		return ""
	}
	const excepted = ", those excepted that have the label " + topology.ExcludeLabel + ", and this node hears of none"
	switch what := v.plan.Services[prefix]; {
	case what == "":
		return fmt.Sprintf("it is in %s, a range of service addresses, and belongs to no service that is announced by itself", service)
	case prefix.IsSingleIP():
		return what + ": the nodes with a ready endpoint announce it" + excepted
	default:
		return what + ": all nodes announce it" + excepted
	}
}

func (v view) serviceRange(prefix netip.Prefix) (netip.Prefix, bool) {
	for _, service := range v.plan.ServiceRanges {
		if service.Bits() <= prefix.Bits() && service.Contains(prefix.Addr()) {
			return service, true
		}
	}
	return netip.Prefix{}, false
}

// sessionWith says what is known of the session by which a node's blocks of the
// family of addr should come.
func (v view) sessionWith(node string, addr netip.Addr, states map[netip.Addr]speaker.PeerState) string {
	for _, p := range v.plan.Peers {
		if p.Node != node || p.Address.Is4() != addr.Is4() {
			continue
		}
		ps, ok := states[p.Address]
		switch {
		case !ok:
			return fmt.Sprintf("the session with %s is not configured in the speaker", p.Address)
		case ps.State != speaker.Established:
			return fmt.Sprintf("the session with %s is down, %s: %s", p.Address, ps.State, ps.Info)
		}
		return fmt.Sprintf("the session with %s is up: its IP pool may keep it from being advertised", p.Address)
	}
	return "this node has no session with it"
}

// ownerOf is the block that contains a prefix, and the node that owns it; "" when
// there is none.
func (v view) ownerOf(prefix netip.Prefix) (block netip.Prefix, owner string) {
	for bits := prefix.Bits(); bits > 0; bits-- {
		block, err := prefix.Addr().Prefix(bits)
		if owner := v.plan.BlockOwners[block]; err == nil && owner != "" {
			return block, owner
		}
	}
	return netip.Prefix{}, ""
}

func (v view) routeMessage(p, best speaker.Path) *nodestatus.Route {
	m := &nodestatus.Route{
		Prefix: p.Prefix.String(), AsPath: p.ASPath, Best: p.Best, Stale: p.Stale,
		LocalPref: p.LocalPref, Med: p.MED, Age: seconds(p.Learned), PathId: p.ID, Communities: communityTexts(p.Communities),
	}
	if p.Local() {
		m.Reason = v.exportReason(p.Prefix)
		return m
	}
	m.NextHop, m.Peer = p.NextHop.String(), p.Peer.String()
	entry := v.entries[p.Prefix]
	m.Best = p.Best || isAmong(p, entry.Path.Equals)
	if m.Best {
		m.Kernel = entry.Kernel
	}
	m.Reason = v.reason(p, best, entry)
	return m
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (v view) exportReason(prefix netip.Prefix) string {
	if e, ok := v.plan.Export(prefix); ok {
		return e.Reason
	}
	return "no longer advertised by this node"
}

// reason says what a learned prefix is and by what session it came, and why it
// isn't installed if it isn't. Prefix, peer and next hop stand in fields of their
// own.
func (v view) reason(p, best speaker.Path, e fib.Entry) string {
	parts := []string{v.what(p), or(v.names[p.Peer].Reason, "no longer a peer")}
	switch {
	case !p.Best && !isAmong(p, e.Path.Equals):
		parts = append(parts, v.loses(p, best))
	case e.Carried != "" && e.Problem != "":
		parts = append(parts, e.Carried+", but "+e.Problem)
	case e.Carried != "":
		parts = append(parts, e.Carried)
	case e.Problem != "":
		parts = append(parts, "not installed: "+e.Problem)
	case e.Gateway.IsValid():
		parts = append(parts, fmt.Sprintf("via router %s", e.Gateway))
	}
	if n := len(e.Path.Equals); n > 0 && (p.Best || isAmong(p, e.Path.Equals)) {
		parts = append(parts, fmt.Sprintf("one of %d equal paths", n+1))
		if e.Lacking != "" {
			parts = append(parts, "not by all: "+e.Lacking)
		}
	}
	if kept := keptFor(p); kept != "" {
		parts = append(parts, kept)
	}
	return strings.Join(parts, ", ")
}

// keptFor says why a path is there though its peer is not, or may not be; empty when
// neither is so.
func keptFor(p speaker.Path) string {
	switch {
	case p.LongLived():
		return "kept for a peer that has long been away: the last choice"
	case p.Stale:
		return "kept while the peer restarts"
	}
	return ""
}

// isAmong reports that a path is one of those that are as good as the best.
func isAmong(p speaker.Path, equals []speaker.Path) bool {
	return slices.ContainsFunc(equals, func(q speaker.Path) bool { return arrivalOf(q) == arrivalOf(p) && q.NextHop == p.NextHop })
}

// loses says what a path is second to, and by which rule of the decision process.
func (v view) loses(p, best speaker.Path) string {
	switch {
	case !best.Prefix.IsValid():
		return "not the best path"
	case best.Local():
		return "loses to this node's own"
	}
	return fmt.Sprintf("loses to %s by %s", best.Peer, decision.Rule(best, p, v.internal))
}

// what names the block a learned prefix is, or whose block it is an address of.
func (v view) what(p speaker.Path) string {
	block, owner := v.ownerOf(p.Prefix)
	switch {
	case owner == "":
		return v.whatElse(p.Prefix)
	case block == p.Prefix:
		return "block of " + v.called(owner)
	case !p.Prefix.IsSingleIP():
		return "part of a block of " + v.called(owner)
	}
	if borrower := v.names[p.Peer].Node; borrower != "" && borrower != owner {
		return fmt.Sprintf("borrowed address of %s, from a block of %s", borrower, v.called(owner))
	}
	return "address from a block of " + v.called(owner)
}

// whatElse names a learned prefix that is none of pods' addresses.
func (v view) whatElse(prefix netip.Prefix) string {
	if what := v.plan.Services[prefix]; what != "" {
		return what
	}
	if service, ok := v.serviceRange(prefix); ok && service.Bits() > 0 {
		return fmt.Sprintf("part of %s, a range of service addresses", service)
	}
	return "prefix of no block"
}

func (v view) called(node string) string {
	if node == v.node {
		return "this node"
	}
	return node
}

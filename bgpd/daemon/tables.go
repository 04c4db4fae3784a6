package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
)

// otherTable answers for the tables that are not the Loc-RIB.
func (s *statusService) otherTable(ctx context.Context, v view, req *nodestatus.RoutesRequest, prefix netip.Prefix) (*nodestatus.RoutesResponse, error) {
	var routes []*nodestatus.Route
	var err error
	var missing string
	switch req.Table {
	case nodestatus.Table_ADJ_IN:
		routes, err = s.received(ctx, v, prefix)
		missing = "no peer has sent it"
	case nodestatus.Table_ADJ_OUT:
		routes, err = s.advertised(ctx, v, prefix)
		missing = "it is sent to no peer"
	case nodestatus.Table_FIB:
		routes, err = s.inKernel(ctx, v, prefix)
		missing = "bgpd has no route to it in the kernel, and wants none"
	default:
		return nil, status.Errorf(codes.InvalidArgument, "unknown table %s: use a calicoctl of this bgpd's version", req.Table)
	}
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if len(routes) == 0 && prefix.IsValid() {
		return nil, status.Errorf(codes.NotFound, "no route to %s: %s", req.Prefix, missing)
	}
	return &nodestatus.RoutesResponse{Routes: routes}, nil
}

// received is what each peer has sent, and what was made of it.
func (s *statusService) received(ctx context.Context, v view, prefix netip.Prefix) ([]*nodestatus.Route, error) {
	accepted, err := s.accepted(ctx, prefix)
	if err != nil {
		return nil, err
	}
	if v.entries, err = s.entriesOf(ctx, slices.Collect(maps.Keys(accepted.best))); err != nil {
		return nil, err
	}
	var out []*nodestatus.Route
	for _, peer := range v.plan.Peers {
		if prefix.IsValid() && prefix.Addr().Is4() != peer.Address.Is4() {
			continue
		}
		paths, err := s.engine.speaker.AdjIn(ctx, peer.Address, prefix)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			out = append(out, v.receivedMessage(p, accepted))
		}
	}
	return out, nil
}

// arrival identifies a path by where it came from.
type arrival struct {
	prefix netip.Prefix
	peer   netip.Addr
	id     uint32
}

func arrivalOf(p speaker.Path) arrival { return arrival{p.Prefix, p.Peer, p.ID} }

// accepted are the paths of the Loc-RIB; best has the best of each prefix.
type accepted struct {
	paths map[arrival]speaker.Path
	best  map[netip.Prefix]speaker.Path
}

func (s *statusService) accepted(ctx context.Context, prefix netip.Prefix) (accepted, error) {
	paths, err := s.engine.speaker.Routes(ctx, prefix)
	out := accepted{paths: map[arrival]speaker.Path{}, best: bestPaths(paths)}
	for _, p := range paths {
		out.paths[arrivalOf(p)] = p
	}
	return out, err
}

func (v view) receivedMessage(p speaker.Path, a accepted) *nodestatus.Route {
	taken, ok := a.paths[arrivalOf(p)]
	if ok {
		p.Best, p.Stale = taken.Best, taken.Stale
	}
	m := v.pathMessage(p)
	if !ok {
		m.Reason = v.refusal(p)
		return m
	}
	entry := v.entries[p.Prefix]
	if m.Best = p.Best || isAmong(p, entry.Path.Equals); m.Best {
		m.Kernel = entry.Kernel
	}
	m.Reason = v.reason(p, a.best[p.Prefix], entry)
	return m
}

// refusal says why a path that a peer has sent is not among those to choose from. The
// speaker doesn't tell: a loop is found in the path, else it was a filter.
func (v view) refusal(p speaker.Path) string {
	asn := v.plan.Global.ASN
	if local := v.names[p.Peer].LocalASN; local != 0 {
		asn = local
	}
	if slices.Contains(p.ASPath, asn) || slices.Contains(p.ASPath, v.plan.Global.ASN) {
		return fmt.Sprintf("refused: the AS path has our own AS number %d in it, so it is a loop", asn)
	}
	if rule, accepted := v.importRule(p); !accepted {
		return "refused by " + rule
	}
	return "refused as a loop through a route reflector"
}

// importRule is the rule of the peer's filters that decides about a path as it was sent;
// empty when none does.
func (v view) importRule(p speaker.Path) (rule string, accepted bool) {
	return decidedBy(v.names[p.Peer].Filter.Import, v.links, policy.Route{
		Prefix: p.Prefix, NextHop: p.NextHop, ASPath: p.ASPath, Communities: p.Communities, LocalPref: p.LocalPref,
	})
}

func decidedBy(rules []speaker.Rule, links []speaker.Link, r policy.Route) (rule string, accepted bool) {
	_, accepted, by := policy.Decide(rules, links, r)
	if by < 0 {
		return "", accepted
	}
	return rules[by].Name, accepted
}

func (v view) pathMessage(p speaker.Path) *nodestatus.Route {
	return &nodestatus.Route{
		Prefix: p.Prefix.String(), NextHop: p.NextHop.String(), Peer: p.Peer.String(), AsPath: p.ASPath, Best: p.Best, Stale: p.Stale,
		LocalPref: p.LocalPref, Med: p.MED, Age: seconds(p.Learned), PathId: p.ID, Communities: communityTexts(p.Communities),
	}
}

func communityTexts(communities []speaker.Community) []string {
	var out []string
	for _, c := range communities {
		out = append(out, c.String())
	}
	return out
}

// advertised is what each peer is sent; peer is then whom it is sent to.
func (s *statusService) advertised(ctx context.Context, v view, prefix netip.Prefix) ([]*nodestatus.Route, error) {
	var out []*nodestatus.Route
	states := s.states(ctx, v)
	for _, peer := range v.plan.Peers {
		if states[peer.Address].State != speaker.Established || prefix.IsValid() && prefix.Addr().Is4() != peer.Address.Is4() {
			continue
		}
		paths, err := s.engine.speaker.AdjOut(ctx, peer.Address, prefix)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			m := v.pathMessage(p)
			m.Peer, m.Reason = peer.Address.String(), v.sentReason(p)
			out = append(out, m)
		}
	}
	return out, nil
}

func (v view) sentReason(p speaker.Path) string {
	if e, ok := v.plan.Export(p.Prefix); ok {
		return e.Reason
	}
	return v.what(p) + ", passed on"
}

// inKernel is what the kernel has of bgpd's, and what it should have and hasn't.
func (s *statusService) inKernel(ctx context.Context, v view, prefix netip.Prefix) ([]*nodestatus.Route, error) {
	have, err := s.kernelHas(ctx, kernel.ProtocolBGP, prefix)
	if err != nil {
		return nil, err
	}
	all := []netip.Prefix{prefix}
	if !prefix.IsValid() {
		if err := s.engine.do(ctx, func() { all = s.engine.fib.Prefixes() }); err != nil {
			return nil, err
		}
		all = slices.AppendSeq(all, maps.Keys(have))
		slices.SortFunc(all, comparePrefix)
		all = slices.Compact(all)
	}
	if v.entries, err = s.entriesOf(ctx, all); err != nil {
		return nil, err
	}
	var out []*nodestatus.Route
	for _, p := range all {
		if _, known := v.entries[p]; !known && len(have[p]) == 0 {
			continue
		}
		out = append(out, v.kernelMessage(p, have[p]))
	}
	return out, nil
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// kernelMessage compares what the kernel has with what it should have.
func (v view) kernelMessage(p netip.Prefix, have []string) *nodestatus.Route {
	e, known := v.entries[p]
	m := &nodestatus.Route{Prefix: p.String(), Best: true}
	if known {
		m = v.pathMessage(e.Path)
		m.Best = true
	}
	switch {
	case !known && v.holding:
		m.Reason = "of an earlier run, held until the peers have sent their routes"
	case !known:
		m.Reason = "not wanted: it is removed when the kernel is read again"
	case len(have) == 0 && e.Carried != "":
		m.Kernel, m.Reason = e.Kernel, "not bgpd's: "+e.Carried
	case len(have) == 0 && e.Problem != "":
		m.Reason = "not installed: " + e.Problem
	case len(have) == 0:
		m.Reason = "missing: " + e.Kernel + " is wanted"
	default:
		m.Reason = v.reason(e.Path, e.Path, e)
	}
	if len(have) > 0 {
		m.Kernel = strings.Join(have, "; ")
	}
	return m
}

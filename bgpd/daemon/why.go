package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/bgpd/decision"
	"tortie/bgpd/fib"
	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/internal/control/nodestatus"
)

// Why implements nodestatus.NodeStatusServer. A prefix that nobody announces is
// answered, too: why is then the whole answer.
func (s *statusService) Why(ctx context.Context, req *nodestatus.WhyRequest) (*nodestatus.WhyResponse, error) {
	prefix, addr, err := parsePrefixOrAddress(req.Prefix)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	if !v.plan.Global.RouterID.IsValid() {
		return nil, status.Error(codes.FailedPrecondition, or(v.plan.Missing, "the datastore has not been read yet"))
	}
	if addr.IsValid() {
		if prefix, err = s.taken(ctx, v, addr); err != nil {
			return nil, err
		}
	}
	if v.entries, err = s.entriesOf(ctx, []netip.Prefix{prefix}); err != nil {
		return nil, err
	}
	accepted, err := s.accepted(ctx, prefix)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	out := &nodestatus.WhyResponse{Prefix: prefix.String()}
	if out.Paths, err = s.whyPaths(ctx, v, prefix, accepted); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	best, ok := accepted.best[prefix]
	out.What = v.subject(prefix, best, ok, len(out.Paths) > 0, s.states(ctx, v))
	out.Decision = v.decided(out.Paths, accepted, prefix)
	if err := s.whyKernel(ctx, out, prefix, best, ok); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if ok {
		out.Advertised, err = s.whyAdvertised(ctx, v, prefix)
	}
	return out, err
}

// taken is the prefix that a packet to an address takes.
func (s *statusService) taken(ctx context.Context, v view, addr netip.Addr) (netip.Prefix, error) {
	paths, err := s.engine.speaker.Routes(ctx, netip.Prefix{})
	if err != nil {
		return netip.Prefix{}, status.Error(codes.FailedPrecondition, err.Error())
	}
	paths = covering(paths, addr)
	if v.entries, err = s.entriesOf(ctx, prefixesOf(paths)); err != nil {
		return netip.Prefix{}, err
	}
	paths = v.toAddress(paths)
	if len(paths) == 0 {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	// The last is the shortest: those before it would be taken if they were installed.
	return paths[len(paths)-1].Prefix, nil
}

// subject says what a prefix is; without any path, why there is none.
func (v view) subject(prefix netip.Prefix, best speaker.Path, known, refused bool, states map[netip.Addr]speaker.PeerState) string {
	if e, own := v.plan.Export(prefix); own {
		return e.Reason
	}
	if known {
		return v.what(best)
	}
	if _, owner := v.ownerOf(prefix); refused && owner != "" && owner != v.node {
		return v.what(speaker.Path{Prefix: prefix}) + "; no accepted path: all that peers have sent is refused"
	}
	return "no accepted path: " + v.noPath(prefix, states)
}

// whyPaths are the paths of all peers, best first, those refused last.
func (s *statusService) whyPaths(ctx context.Context, v view, prefix netip.Prefix, a accepted) ([]*nodestatus.WhyPath, error) {
	paths, err := s.engine.speaker.Routes(ctx, prefix)
	if err != nil {
		return nil, err
	}
	var refused []*nodestatus.WhyPath
	rules := map[netip.Addr]string{}
	for _, peer := range v.plan.Peers {
		if prefix.Addr().Is4() != peer.Address.Is4() {
			continue
		}
		sent, err := s.engine.speaker.AdjIn(ctx, peer.Address, prefix)
		if err != nil {
			return nil, err
		}
		for _, p := range sent {
			rules[p.Peer], _ = v.importRule(p)
			if _, ok := a.paths[arrival{p.Prefix, p.Peer}]; !ok {
				m := v.whyPath(p)
				m.Verdict = v.refusal(p)
				refused = append(refused, m)
			}
		}
	}
	var out []*nodestatus.WhyPath
	for _, p := range paths {
		m := v.whyPath(p)
		m.Verdict = v.verdict(p, a.best[prefix])
		if rule := rules[p.Peer]; rule != "" {
			m.Verdict += ", accepted by " + rule
		}
		if p.Stale {
			m.Verdict += ", kept while the peer restarts"
		}
		out = append(out, m)
	}
	return append(out, refused...), nil
}

func (v view) verdict(p, best speaker.Path) string {
	switch {
	case p.Best:
		return "best"
	case isAmong(p, v.entries[p.Prefix].Path.Equals):
		return "as good as the best"
	}
	return v.loses(p, best)
}

func (v view) whyPath(p speaker.Path) *nodestatus.WhyPath {
	m := &nodestatus.WhyPath{Route: v.pathMessage(p)}
	if p.Local() {
		m.Route.Peer, m.Route.NextHop, m.Name = "", "", "this node"
		return m
	}
	peer := v.names[p.Peer]
	m.Name, m.Type = peer.Name, string(peer.Type)
	return m
}

// decided names the rule by which the best path won over the second.
func (v view) decided(paths []*nodestatus.WhyPath, a accepted, prefix netip.Prefix) string {
	best, ok := a.best[prefix]
	var others []speaker.Path
	for _, m := range paths {
		for _, p := range a.paths {
			if !p.Best && p.Peer.String() == m.Route.Peer {
				others = append(others, p)
			}
		}
	}
	switch {
	case !ok && len(paths) == 0:
		return ""
	case !ok:
		return "no path was accepted"
	case len(others) == 0:
		return "the only path"
	}
	if equals := v.entries[prefix].Path.Equals; isAmong(others[0], equals) {
		return fmt.Sprintf("%d paths are equally good", len(equals)+1)
	}
	return decision.Rule(best, others[0], v.internal)
}

// internal: the path came from a peer of the AS that we are in towards it.
func (v view) internal(p speaker.Path) bool {
	asn := v.plan.Global.ASN
	if local := v.names[p.Peer].LocalASN; local != 0 {
		asn = local
	}
	return p.PeerASN == asn
}

// whyKernel fills in what the kernel should have, has, and had.
func (s *statusService) whyKernel(ctx context.Context, out *nodestatus.WhyResponse, prefix netip.Prefix, best speaker.Path, known bool) error {
	has, err := s.kernelHas(ctx, 0, prefix)
	if err != nil {
		return err
	}
	out.Kernel = has[prefix]
	return s.engine.do(ctx, func() {
		entry, decided := s.engine.fib.Entry(prefix)
		if decided && entry.Carried == "" {
			out.Wanted = cmp.Or(entry.Kernel, entry.Wanted)
		}
		switch {
		case known && !best.Local():
			out.Filter = importVerdict(entry, s.engine.fib.Import(best))
		case decided:
			out.Filter = fmt.Sprintf("kept while peer %s restarts, though the path is gone with its session", entry.Path.Peer)
		}
		for _, c := range s.engine.history.Of(prefix) {
			out.Changes = append(out.Changes, &nodestatus.Change{Time: c.Time.UnixMilli(), Text: c.Text})
		}
	})
}

// importVerdict says what the node's own rules make of a best path.
func importVerdict(e fib.Entry, rejected string) string {
	switch {
	case e.Carried != "" && e.Problem != "":
		return "left to felix: " + e.Carried + ", but " + e.Problem
	case e.Carried != "":
		return "left to felix: " + e.Carried
	case rejected != "" && e.Kernel == "":
		return "not installed: " + rejected
	case e.Problem != "":
		return "accepted, but not installed: " + e.Problem
	case e.Lacking != "":
		return "accepted, but not by all of the equal paths: " + e.Lacking
	}
	return "accepted"
}

// whyAdvertised says to whom a prefix is sent. The peers are many: those of one kind
// that agree make one line.
func (s *statusService) whyAdvertised(ctx context.Context, v view, prefix netip.Prefix) ([]string, error) {
	sent, err := s.advertised(ctx, v, prefix)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	withheld := s.withheld(ctx, v, prefix, sent)
	if len(sent) == 0 && len(withheld) > 0 {
		return withheld, nil
	}
	if len(sent) == 0 {
		if _, own := v.plan.Export(prefix); !own && !v.plan.Global.Transit {
			return []string{"to nobody: a node announces its own prefixes only"}, nil
		}
		return []string{"to nobody: no session that is up takes it"}, nil
	}
	const named = 5
	var names []string
	for _, m := range sent {
		addr, _ := netip.ParseAddr(m.Peer)
		names = append(names, fmt.Sprintf("%s (%s)", m.Peer, or(v.names[addr].Name, "no longer a peer")))
	}
	if len(names) > named {
		more := len(names) - named
		names = append(names[:named], fmt.Sprintf("and %d more: calicoctl bgp routes %s --out", more, prefix))
	}
	return append([]string{"to " + strings.Join(names, ", ")}, withheld...), nil
}

// withheld names the rule that keeps one of our own prefixes from each peer it is not
// sent to.
func (s *statusService) withheld(ctx context.Context, v view, prefix netip.Prefix, sent []*nodestatus.Route) []string {
	export, own := v.plan.Export(prefix)
	if !own {
		return nil
	}
	states := s.states(ctx, v)
	var out []string
	for _, p := range v.plan.Peers {
		if states[p.Address].State != speaker.Established || p.Address.Is4() != prefix.Addr().Is4() ||
			slices.ContainsFunc(sent, func(m *nodestatus.Route) bool { return m.Peer == p.Address.String() }) {
			continue
		}
		rule, accepted := decidedBy(p.Filter.Export, v.links, policy.Route{Prefix: prefix, Own: true, Communities: export.Communities})
		if !accepted {
			out = append(out, fmt.Sprintf("not to %s (%s): rejected by %s", p.Address, p.Name, rule))
		}
	}
	return out
}

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
)

// GoBGP knows one list of statements a direction for all peers that are no clients of a
// route server; a statement says itself which peers it is for. All of them are set at
// once, under names that stay, so that no route ever meets half of them.
const (
	importPolicy = "import"
	exportPolicy = "export"
	global       = "global"
)

// policies makes the statements of both directions, with the sets they refer to.
type policies struct {
	links []speaker.Link
	// withdrawing are peers that get a withdrawal of what a rule rejects, whether it was
	// announced or not. Where rules look at devices that is so always: GoBGP judges what
	// was announced before by the next hop of what is to be now.
	withdrawing map[netip.Addr]bool
	sets        []*gobgpapi.DefinedSet
	imports     []*gobgpapi.Statement
	exports     []*gobgpapi.Statement
}

// base is what holds for all peers, before their filters: what a node passes on, and
// with which next hop. Nothing in it accepts, as that would end the evaluation.
func (b *policies) base(d speaker.Desired) {
	g := d.Global
	if !g.Transit {
		for _, learned := range learnedTypes() {
			b.exports = append(b.exports, &gobgpapi.Statement{
				Name:       fmt.Sprintf("own-exports-only/%d", learned),
				Conditions: &gobgpapi.Conditions{RouteType: learned},
				Actions:    &gobgpapi.Actions{RouteAction: gobgpapi.RouteAction_REJECT},
			})
		}
		return
	}
	b.wellKnown(d)
	if len(g.Segments) > 0 {
		var list []string
		for _, p := range g.Segments {
			list = append(list, p.Masked().String())
		}
		// GoBGP does so for internal peers anyway, and for external ones puts its own
		// address there.
		b.exports = append(b.exports, &gobgpapi.Statement{
			Name:       "keep-next-hop",
			Conditions: &gobgpapi.Conditions{NeighborSet: b.set(gobgpapi.DefinedType_NEIGHBOR, "on-segment", list...), NextHopInList: list},
			Actions:    &gobgpapi.Actions{Nexthop: &gobgpapi.NexthopAction{Unchanged: true}},
		})
	}
	b.nextHops(d.Peers)
}

// wellKnown keeps from peers what its communities keep from them (RFC 1997), which GoBGP
// doesn't look at: from all, or from those of another AS. What we originate with such a
// community is meant for the peer to heed.
func (b *policies) wellKnown(d speaker.Desired) {
	var external []string
	for _, p := range d.Peers {
		if ownASN(p, d.Global.ASN) != 0 {
			external = append(external, hostPrefix(p.Address))
		}
	}
	b.keepBack("no-advertise", nil, bgp.COMMUNITY_NO_ADVERTISE)
	if len(external) > 0 { // an empty set would be all
		b.keepBack("no-export", b.set(gobgpapi.DefinedType_NEIGHBOR, "external", external...), bgp.COMMUNITY_NO_EXPORT, bgp.COMMUNITY_NO_EXPORT_SUBCONFED)
	}
}

// keepBack rejects what others announce with one of these communities.
func (b *policies) keepBack(name string, peers *gobgpapi.MatchSet, communities ...bgp.WellKnownCommunity) {
	var list []string
	for _, c := range communities {
		list = append(list, wellKnown(c))
	}
	carries := b.set(gobgpapi.DefinedType_COMMUNITY, name, list...)
	for _, learned := range learnedTypes() {
		b.exports = append(b.exports, &gobgpapi.Statement{
			Name:       fmt.Sprintf("%s/%d", name, learned),
			Conditions: &gobgpapi.Conditions{NeighborSet: peers, CommunitySet: carries, RouteType: learned},
			Actions:    &gobgpapi.Actions{RouteAction: gobgpapi.RouteAction_REJECT},
		})
	}
}

func wellKnown(c bgp.WellKnownCommunity) string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }

func hostPrefix(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// learnedTypes are the types of routes that others originate.
func learnedTypes() []gobgpapi.Conditions_RouteType {
	return []gobgpapi.Conditions_RouteType{gobgpapi.Conditions_ROUTE_TYPE_INTERNAL, gobgpapi.Conditions_ROUTE_TYPE_EXTERNAL}
}

func (b *policies) set(kind gobgpapi.DefinedType, name string, list ...string) *gobgpapi.MatchSet {
	b.sets = append(b.sets, &gobgpapi.DefinedSet{DefinedType: kind, Name: name, List: list})
	return &gobgpapi.MatchSet{Type: gobgpapi.MatchSet_ANY, Name: name}
}

// group are peers whose filters make the same statements.
type group struct {
	filter      speaker.Filter
	ownASN      uint32 // what an announced AS path begins with; 0 towards internal peers
	withdrawing bool
	peers       []string
}

// filters adds the statements of the peers' filters.
func (b *policies) filters(d speaker.Desired) {
	var groups []*group
	for _, p := range d.Peers {
		f := d.Filters[p.Address]
		if f.Empty() {
			continue
		}
		g := &group{filter: f, ownASN: ownASN(p, d.Global.ASN), withdrawing: b.withdrawing[p.Address] || slices.ContainsFunc(f.Export, byDevice)}
		i := slices.IndexFunc(groups, func(h *group) bool {
			return h.ownASN == g.ownASN && h.withdrawing == g.withdrawing && reflect.DeepEqual(h.filter, g.filter)
		})
		if i < 0 {
			i, groups = len(groups), append(groups, g)
		}
		groups[i].peers = append(groups[i].peers, hostPrefix(p.Address))
	}
	for i, g := range groups {
		name := fmt.Sprintf("filter%d", i)
		peers := b.set(gobgpapi.DefinedType_NEIGHBOR, name, g.peers...)
		for j := range g.filter.Import {
			r := rule{policies: b, Rule: &g.filter.Import[j], name: fmt.Sprintf("%s/import%d", name, j), peers: peers}
			b.imports = append(b.imports, r.statements(gobgpapi.Conditions_ROUTE_TYPE_NONE)...)
		}
		for j := range g.filter.Export {
			r := rule{policies: b, Rule: &g.filter.Export[j], name: fmt.Sprintf("%s/export%d", name, j), peers: peers, ownASN: g.ownASN, withdraw: g.withdrawing}
			b.exports = append(b.exports, r.exported()...)
		}
	}
}

// ownASN is what the AS path begins with when the export policy sees it.
func ownASN(p speaker.Peer, speakerASN uint32) uint32 {
	local := speakerASN
	if p.LocalASN != 0 {
		local = p.LocalASN
	}
	if p.ASN == local {
		return 0
	}
	return local
}

// rule makes statements of a rule.
type rule struct {
	*policies
	*speaker.Rule
	name     string
	peers    *gobgpapi.MatchSet
	ownASN   uint32
	withdraw bool
}

// exported are the statements of an export rule. "Learned" takes two, as GoBGP has no
// word for it.
func (r rule) exported() []*gobgpapi.Statement {
	if !r.Learned && r.Interface == "" {
		return r.statements(gobgpapi.Conditions_ROUTE_TYPE_NONE)
	}
	var out []*gobgpapi.Statement
	for _, learned := range learnedTypes() {
		out = append(out, r.statements(learned)...)
	}
	return out
}

// statements are one that decides, after one for each run but the last of equal AS
// numbers to prepend, as a statement has one prepend action only.
func (r rule) statements(routes gobgpapi.Conditions_RouteType) []*gobgpapi.Statement {
	var onLinks []string
	if r.Interface != "" {
		for _, p := range policy.OnLinks(r.Interface, r.links) {
			onLinks = append(onLinks, p.String())
		}
		if len(onLinks) == 0 {
			return nil // nothing matches, whereas an empty list would match everything
		}
	}
	name := fmt.Sprintf("%s/%d", r.name, routes)
	conditions := r.conditions(name)
	conditions.RouteType, conditions.NextHopInList = routes, onLinks
	var out []*gobgpapi.Statement
	runs := prepends(r.Prepend)
	for i, run := range runs {
		actions := &gobgpapi.Actions{AsPrepend: run}
		if i == len(runs)-1 {
			actions = r.actions()
			actions.AsPrepend = run
		}
		out = append(out, &gobgpapi.Statement{Name: fmt.Sprintf("%s/%d", name, i), Conditions: conditions, Actions: actions})
	}
	return out
}

// conditions are those of a rule but for route type and next hop.
func (r rule) conditions(name string) *gobgpapi.Conditions {
	out := &gobgpapi.Conditions{NeighborSet: r.peers}
	if r.Prefix.IsValid() {
		out.PrefixSet = &gobgpapi.MatchSet{Type: gobgpapi.MatchSet_ANY, Name: name}
		if r.Outside {
			out.PrefixSet.Type = gobgpapi.MatchSet_INVERT
		}
		r.sets = append(r.sets, &gobgpapi.DefinedSet{
			DefinedType: gobgpapi.DefinedType_PREFIX, Name: name,
			Prefixes: []*gobgpapi.Prefix{{IpPrefix: r.Prefix.String(), MaskLengthMin: uint32(r.Min), MaskLengthMax: uint32(r.Max)}},
		})
	}
	switch {
	case r.Community == (speaker.Community{}):
	case r.Community.Large:
		out.LargeCommunitySet = r.set(gobgpapi.DefinedType_LARGE_COMMUNITY, name, r.Community.String())
	default:
		out.CommunitySet = r.set(gobgpapi.DefinedType_COMMUNITY, name, r.Community.String())
	}
	if len(r.ASPath) > 0 {
		out.AsPathSet = r.set(gobgpapi.DefinedType_AS_PATH, name, r.asPath())
	}
	return out
}

// asPath is a regular expression over the AS path as GoBGP writes it. Our own number is
// optional in it: what was announced before is looked at without, to know whether it has
// to be withdrawn.
func (r rule) asPath() string {
	var numbers []string
	for _, asn := range r.ASPath {
		numbers = append(numbers, fmt.Sprint(asn))
	}
	own := ""
	switch {
	case r.ownASN == 0:
	case r.ASPath[0] == r.ownASN:
		own = fmt.Sprintf("%d ", r.ownASN)
	default:
		own = fmt.Sprintf("(%d )?", r.ownASN)
	}
	return "^" + own + strings.Join(numbers, " ") + "( |$)"
}

func (r rule) actions() *gobgpapi.Actions {
	if !r.Accept {
		return r.reject()
	}
	out := &gobgpapi.Actions{RouteAction: gobgpapi.RouteAction_ACCEPT}
	for _, c := range r.Add {
		to := &out.Community
		if c.Large {
			to = &out.LargeCommunity
		}
		if *to == nil {
			*to = &gobgpapi.CommunityAction{Type: gobgpapi.CommunityAction_ADD}
		}
		(*to).Communities = append((*to).Communities, c.String())
	}
	if r.LocalPref != 0 {
		out.LocalPref = &gobgpapi.LocalPrefAction{Value: r.LocalPref}
	}
	return out
}

// reject is the action of a rule that rejects. What is rejected silently stays announced
// if it was: GoBGP looks only at the present policy. A route that is marked as stale for
// long (RFC 9494) is withdrawn from a peer that doesn't know of such; one that does gets
// a new session (anew).
func (r rule) reject() *gobgpapi.Actions {
	if !r.withdraw {
		return &gobgpapi.Actions{RouteAction: gobgpapi.RouteAction_REJECT}
	}
	return &gobgpapi.Actions{
		RouteAction: gobgpapi.RouteAction_ACCEPT,
		Community: &gobgpapi.CommunityAction{
			Type:        gobgpapi.CommunityAction_ADD,
			Communities: []string{wellKnown(bgp.COMMUNITY_LLGR_STALE)},
		},
	}
}

// prepends are the runs of equal AS numbers, in the order in which to prepend them; one
// that does nothing where there is none.
func prepends(asns []uint32) []*gobgpapi.AsPrependAction {
	var out []*gobgpapi.AsPrependAction
	for i := len(asns) - 1; i >= 0; i-- {
		if last := len(out) - 1; last >= 0 && out[last].Asn == asns[i] {
			out[last].Repeat++
			continue
		}
		out = append(out, &gobgpapi.AsPrependAction{Asn: asns[i], Repeat: 1})
	}
	if len(out) == 0 {
		return []*gobgpapi.AsPrependAction{nil}
	}
	return out
}

// setPolicies makes the policies those of d.
func (s *Speaker) setPolicies(ctx context.Context, d speaker.Desired, withdrawing map[netip.Addr]bool) error {
	b := &policies{links: d.Links, withdrawing: withdrawing}
	b.base(d)
	b.shutdown(d.Shutdown)
	b.filters(d)
	err := s.server.SetPolicies(ctx, &gobgpapi.SetPoliciesRequest{
		DefinedSets: b.sets,
		Policies:    []*gobgpapi.Policy{{Name: importPolicy, Statements: b.imports}, {Name: exportPolicy, Statements: b.exports}},
	})
	if err != nil {
		return fmt.Errorf("set BGP policies: %w", err)
	}
	for direction, name := range map[gobgpapi.PolicyDirection]string{
		gobgpapi.PolicyDirection_IMPORT: importPolicy, gobgpapi.PolicyDirection_EXPORT: exportPolicy,
	} {
		err := s.server.SetPolicyAssignment(ctx, &gobgpapi.SetPolicyAssignmentRequest{Assignment: &gobgpapi.PolicyAssignment{
			Name: global, Direction: direction, DefaultAction: gobgpapi.RouteAction_ACCEPT, Policies: []*gobgpapi.Policy{{Name: name}},
		}})
		if err != nil {
			return fmt.Errorf("assign BGP %s policy: %w", name, err)
		}
	}
	return nil
}

// applyFilters makes the filters as desired, before peers are added, and carries a
// change out on the sessions that there are.
func (s *Speaker) applyFilters(ctx context.Context, d speaker.Desired) error {
	if s.policiesSet && sameFilters(s.applied, d) {
		return nil
	}
	in, out := s.refiltered(d)
	if len(out) > 0 {
		if err := s.setPolicies(ctx, d, out); err != nil {
			return err
		}
		if err := s.softReset(ctx, out, gobgpapi.ResetPeerRequest_OUT); err != nil {
			return err
		}
	}
	if err := s.setPolicies(ctx, d, nil); err != nil {
		return err
	}
	if err := s.softReset(ctx, in, gobgpapi.ResetPeerRequest_IN); err != nil {
		return err
	}
	s.applied.Filters, s.applied.Links, s.applied.Shutdown, s.policiesSet = d.Filters, d.Links, d.Shutdown, true
	return nil
}

// sameFilters: the policies of both are the same. A peer that comes or goes changes those
// of its filter, and of one that passes on what others announce all the same.
func sameFilters(a, b speaker.Desired) bool {
	type kind struct {
		ownASN  uint32
		nextHop speaker.NextHopMode
	}
	filtered := func(d speaker.Desired) map[netip.Addr]kind {
		out := map[netip.Addr]kind{}
		for _, p := range d.Peers {
			if d.Global.Transit || !d.Filters[p.Address].Empty() {
				out[p.Address] = kind{ownASN(p, d.Global.ASN), p.NextHop}
			}
		}
		return out
	}
	return a.Shutdown == b.Shutdown && reflect.DeepEqual(a.Filters, b.Filters) && reflect.DeepEqual(a.Links, b.Links) && reflect.DeepEqual(filtered(a), filtered(b))
}

// refiltered are the peers there are whose filter becomes another, by direction.
func (s *Speaker) refiltered(d speaker.Desired) (in, out map[netip.Addr]bool) {
	in, out = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	anew := s.anew(d)
	for _, p := range s.applied.Peers {
		was, is := s.applied.Filters[p.Address], d.Filters[p.Address]
		if !sameRules(was.Import, is.Import, s.applied.Links, d.Links) {
			in[p.Address] = true
		}
		if anew[p.Address] {
			continue
		}
		if s.applied.Shutdown != d.Shutdown || !sameRules(was.Export, is.Export, s.applied.Links, d.Links) {
			out[p.Address] = true
		}
	}
	return in, out
}

func sameRules(a, b []speaker.Rule, aLinks, bLinks []speaker.Link) bool {
	return reflect.DeepEqual(a, b) && (reflect.DeepEqual(aLinks, bLinks) || !slices.ContainsFunc(a, byDevice))
}

func byDevice(r speaker.Rule) bool { return r.Interface != "" }

// softReset sends or takes anew what peers are told or have said.
func (s *Speaker) softReset(ctx context.Context, peers map[netip.Addr]bool, direction gobgpapi.ResetPeerRequest_SoftResetDirection) error {
	var errs []error
	for addr := range peers {
		err := s.server.ResetPeer(ctx, &gobgpapi.ResetPeerRequest{Address: addr.String(), Soft: true, Direction: direction})
		if err != nil {
			errs = append(errs, fmt.Errorf("apply the changed filter of peer %s: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

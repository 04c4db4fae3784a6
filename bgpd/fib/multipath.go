package fib

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
)

// member is one of several ways to a prefix: a next hop, and the peer that told it.
type member struct{ peer, nextHop netip.Addr }

// group is a set of members that are equally good for some prefixes. What becomes of
// the set is decided once for all of them.
type group struct {
	members []member
	users   int // prefixes
	outcome
	// noted is the outcome as the history has it; nil when that is the present one.
	noted *outcome
}

// outcome is what has become of a set of next hops.
type outcome struct {
	hops  kernel.NextHops
	id    int    // of the kernel's object; 0 for none
	words string // the route in words
	// lacking says which of the next hops are not used, and why; all of them when
	// there are no hops.
	lacking string
}

// settled: it is that of a set that was looked at.
func (o outcome) settled() bool { return o.words != "" || o.lacking != "" }

// groups are the sets in use, by their members.
type groups struct {
	byKey map[string]*group
	of    map[netip.Prefix]string
}

func newGroups() *groups { return &groups{byKey: map[string]*group{}, of: map[netip.Prefix]string{}} }

// enter puts a prefix in the group of its paths, which is new if made.
func (gs *groups) enter(prefix netip.Prefix, paths []speaker.Path) (key string, g *group, made bool) {
	members := make([]member, 0, len(paths))
	for _, p := range paths {
		members = append(members, member{p.Peer, p.NextHop})
	}
	slices.SortFunc(members, func(a, b member) int {
		if c := a.nextHop.Compare(b.nextHop); c != 0 {
			return c
		}
		return a.peer.Compare(b.peer)
	})
	var b strings.Builder
	for _, m := range members {
		b.WriteString(m.nextHop.String() + " of " + m.peer.String() + "\n")
	}
	key = b.String()
	if g = gs.byKey[key]; g == nil {
		g = &group{members: members}
		gs.byKey[key] = g
		made = true
	}
	if gs.of[prefix] != key {
		gs.leave(prefix)
		gs.of[prefix] = key
		g.users++
	}
	return key, g, made
}

// leave takes a prefix out of its group, if it is in one.
func (gs *groups) leave(prefix netip.Prefix) {
	key, ok := gs.of[prefix]
	if !ok {
		return
	}
	delete(gs.of, prefix)
	gs.byKey[key].users--
}

// empty removes the groups that no prefix is in any more, and names them.
func (gs *groups) empty() (keys []string) {
	for key, g := range gs.byKey {
		if g.users == 0 {
			delete(gs.byKey, key)
			keys = append(keys, key)
		}
	}
	return keys
}

// with are the groups with such a member.
func (gs *groups) with(is func(member) bool) map[string]*group {
	out := map[string]*group{}
	for key, g := range gs.byKey {
		if slices.ContainsFunc(g.members, is) {
			out[key] = g
		}
	}
	return out
}

// over reports whether a group has a next hop over a link, as far as it was resolved.
func (gs *groups) over(link int) bool {
	for _, g := range gs.byKey {
		if g.hops.Over(link) {
			return true
		}
	}
	return false
}

// choose says what becomes of a group: the ways to all its next hops together, but for
// those that are unreachable and those of lost peers, unless no others are left. So
// whether there is any way does not depend on what is lost.
func (f *FIB) choose(g *group) outcome {
	alive := slices.DeleteFunc(slices.Clone(g.members), func(m member) bool { return f.lost[m.peer] })
	if o := f.together(alive); o.hops.Len() > 0 {
		return o
	}
	return f.together(g.members)
}

// together is what becomes of some members of a group.
func (f *FIB) together(members []member) outcome {
	var hops []kernel.NextHop
	var words, lacking []string
	asked := map[netip.Addr]bool{}
	for _, m := range members {
		if asked[m.nextHop] {
			continue
		}
		asked[m.nextHop] = true
		w := f.way(m.nextHop)
		if w.unreachable != "" {
			lacking = append(lacking, w.unreachable)
			continue
		}
		for i, h := range w.hops {
			// One that several next hops lead to counts once.
			if !slices.ContainsFunc(hops, func(have kernel.NextHop) bool { return have.Link == h.Link && have.Gateway == h.Gateway }) {
				hops, words = append(hops, h), append(words, w.words[i])
			}
		}
	}
	return outcome{hops: kernel.NewNextHops(hops...), words: strings.Join(words, ", "), lacking: strings.Join(lacking, "; ")}
}

// settle makes a group's outcome the kernel's, as far as there are next-hop objects.
func (f *FIB) settle(key string, g *group) {
	old := g.outcome
	g.outcome = f.choose(g)
	if f.history != nil && g.noted == nil && old.settled() && old.words != g.words {
		g.noted = &old
	}
	switch {
	case !f.objects.Supported():
	case g.hops.Len() == 0:
		f.objects.Remove(key)
	default:
		g.id = f.objects.Set(key, g.hops)
	}
}

// settleAll resolves all groups anew.
func (f *FIB) settleAll() {
	for key, g := range f.groups.byKey {
		f.settle(key, g)
	}
}

// peerLost tells that nothing sent to the peer's next hops arrives any more, or that it
// does again. Routes that have others, too, move to those at once; the rest is the
// speaker's to withdraw.
func (f *FIB) peerLost(peer netip.Addr, lost bool) {
	if f.lost[peer] == lost {
		return
	}
	if lost {
		f.lost[peer] = true
	} else {
		delete(f.lost, peer)
	}
	f.settleSome(f.groups.with(func(m member) bool { return m.peer == peer }))
}

// settleSome resolves groups anew, and decides of their prefixes where no object does
// that for all of them.
func (f *FIB) settleSome(concerned map[string]*group) {
	for key, g := range concerned {
		f.settle(key, g)
	}
	if len(concerned) == 0 || f.objects.Supported() {
		return
	}
	for prefix, key := range f.groups.of {
		if _, ok := concerned[key]; ok {
			f.decide(prefix)
		}
	}
}

// usable are the paths to a prefix that may be imported, none where there is only the
// best; and why some, or all, may not. It is not ok when none may.
func (f *FIB) usable(best *speaker.Path) (paths []speaker.Path, refused string, ok bool) {
	if len(best.Equals) == 0 {
		refused = f.filter.Import(*best)
		return nil, refused, refused == ""
	}
	var reasons []string
	for _, p := range append([]speaker.Path{*best}, best.Equals...) {
		if reason := f.filter.Import(p); reason != "" {
			reasons = append(reasons, fmt.Sprintf("that of %s: %s", p.Peer, reason))
			continue
		}
		paths = append(paths, p)
	}
	return paths, strings.Join(reasons, "; "), len(paths) > 0
}

// routeVia makes the route to a prefix by one way or several, and says what becomes of
// it. There are no paths besides the best if none are given.
func (f *FIB) routeVia(best *speaker.Path, paths []speaker.Path) (kernel.Route, fate) {
	first := best
	if len(paths) > 0 {
		first = &paths[0]
	}
	if w := f.way(first.NextHop); sameNextHop(paths) && len(w.hops) < 2 {
		f.groups.leave(best.Prefix)
		return oneWay(first, w)
	}
	if len(paths) == 0 {
		paths = []speaker.Path{*best}
	}
	key, g, made := f.groups.enter(best.Prefix, paths)
	if made {
		f.settle(key, g)
	}
	if g.hops.Len() == 0 {
		return kernel.Route{}, fate{group: g, problem: g.lacking}
	}
	route := kernel.Route{Dst: best.Prefix, Type: kernel.RouteUnicast, NextHopID: g.id}
	if g.id == 0 {
		route.NextHops = g.hops
	}
	return route, fate{group: g, kernel: g.words}
}

// oneWay is the route of a path whose next hop is reached by one way, or by none.
func oneWay(p *speaker.Path, w way) (kernel.Route, fate) {
	if w.unreachable != "" {
		return kernel.Route{}, fate{problem: w.unreachable}
	}
	h := w.hops[0]
	out := fate{kernel: w.words[0]}
	if h.Gateway != p.NextHop.WithZone("") {
		out.gateway = h.Gateway
	}
	return kernel.Route{Dst: p.Prefix, Type: kernel.RouteUnicast, Link: h.Link, Gateway: h.Gateway, OnLink: h.OnLink}, out
}

// sameNextHop reports that all paths lead to one next hop, as the same route told by
// two reflectors does.
func sameNextHop(paths []speaker.Path) bool {
	for _, p := range paths {
		if p.NextHop != paths[0].NextHop {
			return false
		}
	}
	return true
}

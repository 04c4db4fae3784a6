// Package plan says what a change of the cluster's resources would do to BGP on every
// node: sessions added, removed, reset and changed, prefixes gained and lost, routes
// in the kernel. It is pure: bgpd's own topology and filters on two sets of resources, and
// how routes spread between the nodes by the sessions of each.
//
// What the datastore doesn't tell, it doesn't guess: what routers outside announce and
// pass on, and whether a session that both ends have comes up.
package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
)

// Result is what a change does. All lists are sorted.
type Result struct {
	Added   []Session `json:"sessionsAdded"`
	Removed []Session `json:"sessionsRemoved"`
	Reset   []Session `json:"sessionsReset"`
	// Changed are those that another rule holds for, and that go on.
	Changed []Session `json:"sessionsChanged"`
	// Gained and Lost are prefixes as learned by a node, or as announced to a router
	// outside.
	Gained []Prefix `json:"prefixesGained"`
	Lost   []Prefix `json:"prefixesLost"`
	Routes []Route  `json:"kernelRoutes"`
	// Problems are those that the change makes, Solved those that it ends.
	Problems []Problem `json:"problems"`
	Solved   []Problem `json:"problemsSolved"`
	// Unknown is what can't be told from the datastore.
	Unknown []string `json:"unknown"`
}

// Empty reports whether BGP stays as it is.
func (r Result) Empty() bool {
	return len(r.Added)+len(r.Removed)+len(r.Reset)+len(r.Changed)+len(r.Gained)+len(r.Lost)+len(r.Routes)+len(r.Problems)+len(r.Solved) == 0
}

// Session is one between two nodes, or a node and a router outside.
type Session struct {
	Node    string `json:"node"`
	Local   string `json:"local,omitempty"`
	Peer    string `json:"peer"` // its node, else the name of the BGPPeer
	Address string `json:"address"`
	Why     string `json:"why"`
}

// Prefix is one that Who gains or loses.
type Prefix struct {
	Who    string `json:"who"`
	Prefix string `json:"prefix"`
	From   string `json:"from"` // the node that announces it
}

// Route is a route in a node's kernel; an empty next hop is none.
type Route struct {
	Node   string `json:"node"`
	Prefix string `json:"prefix"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Problem is one that nodes have with their resources.
type Problem struct {
	Nodes []string `json:"nodes"`
	Text  string   `json:"text"`
}

// Compare says what changes from one set of resources to another. Node of either is not
// looked at.
func Compare(before, after topology.Input) Result {
	old, now := newCluster(before), newCluster(after)
	var r Result
	for _, name := range names(old, now) {
		compareSessions(&r, name, old, now)
		compareProblems(&r, name, old.nodes[name], now.nodes[name])
	}
	r.Added, r.Removed, r.Reset, r.Changed = unique(r.Added), unique(r.Removed), unique(r.Reset), goingOn(r)
	compareRoutes(&r, old, now)
	r.Problems, r.Solved = together(r.Problems), together(r.Solved)
	r.Unknown = unknown(r, old, now)
	return Result{
		Added: none(r.Added), Removed: none(r.Removed), Reset: none(r.Reset), Changed: none(r.Changed),
		Gained: none(r.Gained), Lost: none(r.Lost), Routes: none(r.Routes), Problems: none(r.Problems), Solved: none(r.Solved), Unknown: none(r.Unknown),
	}
}

// none makes an empty list of a missing one: it is one in JSON, too.
func none[T any](list []T) []T { return append([]T{}, list...) }

func names(clusters ...*cluster) []string {
	var out []string
	for _, c := range clusters {
		out = append(out, c.names...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func compareSessions(r *Result, name string, old, now *cluster) {
	a, b := old.nodes[name], now.nodes[name]
	global := globalChanges(a.Global, b.Global)
	for _, p := range a.Peers {
		q, still := b.peer(p.Address)
		switch {
		case !still:
			r.Removed = append(r.Removed, session(name, p, p.Reason))
		case global != "":
			r.Reset = append(r.Reset, session(name, q, "all of "+name+"'s: "+global))
		default:
			if !p.SameSession(q.Peer) {
				r.Reset = append(r.Reset, session(name, q, changed(p.Peer, q.Peer)))
			} else if why := changedOnSession(a, b, p, q); why != "" {
				r.Changed = append(r.Changed, session(name, q, why))
			}
		}
	}
	for _, q := range b.Peers {
		if _, was := a.peer(q.Address); !was {
			why := q.Reason
			if q.Node != "" && !now.mutual(name, q) {
				why += ", but " + q.Node + " has no such session back: it won't come up"
			}
			r.Added = append(r.Added, session(name, q, why))
		}
	}
}

func session(node string, p topology.Peer, why string) Session {
	s := Session{Node: node, Peer: cmp.Or(p.Node, p.Name), Address: p.Address.String(), Why: why}
	if p.LocalAddress.IsValid() {
		s.Local = p.LocalAddress.String()
	}
	return s
}

// unique leaves one of the two views that the nodes at the ends of a session have.
func unique(in []Session) []Session {
	seen := map[string]bool{}
	slices.SortFunc(in, func(a, b Session) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), compareText(a.Address, b.Address))
	})
	var out []Session
	for _, s := range in {
		if s.Local != "" && seen[s.Address+" "+s.Local] {
			continue
		}
		seen[s.Local+" "+s.Address] = true
		out = append(out, s)
	}
	return out
}

func compareText(a, b string) int {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	if errX != nil || errY != nil {
		return strings.Compare(a, b)
	}
	return x.Compare(y)
}

func compareProblems(r *Result, name string, a, b node) {
	for _, p := range b.problems() {
		if !slices.Contains(a.problems(), p) {
			r.Problems = append(r.Problems, Problem{[]string{name}, p})
		}
	}
	for _, p := range a.problems() {
		if !slices.Contains(b.problems(), p) {
			r.Solved = append(r.Solved, Problem{[]string{name}, p})
		}
	}
}

// together makes one problem of those that several nodes have in the same words, in the
// order of their first nodes.
func together(in []Problem) []Problem {
	at := map[string]int{}
	var out []Problem
	for _, p := range in {
		i, known := at[p.Text]
		if !known {
			at[p.Text] = len(out)
			out = append(out, p)
			continue
		}
		out[i].Nodes = append(out[i].Nodes, p.Nodes...)
	}
	for i := range out {
		slices.Sort(out[i].Nodes)
		out[i].Nodes = slices.Compact(out[i].Nodes)
	}
	slices.SortStableFunc(out, func(a, b Problem) int { return strings.Compare(a.Nodes[0], b.Nodes[0]) })
	return out
}

// unknown says what the answer leaves open, where it matters.
func unknown(r Result, old, now *cluster) []string {
	outside := func(c *cluster, s Session) bool {
		addr, err := netip.ParseAddr(s.Address)
		return err == nil && !c.isNode(addr)
	}
	lost := map[string]bool{}
	for _, s := range r.Removed {
		if outside(old, s) {
			lost[s.Address] = true
		}
	}
	var out []string
	for _, addr := range slices.SortedFunc(maps.Keys(lost), compareText) {
		out = append(out, fmt.Sprintf("what %s announces is lost with its sessions: the datastore doesn't tell what that is; calicoctl bgp routes --in on its peers does", addr))
	}
	if len(r.Lost) > 0 && (now.hasOutside() || old.hasOutside()) {
		out = append(out, "routers outside the cluster may pass on what nodes announce: a prefix that is lost here may still come from them")
	}
	if now.passwords {
		out = append(out, "whether the secrets with the passwords are there: this takes them to be; without, the peer has no session, and calicoctl bgp peers says so")
	}
	if old.byDevice || now.byDevice {
		out = append(out, "which routes the filters' rules with an interface mean: devices are not in the datastore, so these rules are passed over")
	}
	return out
}

// globalChanges names what of a speaker itself changes; all its sessions start anew.
func globalChanges(a, b speaker.Global) string {
	if !a.RouterID.IsValid() || !b.RouterID.IsValid() {
		return ""
	}
	return changed(a, b)
}

package plan

import (
	"fmt"
	"reflect"
	"strings"

	"tortie/bgpd/topology"
)

// changedOnSession names what of a session becomes another while it goes on.
func changedOnSession(a, b node, p, q topology.Peer) string {
	var out []string
	note := func(changes bool, what string) {
		if changes {
			out = append(out, what)
		}
	}
	note(p.NextHop != q.NextHop, fmt.Sprintf("next hop changes from %s to %s", p.NextHop, q.NextHop))
	note(!reflect.DeepEqual(p.Filter, q.Filter), "filters change")
	note(p.BFD != q.BFD, fmt.Sprintf("BFD changes from %s to %s", p.BFD, q.BFD))
	note(p.Gateway != q.Gateway, "the router it is reached by changes")
	note(!a.Shutdown && b.Shutdown, "graceful shutdown begins")
	note(a.Shutdown && !b.Shutdown, "graceful shutdown ends")
	return strings.Join(out, ", ")
}

// goingOn are the sessions that change at one end and start anew at none.
func goingOn(r Result) []Session {
	ends := func(s Session) [2]string { return [2]string{min(s.Local, s.Address), max(s.Local, s.Address)} }
	anew := map[[2]string]bool{}
	for _, s := range r.Reset {
		anew[ends(s)] = s.Local != ""
	}
	var out []Session
	for _, s := range unique(r.Changed) {
		if !anew[ends(s)] {
			out = append(out, s)
		}
	}
	return out
}

package autotopology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/bgpsummary"
)

// settleSeconds is how long a session has to be up before anything is made to depend on
// it: its routes have been sent and put into the kernel by then.
const settleSeconds = 5

// relation is by what two nodes are to have a session.
type relation int

const (
	strangers relation = iota
	// byPeer: by our BGPPeer; one of them has the label.
	byPeer
	// byMesh: the mesh is on, and neither has a cluster ID.
	byMesh
)

func (c *cluster) relation(m, o *member) relation {
	switch {
	case m.labelled || o.labelled:
		return byPeer
	case c.mesh && !m.acting && !o.acting:
		return byMesh
	}
	return strangers
}

// shared are how many sessions two nodes may have: one of each family that both have.
func shared(m, o *member) (n int) {
	for _, a := range o.known {
		if m.has(a) {
			n++
		}
	}
	return n
}

// expected is how many sessions a node is to have with others.
func (c *cluster) expected(m *member) (ours, mesh int) {
	for _, o := range c.nodes {
		if o == m {
			continue
		}
		switch n := shared(m, o); c.relation(m, o) {
		case byPeer:
			ours += n
		case byMesh:
			mesh += n
		case strangers:
		}
	}
	return ours, mesh
}

// told is what a node was asked, and has answered.
func (c *cluster) told(m *member) (s bgpsummary.Summary, ok bool) {
	s, ok = c.in.Summaries[m.Name]
	return s, ok
}

// silent: the node was asked and doesn't answer, and nobody who did has a session with it
// that is up.
func (c *cluster) silent(m *member) bool {
	if _, answered := c.told(m); answered || !c.in.Asked[m.Name] {
		return false
	}
	return !c.seen(m).up
}

// sight is what the nodes that have answered say of their sessions with one: whether one is
// up, and whether one isn't.
type sight struct{ up, down bool }

func (c *cluster) seen(m *member) sight {
	if s, known := c.sights[m]; known {
		return s
	}
	var out sight
	for _, o := range c.nodes {
		s, answered := c.told(o)
		if !answered || o == m {
			continue
		}
		g := s.Mesh
		switch c.relation(o, m) {
		case byPeer:
			g = s.Peers[api.AutoTopologyPeer]
		case strangers:
			continue
		case byMesh:
		}
		for _, a := range m.known {
			if !o.has(a) {
				continue
			}
			_, missing := g.Down[a.String()]
			out.up, out.down = out.up || !missing && g.Sessions > 0, out.down || missing
		}
	}
	c.sights[m] = out
	return out
}

// lost: the node has nothing to lose any more. Others must have seen that.
func (c *cluster) lost(m *member) bool {
	return c.silent(m) && c.seen(m).down
}

func (c *cluster) wait(format string, args ...any) {
	c.waits = append(c.waits, fmt.Sprintf(format, args...))
}

// answers requires that a node does.
func (c *cluster) answers(m *member) {
	if _, answered := c.told(m); !c.in.Asked[m.Name] {
		c.asks[m.Name] = true
	} else if !answered {
		c.wait(noAnswer, m.Name)
	}
}

const noAnswer = "node %s doesn't answer: its bgpd is not running, can't reach the datastore, or is not of this version; run calicoctl node status there"

// settled requires that nodes act by what their resources say now, and that each has had
// its sessions for a while.
func (c *cluster) settled(nodes ...*member) {
	for _, m := range nodes {
		s, answered := c.told(m)
		switch {
		case m.acting && !m.labelled:
			// Somebody else's reflector, on the way back to the mesh.
		case !c.in.Asked[m.Name]:
			c.asks[m.Name] = true
		case answered:
			c.check(m, s)
		case !c.lost(m):
			c.wait(noAnswer, m.Name)
		}
	}
}

func (c *cluster) check(m *member, s bgpsummary.Summary) {
	if id := m.Spec.BGP.RouteReflectorClusterID; s.ClusterID != id {
		c.wait("node %s acts by the cluster ID %q, not yet by %q", m.Name, s.ClusterID, id)
		return
	}
	ours, mesh := c.expected(m)
	c.checkGroup(m, s.Peers[api.AutoTopologyPeer], ours)
	c.checkGroup(m, s.Mesh, mesh)
	if s.Kept > 0 {
		c.wait("node %s keeps %d routes of sessions that are not up", m.Name, s.Kept)
	}
}

func (c *cluster) checkGroup(m *member, g bgpsummary.Group, want int) {
	bad := len(c.waits) + len(c.asks)
	for _, text := range slices.Sorted(maps.Keys(g.Down)) {
		addr, _ := netip.ParseAddr(text)
		other := c.byAddr[addr]
		switch {
		case other == nil:
			c.wait("node %s: session with %s: %s", m.Name, text, g.Down[text])
		case !c.in.Asked[other.Name]:
			c.asks[other.Name] = true
		case !c.lost(other):
			c.wait("node %s: session with %s, %s: %s", m.Name, other.Name, text, g.Down[text])
		}
	}
	switch {
	case len(c.waits)+len(c.asks) > bad:
	case g.Sessions != want:
		c.wait("node %s has %d sessions, not yet %d", m.Name, g.Sessions, want)
	case g.Sessions > len(g.Down) && g.Youngest < settleSeconds:
		c.wait("node %s: a session has been up for %d s, wanted are %d", m.Name, g.Youngest, settleSeconds)
	}
}

// withoutMesh requires that no node depends on the mesh.
func (c *cluster) withoutMesh() {
	for _, m := range c.nodes {
		if s, ok := c.told(m); ok && !m.acting && s.MeshOnly > 0 {
			c.wait("node %s knows %d prefixes by the mesh alone", m.Name, s.MeshOnly)
		}
	}
}

// withoutReflectors requires that no node depends on what reflectors pass on.
func (c *cluster) withoutReflectors() {
	for _, m := range c.nodes {
		s, ok := c.told(m)
		if !ok || m.acting {
			continue
		}
		for _, hop := range slices.Sorted(maps.Keys(s.Reflected)) {
			addr, _ := netip.ParseAddr(hop)
			if owner := c.byAddr[addr]; owner != nil {
				c.wait("node %s knows %d prefixes of %s by reflectors alone", m.Name, s.Reflected[hop], owner.Name)
			}
		}
	}
}

// withoutSessionsOf requires that neither m, nor any other node that is no reflector,
// depends on the sessions between them.
func (c *cluster) withoutSessionsOf(m *member) {
	for _, o := range c.nodes {
		if o == m || o.acting {
			continue
		}
		c.notOnly(o, m)
		c.notOnly(m, o)
	}
}

func (c *cluster) notOnly(m, other *member) {
	s, ok := c.told(m)
	if !ok {
		return
	}
	for _, a := range other.addrs {
		if n := s.Only[a.String()]; n > 0 {
			c.wait("node %s knows %d prefixes by its session with %s alone", m.Name, n, other.Name)
		}
	}
}

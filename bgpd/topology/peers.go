package topology

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
	"tortie/internal/selector"
)

// mesh makes a session to every other node. Route reflectors have no part in it:
// a node with a cluster ID neither has mesh sessions nor is given any.
func (c *computation) mesh() {
	if c.settings.mesh && !c.self.cluster.IsValid() && c.settings.meshRefused != "" {
		c.problem("BGPConfiguration default: %s", c.settings.meshRefused)
		return
	}
	for _, n := range c.nodes {
		for _, remote := range n.addresses() {
			if _, taken := c.peers[remote]; taken || c.withheld[remote] || c.meshNode(remote) != n {
				continue
			}
			p := c.toNode(n, remote)
			p.Name, p.Type, p.Reason = n.name, Mesh, string(Mesh)
			p.RestartTime, p.Password = c.settings.meshRestartTime, c.settings.meshPassword
			c.settings.meshOptions.apply(&p)
			c.longLived("BGPConfiguration default", &p)
			c.peers[remote] = p
		}
	}
}

// meshNode is the node that the mesh has at an address; nil for none.
func (c *computation) meshNode(remote netip.Addr) *node {
	n := c.byAddr[remote]
	switch {
	case !c.settings.mesh || c.settings.meshRefused != "" || c.self.cluster.IsValid():
		return nil
	case n == nil || n == c.self || n.cluster.IsValid() || !c.self.address(remote).IsValid():
		return nil
	}
	return n
}

// toNode is a session to another node of the cluster.
func (c *computation) toNode(n *node, remote netip.Addr) Peer {
	local := c.self.address(remote)
	return Peer{Node: n.name, Peer: speaker.Peer{
		Address: remote, Port: n.port, ASN: n.asn, LocalAddress: local,
		Passive:     passive(local, remote),
		Multihop:    n.asn != c.self.asn,
		RestartTime: DefaultRestartTime,
	}}
}

// passive decides which of two nodes connects, so that two connections never
// meet. It is upstream's rule, on the text of the addresses: both sides of a
// session have to come to opposite answers, in a cluster of both systems too.
func passive(local, remote netip.Addr) bool { return local.String() > remote.String() }

// explicitPeers makes the sessions of the BGPPeer resources. Two resources that
// ask for the same address: the one meant for fewer nodes counts, then the first
// by name.
func (c *computation) explicitPeers() {
	in := slices.Clone(c.in.Peers)
	slices.SortFunc(in, func(a, b *v3.BGPPeer) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, r := range in {
		if why := api.PeerWithoutNode(r, c.in.Nodes); why != "" {
			c.problem("BGPPeer %s: %s; nobody has this session", r.Name, why)
		}
		peers, err := c.resolve(r)
		if err != nil {
			c.refused(r, "%v; the peer is not configured", err)
			continue
		}
		for _, p := range peers {
			if err := c.fitsMesh(p); err != nil {
				c.refused(r, "%v, or delete the BGPPeer; the peer is not configured and the mesh session stays", err)
				continue
			}
			if c.meshNode(p.Address) != nil {
				// The other end has the mesh session back: two that connect can miss one
				// another for minutes, and a session that stays the same is not reset.
				p.Passive = passive(c.self.address(p.Address), p.Address)
			}
			c.add(r, p)
		}
	}
}

// fitsMesh: a peer that takes the place of a mesh session must be one that the
// node at the other end, which has the mesh session back, can agree to.
func (c *computation) fitsMesh(p Peer) error {
	n := c.meshNode(p.Address)
	switch {
	case n == nil:
		return nil
	case p.ASN != n.asn:
		return fmt.Errorf("%s is the address of mesh node %s, whose AS number is %d, not %d: set spec.asNumber to %d",
			p.Address, n.name, n.asn, p.ASN, n.asn)
	case p.Port != n.port:
		return fmt.Errorf("%s is the address of mesh node %s, which listens on port %d, not %d: leave the port out of spec.peerIP",
			p.Address, n.name, n.port, p.Port)
	case p.LocalASN != 0 && p.LocalASN != c.self.asn:
		return fmt.Errorf("%s is the address of mesh node %s, which knows this node by AS number %d, not %d: unset spec.localASNumber",
			p.Address, n.name, c.self.asn, p.LocalASN)
	case p.Password != c.settings.meshPassword:
		return fmt.Errorf("%s is the address of mesh node %s, which has another password for this node: name that of spec.nodeMeshPassword of the BGPConfiguration",
			p.Address, n.name)
	}
	return nil
}

func rank(p *v3.BGPPeer) int {
	switch {
	case p.Spec.Node != "":
		return 0
	case p.Spec.NodeSelector != "":
		return 1
	}
	return 2
}

func (c *computation) add(r *v3.BGPPeer, p Peer) {
	p.Name, p.Type = cmp.Or(p.Node, r.Name), cmp.Or(p.Type, typeOf(r))
	p.Resource, p.Reason = r.Name, "BGPPeer "+r.Name
	if p.Workload != "" {
		p.Reason += ", pod " + p.Workload
	}
	c.options("BGPPeer", r).apply(&p)
	c.longLived("BGPPeer "+r.Name, &p)
	if c.withheld[p.Address] {
		c.refused(r, "%s is the peer of another BGPPeer, whose filters can't be carried out; it is not configured without them", p.Address)
		return
	}
	if other, taken := c.peers[p.Address]; taken {
		if other.Port != p.Port {
			c.refused(r, "%s is already the peer of %s, on port %d: this version has one session with an address, whatever the ports; "+
				"give the other speaker there an address of its own; it is not configured", p.Address, other.Reason, other.Port)
		} else if other.Peer != p.Peer || !reflect.DeepEqual(other.Filter, p.Filter) {
			c.refused(r, "%s is already the peer of %s, with other settings: delete one of the two, or make them alike; it is not configured", p.Address, other.Reason)
		}
		return
	}
	c.peers[p.Address] = p
}

// resolve is the sessions a BGPPeer means for this node.
func (c *computation) resolve(r *v3.BGPPeer) ([]Peer, error) {
	here, err := c.matches(r)
	if err != nil {
		return nil, err
	}
	var peers []Peer
	switch {
	case here && r.Spec.LocalWorkloadSelector != "":
		peers, err = c.workloads(r)
	case r.Spec.PeerSelector != "":
		peers, err = c.selected(r, here)
	case here && r.Spec.PeerIP != "":
		peers, err = c.addressed(r)
	case here:
		return nil, fmt.Errorf("neither spec.peerIP nor spec.peerSelector is set")
	}
	if err != nil || len(peers) == 0 {
		return nil, err
	}
	// Only now, so that a node that has no part in it doesn't complain.
	if err := refuse(r); err != nil {
		return nil, err
	}
	password, err := c.password("spec.password", r.Spec.Password)
	if err != nil {
		return nil, err
	}
	for i := range peers {
		peers[i].Password = password
		c.settle(&peers[i], &r.Spec)
		if peers[i].Filter, err = c.filter(&peers[i], r.Spec.Filters); err != nil {
			c.withhold(peers)
			return nil, err
		}
	}
	return peers, nil
}

// refuse names a field whose value makes no sense. Such a peer must not come up without
// it: it would advertise or accept what the field forbids.
func refuse(r *v3.BGPPeer) error {
	if problems := api.PeerProblems(r); len(problems) > 0 {
		return errors.New(problems[0].String())
	}
	return nil
}

// matches: the resource is meant for this node.
func (c *computation) matches(r *v3.BGPPeer) (bool, error) {
	s := &r.Spec
	switch {
	case s.Node != "" && s.NodeSelector != "":
		return false, fmt.Errorf("spec.node and spec.nodeSelector exclude one another")
	case s.PeerIP != "" && s.PeerSelector != "":
		return false, fmt.Errorf("spec.peerIP and spec.peerSelector exclude one another")
	}
	here, err := api.PeerIsFor(r, c.self.name, c.self.labels)
	if err != nil {
		return false, fmt.Errorf("spec.nodeSelector: %w", err)
	}
	return here, nil
}

// selected are the sessions of a peerSelector: from the nodes the resource is
// for to those selected, and back.
func (c *computation) selected(r *v3.BGPPeer, here bool) ([]Peer, error) {
	sel, err := selector.Parse(r.Spec.PeerSelector)
	if err != nil {
		return nil, fmt.Errorf("spec.peerSelector: %w", err)
	}
	reverse := r.Spec.ReversePeering == nil || *r.Spec.ReversePeering == v3.ReversePeeringAuto
	selectsSelf := reverse && sel.Matches(c.self.labels)
	var out []Peer
	for _, n := range c.nodes {
		there := here && sel.Matches(n.labels)
		if n == c.self || !there && !(selectsSelf && c.meant(r, n)) {
			continue
		}
		kind := typeOf(r)
		if !there {
			kind = NodeSpecific // the way back, which upstream calls so whoever the resource is for
		}
		for _, remote := range n.addresses() {
			if c.self.address(remote).IsValid() && c.byAddr[remote] == n {
				p := c.toNode(n, remote)
				// Without the way back the other side doesn't know us as a peer it
				// could connect to, so the one configured has to.
				p.Passive = p.Passive && reverse
				p.Type = kind
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// meant: the resource is for node n. Its selectors have been parsed before.
func (c *computation) meant(r *v3.BGPPeer, n *node) bool {
	is, err := api.PeerIsFor(r, n.name, n.labels)
	return err == nil && is
}

// addressed is the session of a peerIP.
func (c *computation) addressed(r *v3.BGPPeer) ([]Peer, error) {
	remote, port, err := parsePeerIP(r.Spec.PeerIP)
	if err != nil {
		return nil, fmt.Errorf("spec.peerIP %q: %w", r.Spec.PeerIP, err)
	}
	if r.Spec.ASNumber == 0 {
		return nil, fmt.Errorf("spec.asNumber is not set")
	}
	if c.byAddr[remote] == c.self {
		if r.Spec.Node != "" {
			return nil, fmt.Errorf("spec.peerIP %s is the address of node %s itself: set it to that of the router to peer with", remote, c.self.name)
		}
		return nil, nil // meant for several nodes, of which one is the peer
	}
	local := c.self.address(remote)
	if !local.IsValid() {
		return nil, fmt.Errorf("%s can't be reached: this node has no address of that family", remote)
	}
	by, err := gateway(r.Spec.ReachableBy, remote)
	if err != nil {
		return nil, err
	}
	asn := uint32(r.Spec.ASNumber)
	p := Peer{Gateway: by, Peer: speaker.Peer{
		Address: remote, Port: port, ASN: asn, LocalAddress: local, RestartTime: DefaultRestartTime,
	}}
	if n := c.byAddr[remote]; n != nil {
		// Its node may well have no session back: whoever is configured connects.
		p.Node = n.name
		if port == 0 && asn == n.asn {
			p.Port = n.port
		}
	}
	if p.Port == 0 {
		p.Port = DefaultPort
	}
	return []Peer{p}, nil
}

// settle fills in what is said of a session whichever way it was found.
func (c *computation) settle(p *Peer, s *v3.BGPPeerSpec) {
	if s.LocalASNumber != nil {
		p.LocalASN = uint32(*s.LocalASNumber)
	}
	localASN := c.self.asn
	if p.LocalASN != 0 {
		localASN = p.LocalASN
	}
	if s.MaxRestartTime != nil {
		p.RestartTime = s.MaxRestartTime.Duration.Truncate(time.Second)
	}
	if s.NumAllowedLocalASNumbers != nil {
		p.AllowOwnASN = uint8(min(max(*s.NumAllowedLocalASNumbers, 0), 255))
	}
	if s.SourceAddress == v3.SourceAddressNone && p.Workload == "" {
		p.LocalAddress = netip.Addr{}
	}
	external := p.ASN != localASN
	p.NextHop = nextHop(s, external)
	p.Multihop = external // a peer need not be on our segment, as upstream has it
	if s.TTLSecurity != nil && *s.TTLSecurity > 0 {
		p.TTLSecurity, p.Multihop = *s.TTLSecurity, false
	}
	if !external && c.self.cluster.IsValid() {
		p.ReflectorClient, p.ClusterID = !c.sameCluster(p.Node), c.self.cluster
	}
}

// nextHop is upstream's rule: the mode, or without one the older field, which counts
// for external peers alone.
func nextHop(s *v3.BGPPeerSpec, external bool) speaker.NextHopMode {
	switch {
	case s.NextHopMode == nil && s.KeepOriginalNextHop && external:
		return speaker.NextHopKeep
	case s.NextHopMode == nil:
		return speaker.NextHopAuto
	case *s.NextHopMode == v3.NextHopMode(v3.NextHopModeSelf):
		return speaker.NextHopSelf
	case *s.NextHopMode == v3.NextHopMode(v3.NextHopModeKeep):
		return speaker.NextHopKeep
	}
	return speaker.NextHopAuto
}

// sameCluster: the peer is another reflector of our cluster, not a client.
func (c *computation) sameCluster(name string) bool {
	for _, n := range c.nodes {
		if n.name == name {
			return n.cluster == c.self.cluster
		}
	}
	return false
}

// parsePeerIP reads an address with or without a port. The port of IPv6 needs
// brackets; a bare IPv6 address has none.
func parsePeerIP(s string) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return usable(a, 0)
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.Addr{}, 0, fmt.Errorf("want an address, <IPv4>:<port> or [<IPv6>]:<port>")
	}
	return usable(ap.Addr(), ap.Port())
}

func usable(a netip.Addr, port uint16) (netip.Addr, uint16, error) {
	a = a.Unmap()
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return netip.Addr{}, 0, fmt.Errorf("no peer can have this address")
	}
	return a, port, nil
}

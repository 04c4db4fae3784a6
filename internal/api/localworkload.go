package api

import (
	"fmt"
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/selector"
)

// PeeringAddresses are the node's own in sessions with its pods, the same on every node;
// invalid where there are none of a family.
type PeeringAddresses struct{ IPv4, IPv6 netip.Addr }

// Of is the one of the family of a.
func (p PeeringAddresses) Of(a netip.Addr) netip.Addr {
	if a.Is4() {
		return p.IPv4
	}
	return p.IPv6
}

// Without leaves out those that somebody else has, and returns why. On a node's ends of
// pods such an address would draw away what is sent to its owner.
func (p PeeringAddresses) Without(nodes map[netip.Addr]string, networks, pools []netip.Prefix) (PeeringAddresses, []Problem) {
	var problems []Problem
	for field, a := range map[string]*netip.Addr{"spec.localWorkloadPeeringIPV4": &p.IPv4, "spec.localWorkloadPeeringIPV6": &p.IPv6} {
		why := takenBy(*a, nodes, networks, pools)
		if why == "" {
			continue
		}
		problems = append(problems, Problem{Field: field, Reason: fmt.Sprintf("%s: %s: want an address that nobody else has, such as 169.254.0.179", a, why)})
		*a = netip.Addr{}
	}
	return p, problems
}

func takenBy(a netip.Addr, nodes map[netip.Addr]string, networks, pools []netip.Prefix) string {
	if node, ok := nodes[a]; ok {
		return "it is the address of node " + node
	}
	for _, network := range networks {
		if network.Contains(a) {
			return fmt.Sprintf("it lies in %s, a network of nodes", network.Masked())
		}
	}
	for _, pool := range pools {
		if pool.Contains(a) {
			return fmt.Sprintf("it lies in the IP pool %s", pool)
		}
	}
	return ""
}

// PeeringAddressesOf reads localWorkloadPeeringIPV4 and …IPV6. One that makes no sense is
// as none.
func PeeringAddressesOf(s *v3.BGPConfigurationSpec) (PeeringAddresses, []Problem) {
	var c checker
	return c.peeringAddresses(s), c.problems
}

func (c *checker) peeringAddresses(s *v3.BGPConfigurationSpec) PeeringAddresses {
	return PeeringAddresses{
		IPv4: c.peeringAddress("spec.localWorkloadPeeringIPV4", s.LocalWorkloadPeeringIPV4, 4),
		IPv6: c.peeringAddress("spec.localWorkloadPeeringIPV6", s.LocalWorkloadPeeringIPV6, 6),
	}
}

func (c *checker) peeringAddress(field, value string, family int) netip.Addr {
	if value == "" {
		return netip.Addr{}
	}
	a, ok := c.addr(field, value, family)
	switch {
	case !ok:
		return netip.Addr{}
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.Is6() && a.IsLinkLocalUnicast():
		c.bad(field, value, "pods can't connect to it: want an address that nobody else has, such as %s",
			map[int]string{4: "169.254.0.179", 6: "fd00:0:0:b9::1"}[family])
		return netip.Addr{}
	}
	return a
}

// PeerIsFor reports whether a BGPPeer means a node, by its name or labels.
func PeerIsFor(p *v3.BGPPeer, node string, labels map[string]string) (bool, error) {
	switch {
	case p.Spec.Node != "":
		return p.Spec.Node == node, nil
	case p.Spec.NodeSelector != "":
		sel, err := selector.Parse(p.Spec.NodeSelector)
		if err != nil {
			return false, err
		}
		return sel.Matches(labels), nil
	}
	return true, nil
}

// PodsOf selects the pods of a node that a BGPPeer makes its peers; nil where there are
// none of them. What can't be read selects none.
func PodsOf(p *v3.BGPPeer, node string, labels map[string]string) func(pod map[string]string) bool {
	if p.Spec.LocalWorkloadSelector == "" || p.Spec.Node != "" && p.Spec.NodeSelector != "" {
		return nil
	}
	sel, err := selector.Parse(p.Spec.LocalWorkloadSelector)
	if err != nil {
		return nil
	}
	if here, err := PeerIsFor(p, node, labels); err != nil || !here {
		return nil
	}
	return sel.Matches
}

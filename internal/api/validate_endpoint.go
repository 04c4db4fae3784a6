package api

import (
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

func checkHostEndpoint(c *checker, h *v3.HostEndpoint) {
	s := &h.Spec
	c.name("spec.node", s.Node)
	if s.InterfaceName == "" && len(s.ExpectedIPs) == 0 {
		c.missing("spec.interfaceName", "is missing: want the name of a network device or * for all, or else spec.expectedIPs")
	}
	c.interfaceName("spec.interfaceName", s.InterfaceName)
	for i, ip := range s.ExpectedIPs {
		c.addr(at("spec.expectedIPs", i), ip, 0)
	}
	c.names("spec.profiles", s.Profiles)
	for i := range s.Ports {
		c.endpointPort(at("spec.ports", i), s.Ports[i].Name, &s.Ports[i].Protocol, s.Ports[i].Port)
	}
}

// endpointPort checks a named port of an endpoint.
func (c *checker) endpointPort(field, name string, protocol *Protocol, port uint16) {
	c.portName(field+".name", name)
	n := c.protocol(field+".protocol", protocol)
	if n != 0 && n != protocolTCP && n != protocolUDP && n != protocolSCTP {
		c.bad(field+".protocol", protocol.String(), "has no ports, want TCP, UDP or SCTP")
	}
	if port == 0 {
		c.bad(field+".port", port, "want 1 to 65535")
	}
}

func checkNode(c *checker, n *Node) {
	s := &n.Spec
	if s.BGP != nil {
		c.nodeBGP(s.BGP)
	}
	c.optionalAddr("spec.ipv4VXLANTunnelAddr", s.IPv4VXLANTunnelAddr, 4)
	c.optionalAddr("spec.ipv6VXLANTunnelAddr", s.IPv6VXLANTunnelAddr, 6)
	c.mac("spec.vxlanTunnelMACAddr", s.VXLANTunnelMACAddr)
	c.mac("spec.vxlanTunnelMACAddrV6", s.VXLANTunnelMACAddrV6)
	for i, ref := range s.OrchRefs {
		if ref.Orchestrator == "" {
			c.missing(at("spec.orchRefs", i)+".orchestrator", "is missing, want for example k8s")
		}
	}
	if s.Wireguard != nil {
		c.optionalAddr("spec.wireguard.interfaceIPv4Address", s.Wireguard.InterfaceIPv4Address, 4)
		c.optionalAddr("spec.wireguard.interfaceIPv6Address", s.Wireguard.InterfaceIPv6Address, 6)
	}
	for i, a := range s.Addresses {
		c.network(at("spec.addresses", i)+".address", a.Address, 0)
		oneOf(c, at("spec.addresses", i)+".type", a.Type, "CalicoNodeIP", "InternalIP", "ExternalIP")
	}
	for i, iface := range s.Interfaces {
		field := at("spec.interfaces", i)
		c.interfaceName(field+".name", iface.Name)
		for j, a := range iface.Addresses {
			c.network(at(field+".addresses", j), a, 0)
		}
	}
	c.networks("status.podCIDRs", n.Status.PodCIDRs)
}

func (c *checker) nodeBGP(b *NodeBGPSpec) {
	c.asn("spec.bgp.asNumber", b.ASNumber)
	if b.IPv4Address == "" && b.IPv6Address == "" {
		c.missing("spec.bgp", "says no address: set ipv4Address or ipv6Address with the prefix length of its subnet, such as 10.10.0.1/24")
	}
	c.nodeAddress("spec.bgp.ipv4Address", b.IPv4Address, 4)
	c.nodeAddress("spec.bgp.ipv6Address", b.IPv6Address, 6)
	c.optionalAddr("spec.bgp.ipv4IPIPTunnelAddr", b.IPv4IPIPTunnelAddr, 4)
	c.optionalAddr("spec.bgp.routeReflectorClusterID", b.RouteReflectorClusterID, 4)
}

// nodeAddress checks the address of a node, with or without a prefix length.
func (c *checker) nodeAddress(field, value string, family int) {
	if value == "" {
		return
	}
	prefix, ok := c.network(field, value, family)
	if !ok {
		return
	}
	if a := prefix.Addr(); a.IsMulticast() || (prefix.Bits() == a.BitLen() && a.IsUnspecified()) {
		c.bad(field, value, "is not the address of a node")
	}
}

func checkWorkloadEndpoint(c *checker, w *WorkloadEndpoint) {
	s := &w.Spec
	if name, err := WorkloadEndpointName(s); err != nil {
		c.missing("spec", "%v", err)
	} else if name != w.Name {
		c.bad("metadata.name", w.Name, "does not fit the spec, want %s", name)
	}
	c.name("spec.node", s.Node)
	addrs := c.workloadAddrs(s.IPNetworks)
	for i, nat := range s.IPNATs {
		c.ipNAT(at("spec.ipNATs", i), nat, addrs)
	}
	c.optionalAddr("spec.ipv4Gateway", s.IPv4Gateway, 4)
	c.optionalAddr("spec.ipv6Gateway", s.IPv6Gateway, 6)
	c.names("spec.profiles", s.Profiles)
	c.interfaceName("spec.interfaceName", s.InterfaceName)
	c.mac("spec.mac", s.MAC)
	for i := range s.Ports {
		p := &s.Ports[i]
		field := at("spec.ports", i)
		if p.Name != "" || p.HostPort == 0 {
			c.endpointPort(field, p.Name, &p.Protocol, p.Port)
		} else {
			c.protocol(field+".protocol", &p.Protocol)
		}
		c.optionalAddr(field+".hostIP", p.HostIP, 0)
	}
	c.networks("spec.allowSpoofedSourcePrefixes", s.AllowSpoofedSourcePrefixes)
	if q := s.QoSControls; q != nil && q.DSCP != nil && q.DSCP.Validate() != nil {
		c.bad("spec.qosControls.dscp", *q.DSCP, "want 0 to 63, or a name such as EF or AF11")
	}
}

// workloadAddrs checks that every network is one address.
func (c *checker) workloadAddrs(networks []string) []netip.Addr {
	var addrs []netip.Addr
	for i, text := range networks {
		prefix, ok := c.network(at("spec.ipNetworks", i), text, 0)
		if ok && !prefix.IsSingleIP() {
			c.bad(at("spec.ipNetworks", i), text, "want one address: a length of /32 for IPv4, /128 for IPv6")
		} else if ok {
			addrs = append(addrs, prefix.Addr())
		}
	}
	return addrs
}

func (c *checker) ipNAT(field string, nat IPNAT, addrs []netip.Addr) {
	internal, ok1 := c.addr(field+".internalIP", nat.InternalIP, 0)
	external, ok2 := c.addr(field+".externalIP", nat.ExternalIP, 0)
	if !ok1 || !ok2 {
		return
	}
	if internal.Is4() != external.Is4() {
		c.bad(field+".externalIP", nat.ExternalIP, "is not of the same IP family as %s", nat.InternalIP)
	}
	if !slices.Contains(addrs, internal) {
		c.bad(field+".internalIP", nat.InternalIP, "is not among spec.ipNetworks")
	}
}

// workloadEndpointName allows what container IDs and device names may consist of.
func (c *checker) workloadEndpointName(field, name string) {
	ok := name != "" && len(name) <= maxName && !strings.ContainsAny(name[:1]+name[len(name)-1:], "-.")
	for i := 0; ok && i < len(name); i++ {
		b := name[i]
		ok = b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("-._", b) >= 0
	}
	if !ok {
		c.bad(field, name, "want at most %d letters, digits, '-', '_' and '.': <node>-<orchestrator>-<workload>-<endpoint>", maxName)
	}
}

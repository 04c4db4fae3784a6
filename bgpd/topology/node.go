package topology

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/speaker"
	"tortie/internal/advertise"
	"tortie/internal/api"
)

// settings is the BGPConfiguration named default, with its defaults.
type settings struct {
	asn             uint32
	mesh            bool
	port            uint16
	bindNodeIP      bool
	meshRestartTime time.Duration
	// meshRefused says why no mesh session may be made although the mesh is on.
	meshRefused     string
	meshOptions     options
	meshPasswordRef *v3.BGPPassword
	meshPassword    speaker.Password
	// ports has the listen port of nodes with a BGPConfiguration of their own.
	ports          map[string]uint16
	advertisements []advertisement
	// services are the ranges of service addresses.
	services advertise.Ranges
	// peering are the node's own addresses in sessions with its pods.
	peering api.PeeringAddresses
}

const nodeConfigPrefix = "node."

func (c *computation) readSettings() {
	c.settings = settings{
		asn: DefaultASN, mesh: true, port: DefaultPort, meshRestartTime: DefaultRestartTime,
		ports: map[string]uint16{},
	}
	for _, conf := range c.in.Configs {
		name := conf.Name
		c.readProblems(conf)
		if node, ok := strings.CutPrefix(name, nodeConfigPrefix); ok {
			if node == c.in.Node {
				c.strangeNames(api.KindBGPConfiguration, conf)
			}
			if conf.Spec.ListenPort != 0 {
				c.settings.ports[node] = conf.Spec.ListenPort
			}
			continue
		}
		if name == advertise.ConfigName {
			c.readDefault(&conf.Spec)
			c.settings.meshOptions = c.options("BGPConfiguration", conf)
		}
	}
	c.readNodeConfig(c.in.Configs)
	c.out.Mesh = c.settings.mesh
}

// readProblems names the values of a BGPConfiguration that make no sense. The fields are
// taken as not set; those about services are looked at with them.
func (c *computation) readProblems(conf *v3.BGPConfiguration) {
	for _, p := range api.BGPProblems(conf) {
		switch p.Field {
		case "spec.asNumber", "spec.bindMode", "spec.nodeMeshMaxRestartTime", "spec.nodeMeshPassword", "spec.nodeToNodeMeshEnabled",
			"spec.localWorkloadPeeringIPV4", "spec.localWorkloadPeeringIPV6":
			c.problem("BGPConfiguration %s: %s; it has no effect", conf.Name, p)
		default:
			if strings.HasPrefix(p.Field, "spec.ignoredInterfaces[") {
				c.problem("BGPConfiguration %s: %s; it has no effect", conf.Name, p)
			}
		}
	}
}

func (c *computation) readDefault(spec *v3.BGPConfigurationSpec) {
	s := &c.settings
	if spec.ASNumber != nil && *spec.ASNumber != 0 {
		s.asn = uint32(*spec.ASNumber)
	}
	if spec.NodeToNodeMeshEnabled != nil {
		s.mesh = *spec.NodeToNodeMeshEnabled
	}
	if spec.ListenPort != 0 {
		s.port = spec.ListenPort
	}
	if spec.BindMode != nil {
		s.bindNodeIP = *spec.BindMode == v3.BindModeNodeIP
	}
	if spec.NodeMeshMaxRestartTime != nil {
		s.meshRestartTime = spec.NodeMeshMaxRestartTime.Duration.Truncate(time.Second)
	}
	s.meshPasswordRef = spec.NodeMeshPassword
	s.services = advertise.RangesOf(spec)
	for _, problem := range s.services.Problems {
		c.problem("BGPConfiguration default: %s", problem)
	}
	s.peering, _ = api.PeeringAddressesOf(spec)
}

// node is a Node with at least one BGP address, read once.
type node struct {
	name       string
	kubernetes string // its name there
	labels     map[string]string
	ipv4, ipv6 netip.Addr
	segments   []netip.Prefix // the subnets that the addresses are given with
	asn        uint32
	port       uint16
	cluster    netip.Addr // route reflector cluster ID; invalid for none
}

// readNode returns nil for a node that doesn't speak BGP.
func (c *computation) readNode(in *api.Node) *node {
	if in.Name == c.in.Node {
		c.strangeNames(api.KindNode, in)
	}
	if in.Spec.BGP == nil {
		return nil
	}
	n := &node{name: in.Name, kubernetes: cmp.Or(in.KubernetesName(), in.Name), labels: in.Labels, asn: c.settings.asn, port: c.settings.port}
	n.ipv4 = c.readAddress(in.Name, "ipv4Address", in.Spec.BGP.IPv4Address, netip.Addr.Is4)
	n.ipv6 = c.readAddress(in.Name, "ipv6Address", in.Spec.BGP.IPv6Address, netip.Addr.Is6)
	if !n.ipv4.IsValid() && !n.ipv6.IsValid() {
		return nil
	}
	for _, a := range []string{in.Spec.BGP.IPv4Address, in.Spec.BGP.IPv6Address} {
		if p, err := netip.ParsePrefix(a); err == nil && slices.Contains(n.addresses(), p.Addr()) {
			n.segments = append(n.segments, p.Masked())
		}
	}
	switch asn := in.Spec.BGP.ASNumber; {
	case asn == nil:
	case *asn == 0:
		c.problem("Node %s: spec.bgp.asNumber 0 is nobody's: want 1 to 4294967295; %d is taken", in.Name, n.asn)
	default:
		n.asn = uint32(*asn)
	}
	if port, ok := c.settings.ports[in.Name]; ok {
		n.port = port
	}
	if id := in.Spec.BGP.RouteReflectorClusterID; id != "" {
		cluster, ok := parseClusterID(id)
		if !ok {
			c.problem("Node %s: spec.bgp.routeReflectorClusterID %q is not a cluster ID: "+
				"want the form of an IPv4 address, for example 244.0.0.1", in.Name, id)
		}
		n.cluster = cluster
	}
	return n
}

// readAddress reads "10.0.0.1/24" or a bare address.
func (c *computation) readAddress(name, field, value string, family func(netip.Addr) bool) netip.Addr {
	if value == "" {
		return netip.Addr{}
	}
	bare, _, _ := strings.Cut(value, "/")
	a, err := netip.ParseAddr(bare)
	if err != nil || !family(a) || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		c.problem("Node %s: spec.bgp.%s %q is not such an address; the node has no session of that family", name, field, value)
		return netip.Addr{}
	}
	return a
}

func parseClusterID(id string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(id); err == nil && a.Is4() && !a.IsUnspecified() {
		return a, true
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil || n == 0 {
		return netip.Addr{}, false
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b), true
}

func (n *node) addresses() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{n.ipv4, n.ipv6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// address is the node's in the family of a; invalid when it has none.
func (n *node) address(a netip.Addr) netip.Addr {
	if a.Is4() {
		return n.ipv4
	}
	return n.ipv6
}

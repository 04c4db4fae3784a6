package api

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxRestartTime is the longest restart time that BGP can announce: 12 bits of
// seconds (RFC 4724 section 3).
const maxRestartTime = 4095 * time.Second

const wantPeerIP = "want an address such as 192.0.2.1 or fd00::1, or with a port 192.0.2.1:1790 or [fd00::1]:1790"

// ParsePeerIP reads the address of a BGP peer: an address, or an address and
// port as 192.0.2.1:1790 or [fd00::1]:1790. The port is 0 when not given.
func ParsePeerIP(s string) (netip.Addr, uint16, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return addr, 0, nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" || ap.Addr().Is4In6() {
		return netip.Addr{}, 0, &ValidationError{Problems: []Problem{{
			Value: strconv.Quote(s), Reason: wantPeerIP,
		}}}
	}
	return ap.Addr(), ap.Port(), nil
}

// PeerProblems are what makes no sense in a BGPPeer, which whoever wrote it may not have
// checked.
func PeerProblems(p *v3.BGPPeer) []Problem {
	var c checker
	c.peerSpec(&p.Spec)
	return c.problems
}

// BGPProblems are the same of a BGPConfiguration.
func BGPProblems(b *v3.BGPConfiguration) []Problem {
	var c checker
	c.bgpSpec(b)
	return c.problems
}

func checkBGPPeer(c *checker, p *v3.BGPPeer) {
	c.peerSpec(&p.Spec)
	c.session(p.Annotations)
}

func (c *checker) peerSpec(s *v3.BGPPeerSpec) {
	c.optionalName("spec.node", s.Node)
	c.selector("spec.nodeSelector", s.NodeSelector)
	c.selector("spec.peerSelector", s.PeerSelector)
	c.selector("spec.localWorkloadSelector", s.LocalWorkloadSelector)
	if s.Node != "" && s.NodeSelector != "" {
		c.bad("spec.nodeSelector", s.NodeSelector, "can't be combined with spec.node; set one of the two")
	}
	c.peerTarget(s)
	c.asn("spec.localASNumber", s.LocalASNumber)
	if s.NextHopMode != nil {
		oneOf(c, "spec.nextHopMode", string(*s.NextHopMode), "Auto", "Self", "Keep")
	}
	c.bgpPassword("spec.password", s.Password)
	oneOf(c, "spec.sourceAddress", s.SourceAddress, v3.SourceAddressUseNodeIP, v3.SourceAddressNone)
	c.duration("spec.maxRestartTime", s.MaxRestartTime, maxRestartTime)
	between(c, "spec.numAllowedLocalASNumbers", s.NumAllowedLocalASNumbers, 0, 255)
	between(c, "spec.ttlSecurity", s.TTLSecurity, 0, 254)
	c.names("spec.filters", s.Filters)
	oneOfPtr(c, "spec.reversePeering", s.ReversePeering, v3.ReversePeeringAuto, v3.ReversePeeringManual)
}

// peerTarget checks that exactly one of peerIP, peerSelector and
// localWorkloadSelector says who the peer is, and that its AS number is known.
func (c *checker) peerTarget(s *v3.BGPPeerSpec) {
	var given []string
	for _, f := range []struct{ name, value string }{
		{"peerIP", s.PeerIP}, {"peerSelector", s.PeerSelector}, {"localWorkloadSelector", s.LocalWorkloadSelector},
	} {
		if f.value != "" {
			given = append(given, f.name)
		}
	}
	switch {
	case len(given) == 0:
		c.missing("spec", "says no peer: set peerIP and asNumber, or peerSelector, or localWorkloadSelector and asNumber")
	case len(given) > 1:
		c.missing("spec", "%s can't be combined; set one of them", strings.Join(given, " and "))
	case s.PeerSelector != "" && s.ASNumber != 0:
		c.bad("spec.asNumber", s.ASNumber, "can't be combined with peerSelector: the AS number is that of the selected nodes")
	case s.PeerSelector == "" && s.ASNumber == 0:
		c.missing("spec.asNumber", "peer without ASN: the AS number of the peer is required with %s, want 1 to 4294967295", given[0])
	}
	if s.PeerIP == "" {
		if s.ReachableBy != "" {
			c.bad("spec.reachableBy", s.ReachableBy, "needs spec.peerIP")
		}
		return
	}
	peer, _, err := ParsePeerIP(s.PeerIP)
	if err != nil {
		c.bad("spec.peerIP", s.PeerIP, wantPeerIP)
		return
	}
	switch {
	case peer.IsUnspecified(), peer.IsLoopback(), peer.IsMulticast():
		c.bad("spec.peerIP", s.PeerIP, "no peer can have this address; set it to that of the router to peer with")
		return
	case peer.Is6() && peer.IsLinkLocalUnicast():
		c.bad("spec.peerIP", s.PeerIP, "is link-local, and nothing says on which interface; set it to a global or unique local address of the peer, such as fd00::1")
		return
	}
	if s.ReachableBy != "" {
		family := 4
		if peer.Is6() {
			family = 6
		}
		c.addr("spec.reachableBy", s.ReachableBy, family)
	}
}

func (c *checker) bgpPassword(field string, p *v3.BGPPassword) {
	if p == nil {
		return
	}
	ref := p.SecretKeyRef
	if ref == nil || ref.Name == "" || ref.Key == "" {
		c.missing(field+".secretKeyRef", "want the name of a secret and a key in it")
		return
	}
	// Both become parts of a path where passwords are files.
	if len(validation.IsDNS1123Subdomain(ref.Name)) > 0 {
		c.bad(field+".secretKeyRef.name", ref.Name, "want the name of a secret: lower case letters, digits, '-' and '.', at most 253")
	}
	if len(validation.IsConfigMapKey(ref.Key)) > 0 {
		c.bad(field+".secretKeyRef.key", ref.Key, "want a key of a secret: letters, digits, '-', '_' and '.', at most 253, not beginning with '..'")
	}
}

func checkBGPConfiguration(c *checker, b *v3.BGPConfiguration) {
	c.autoTopology(b.Name, b.Annotations)
	c.session(b.Annotations)
	for _, name := range SessionAnnotations() {
		if b.Name != "default" && b.Annotations[name] != "" {
			c.missing("metadata.annotations["+name+"]", "can only be set in the BGPConfiguration named default")
		}
	}
	c.bgpSpec(b)
}

const wantDevice = "want the name of a network device, '*' for any characters"

// IsDevicePattern reports whether a name with "*" for any characters can mean a network
// device. Devices' names may have in them what other programs take for patterns; nobody
// gives such names, and who writes one wants that pattern.
func IsDevicePattern(name string) bool {
	const maxDevice = 15 // the kernel's
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune("/[]{}()?\\\"'`|^$,;<>!&", r)
	}) && len(strings.ReplaceAll(name, "*", "")) <= maxDevice
}

func (c *checker) bgpSpec(b *v3.BGPConfiguration) {
	s := &b.Spec
	c.logLevel("spec.logSeverityScreen", s.LogSeverityScreen)
	c.asn("spec.asNumber", s.ASNumber)
	for i, block := range s.ServiceLoadBalancerIPs {
		c.cidr(at("spec.serviceLoadBalancerIPs", i)+".cidr", block.CIDR, 0)
	}
	for i, block := range s.ServiceExternalIPs {
		c.cidr(at("spec.serviceExternalIPs", i)+".cidr", block.CIDR, 0)
	}
	for i, block := range s.ServiceClusterIPs {
		c.cidr(at("spec.serviceClusterIPs", i)+".cidr", block.CIDR, 0)
	}
	oneOfPtr(c, "spec.serviceLoadBalancerAggregation", s.ServiceLoadBalancerAggregation,
		v3.ServiceLoadBalancerAggregationEnabled, v3.ServiceLoadBalancerAggregationDisabled)
	c.communities(s)
	c.bgpPassword("spec.nodeMeshPassword", s.NodeMeshPassword)
	c.duration("spec.nodeMeshMaxRestartTime", s.NodeMeshMaxRestartTime, maxRestartTime)
	c.meshSettings(b)
	oneOfPtr(c, "spec.bindMode", s.BindMode, v3.BindModeNone, v3.BindModeNodeIP)
	for i, name := range s.IgnoredInterfaces {
		if strings.Trim(name, "*") == "" || !IsDevicePattern(name) {
			c.bad(at("spec.ignoredInterfaces", i), name, wantDevice+" but not alone")
		}
	}
	c.peeringAddresses(s)
}

// meshSettings: what concerns the whole mesh can only be said once for all nodes.
func (c *checker) meshSettings(b *v3.BGPConfiguration) {
	s := &b.Spec
	global := map[string]bool{
		"spec.nodeToNodeMeshEnabled":  s.NodeToNodeMeshEnabled != nil,
		"spec.asNumber":               s.ASNumber != nil,
		"spec.nodeMeshPassword":       s.NodeMeshPassword != nil,
		"spec.nodeMeshMaxRestartTime": s.NodeMeshMaxRestartTime != nil,
	}
	meshOff := s.NodeToNodeMeshEnabled != nil && !*s.NodeToNodeMeshEnabled
	for _, field := range sortedKeys(global) {
		switch {
		case !global[field]:
		case b.Name != "default":
			c.missing(field, "can only be set in the BGPConfiguration named default")
		case meshOff && strings.HasPrefix(field, "spec.nodeMesh"):
			c.missing(field, "needs the node-to-node mesh, but spec.nodeToNodeMeshEnabled is false")
		}
	}
}

func (c *checker) communities(s *v3.BGPConfigurationSpec) {
	known := map[string]bool{}
	for i, community := range s.Communities {
		field := at("spec.communities", i)
		if community.Name == "" {
			c.missing(field+".name", "is missing")
		} else if known[community.Name] {
			c.bad(field+".name", community.Name, "is given twice")
		}
		known[community.Name] = true
		c.community(field+".value", community.Value)
	}
	for i, ad := range s.PrefixAdvertisements {
		field := at("spec.prefixAdvertisements", i)
		c.cidr(field+".cidr", ad.CIDR, 0)
		if len(ad.Communities) == 0 {
			c.missing(field+".communities", "is missing, want names from spec.communities or values aa:nn or aa:nn:mm")
		}
		for j, community := range ad.Communities {
			if !known[community] && !validCommunity(community) {
				c.bad(at(field+".communities", j), community, "is neither a name in spec.communities nor a value aa:nn or aa:nn:mm")
			}
		}
	}
}

// validCommunity accepts a standard (RFC 1997) or large (RFC 8092) community, but for
// 0:0, which is reserved.
func validCommunity(s string) bool {
	parts := strings.Split(s, ":")
	bits := 16
	if len(parts) == 3 {
		bits = 32
	}
	some := len(parts) == 3
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, bits)
		if err != nil {
			return false
		}
		some = some || n > 0
	}
	return some && (len(parts) == 2 || len(parts) == 3)
}

package registration

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"tortie/felix/autodetect"
	"tortie/internal/api"
)

// ErrNoAddress says that the node has no address at all, so that nobody could
// reach its pods.
var ErrNoAddress = errors.New("the node has no address")

// update gives a Node what the settings and the host say; what others wrote into
// it stays. It reports whether anything changed.
func update(node *api.Node, s Settings, host autodetect.Host) (changed bool, err error) {
	before := node.DeepCopyObject()
	if node.Spec.BGP == nil {
		node.Spec.BGP = &api.NodeBGPSpec{}
	}
	bgp := node.Spec.BGP
	var failed error
	bgp.IPv4Address, err = address(node, ipv4, bgp.IPv4Address, s.IPv4, host)
	failed = errors.Join(failed, err)
	bgp.IPv6Address, err = address(node, ipv6, bgp.IPv6Address, s.IPv6, host)
	failed = errors.Join(failed, err)
	if bgp.IPv4Address == "" && bgp.IPv6Address == "" {
		if failed != nil {
			return false, fmt.Errorf("%w: %s", ErrNoAddress, strings.ReplaceAll(failed.Error(), "\n", "; "))
		}
		return false, ErrNoAddress
	}
	if s.ASN != nil {
		bgp.ASNumber = s.ASN
	}
	if s.NodeRef != "" && !slices.ContainsFunc(node.Spec.OrchRefs, func(r api.OrchRef) bool { return r.Orchestrator == "k8s" && r.NodeName == s.NodeRef }) {
		node.Spec.OrchRefs = append(node.Spec.OrchRefs, api.OrchRef{Orchestrator: "k8s", NodeName: s.NodeRef})
	}
	node.Spec.Addresses = addresses(node.Spec.Addresses, bgp.IPv4Address, bgp.IPv6Address)
	return !reflect.DeepEqual(before, node), failed
}

// family is that of an address.
type family int

const (
	ipv4 family = iota
	ipv6
)

func (f family) annotation() string {
	if f == ipv6 {
		return api.AnnotationIPv6From
	}
	return api.AnnotationIPv4From
}

// address is what the node's address of one family should be. One that is looked
// for in vain stays as it is: the device may be down for a moment.
func address(node *api.Node, f family, stored string, a Address, host autodetect.Host) (string, error) {
	annotation := f.annotation()
	switch {
	case a.Mode == None:
		delete(node.Annotations, annotation)
		return "", nil
	case a.Mode == Fixed:
		annotate(node, annotation, "given by the environment")
		return withNetwork(a.Fixed, host).String(), nil
	case a.Mode == Keep && (stored != "" || f == ipv6):
		return stored, nil
	}
	choice, err := autodetect.Choose(a.Method, host, f == ipv6)
	if err != nil {
		return stored, err
	}
	annotate(node, annotation, fmt.Sprintf("%s: %s (%s)", choice.Device, choice.Reason, a.Method))
	return choice.Addr.String(), nil
}

// withNetwork completes a given address without a length by that of the device
// which has it.
func withNetwork(p netip.Prefix, host autodetect.Host) netip.Prefix {
	if !p.IsSingleIP() {
		return p
	}
	for _, d := range host.Devices {
		for _, have := range d.Addrs {
			if have.Addr() == p.Addr() {
				return have
			}
		}
	}
	return p
}

func annotate(node *api.Node, name, value string) {
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	node.Annotations[name] = value
}

// typeNodeIP marks the addresses that this side of the system writes.
const typeNodeIP = "CalicoNodeIP"

// addresses replaces those of ours in a list.
func addresses(list []api.NodeAddress, ours ...string) []api.NodeAddress {
	var out []api.NodeAddress
	for _, a := range ours {
		if a != "" {
			out = append(out, api.NodeAddress{Address: a, Type: typeNodeIP})
		}
	}
	for _, a := range list {
		if a.Type != typeNodeIP {
			out = append(out, a)
		}
	}
	return out
}

// claimedBy is the other node that has one of a node's addresses already: two
// with one address would take each other's packets.
func claimedBy(node *api.Node, others []*api.Node) (string, netip.Addr, bool) {
	mine := nodeAddrs(node)
	for _, other := range others {
		if other.Name == node.Name {
			continue
		}
		for _, a := range nodeAddrs(other) {
			if slices.Contains(mine, a) {
				return other.Name, a, true
			}
		}
	}
	return "", netip.Addr{}, false
}

func nodeAddrs(node *api.Node) []netip.Addr {
	if node.Spec.BGP == nil {
		return nil
	}
	var out []netip.Addr
	for _, s := range []string{node.Spec.BGP.IPv4Address, node.Spec.BGP.IPv6Address} {
		if p, err := parseAddress(s); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out
}

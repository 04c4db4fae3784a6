package convert

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

const (
	policyPrefix = "knp.default."
	// policyOrder is where all Kubernetes policies stand in the default tier.
	policyOrder = 1000.0
)

// PolicyKey is the key under which a Kubernetes NetworkPolicy is stored.
func PolicyKey(namespace, name string) api.Key {
	return api.Key{Kind: api.KindNetworkPolicy, Namespace: namespace, Name: policyPrefix + name}
}

// PolicyOf is the Kubernetes NetworkPolicy that a policy stands for; ok is false
// for one that is somebody else's.
func PolicyOf(key api.Key) (name string, ok bool) {
	name, ok = strings.CutPrefix(key.Name, policyPrefix)
	return name, ok && key.Kind == api.KindNetworkPolicy
}

// Policy is the stored form of a Kubernetes NetworkPolicy. A rule, or a peer of
// one, that makes no sense is left out and named in problems: rules only ever
// allow, so that leaving one out fails closed.
func Policy(np *networkingv1.NetworkPolicy) (policy *v3.NetworkPolicy, problems []string) {
	order := policyOrder
	p := v3.NewNetworkPolicy()
	p.Name, p.Namespace = policyPrefix+np.Name, np.Namespace
	p.Spec = v3.NetworkPolicySpec{
		Tier: api.DefaultTier, Order: &order,
		Selector: podSelector(&np.Spec.PodSelector), Types: policyTypes(np.Spec.PolicyTypes),
	}
	for i, r := range np.Spec.Ingress {
		matches, wrong := convertRule(r.From, r.Ports, fmt.Sprintf("spec.ingress[%d]", i))
		problems = append(problems, wrong...)
		for _, m := range matches {
			p.Spec.Ingress = append(p.Spec.Ingress, v3.Rule{
				Action: v3.Allow, Protocol: m.protocol, Source: m.peer, Destination: v3.EntityRule{Ports: m.ports},
			})
		}
	}
	for i, r := range np.Spec.Egress {
		matches, wrong := convertRule(r.To, r.Ports, fmt.Sprintf("spec.egress[%d]", i))
		problems = append(problems, wrong...)
		for _, m := range matches {
			m.peer.Ports = m.ports
			p.Spec.Egress = append(p.Spec.Egress, v3.Rule{Action: v3.Allow, Protocol: m.protocol, Destination: m.peer})
		}
	}
	return p, problems
}

// policyTypes are the directions a policy is for; without any it is one of before
// there were types, which were for ingress.
func policyTypes(types []networkingv1.PolicyType) []v3.PolicyType {
	var out []v3.PolicyType
	if slices.Contains(types, networkingv1.PolicyTypeIngress) {
		out = append(out, v3.PolicyTypeIngress)
	}
	if slices.Contains(types, networkingv1.PolicyTypeEgress) {
		out = append(out, v3.PolicyTypeEgress)
	}
	if len(out) == 0 {
		out = append(out, v3.PolicyTypeIngress)
	}
	return out
}

// match is what one stored rule matches: a peer, and ports of one protocol.
type match struct {
	peer     v3.EntityRule
	protocol *numorstring.Protocol
	ports    []numorstring.Port
}

// convertRule is every peer with every protocol: a stored rule has one of each.
func convertRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, field string) (matches []match, problems []string) {
	protocols, err := convertPorts(ports)
	if err != nil {
		return nil, []string{field + ".ports: " + err.Error()}
	}
	entities := []v3.EntityRule{{}} // no peers: anybody
	if len(peers) > 0 {
		entities = nil
	}
	for i, peer := range peers {
		entity, err := convertPeer(peer)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: peer %d: %v", field, i, err))
			continue
		}
		entities = append(entities, entity)
	}
	for _, p := range protocols {
		for _, entity := range entities {
			matches = append(matches, match{entity, p.protocol, p.ports})
		}
	}
	return matches, problems
}

// protocolPorts are ports of one protocol, all when there are none.
type protocolPorts struct {
	protocol *numorstring.Protocol
	ports    []numorstring.Port
}

// convertPorts sorts the ports of a rule by protocol. No ports are any protocol.
func convertPorts(ports []networkingv1.NetworkPolicyPort) ([]protocolPorts, error) {
	if len(ports) == 0 {
		return []protocolPorts{{}}, nil
	}
	byName := map[string]*protocolPorts{}
	all := map[string]bool{} // protocols of which every port is meant
	for _, port := range ports {
		name := string(corev1.ProtocolTCP)
		if port.Protocol != nil {
			name = string(*port.Protocol)
		}
		protocol := numorstring.ProtocolFromString(name)
		name = protocol.String()
		if byName[name] == nil {
			byName[name] = &protocolPorts{protocol: &protocol}
		}
		if port.Port == nil {
			all[name] = true
			continue
		}
		p, err := convertPort(port)
		if err != nil {
			return nil, err
		}
		byName[name].ports = append(byName[name].ports, p)
	}
	var out []protocolPorts
	for name, p := range byName {
		p.ports = mergePorts(p.ports)
		if all[name] {
			p.ports = nil
		}
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b protocolPorts) int { return strings.Compare(a.protocol.String(), b.protocol.String()) })
	return out, nil
}

func convertPort(port networkingv1.NetworkPolicyPort) (numorstring.Port, error) {
	text := port.Port.String()
	if port.EndPort != nil {
		text += ":" + strconv.Itoa(int(*port.EndPort))
	}
	p, err := numorstring.PortFromString(text)
	if err != nil {
		return p, fmt.Errorf("port %q: %w", text, err)
	}
	return p, nil
}

// mergePorts puts named ports first and joins numbers and ranges that touch. One
// number alone leaves the list as it is.
func mergePorts(ports []numorstring.Port) []numorstring.Port {
	var named, numbered []numorstring.Port
	for _, p := range ports {
		if p.PortName != "" {
			named = append(named, p)
		} else {
			numbered = append(numbered, p)
		}
	}
	if len(numbered) <= 1 && (len(numbered) == 0 || numbered[0].MinPort == numbered[0].MaxPort) {
		return ports
	}
	slices.SortFunc(numbered, func(a, b numorstring.Port) int { return int(a.MinPort) - int(b.MinPort) })
	out := named
	for _, p := range numbered {
		if n := len(out); n > len(named) && int(p.MinPort) <= int(out[n-1].MaxPort)+1 {
			out[n-1].MaxPort = max(out[n-1].MaxPort, p.MaxPort)
			continue
		}
		out = append(out, p)
	}
	return out
}

// convertPeer is who a peer is. An ipBlock stands alone; a podSelector without a
// namespaceSelector is for the policy's own namespace.
func convertPeer(peer networkingv1.NetworkPolicyPeer) (v3.EntityRule, error) {
	if peer.IPBlock == nil {
		// Of a selector that can't be understood only a part would be left, which
		// selects more.
		for _, s := range []*metav1.LabelSelector{peer.PodSelector, peer.NamespaceSelector} {
			if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
				return v3.EntityRule{}, err
			}
		}
		return v3.EntityRule{
			Selector:          podSelector(peer.PodSelector),
			NamespaceSelector: namespaceSelector(peer.NamespaceSelector),
		}, nil
	}
	var entity v3.EntityRule
	net, err := netip.ParsePrefix(peer.IPBlock.CIDR)
	if err != nil {
		return entity, fmt.Errorf("ipBlock.cidr %q: want a CIDR such as 10.0.0.0/8", peer.IPBlock.CIDR)
	}
	entity.Nets = []string{net.Masked().String()}
	for _, text := range peer.IPBlock.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil {
			return entity, fmt.Errorf("ipBlock.except %q: want a CIDR such as 10.1.0.0/16", text)
		}
		entity.NotNets = append(entity.NotNets, except.Masked().String())
	}
	return entity, nil
}

// podSelector selects pods; nil is all of them.
func podSelector(s *metav1.LabelSelector) string {
	return strings.Join(append([]string{v3.LabelOrchestrator + " == 'k8s'"}, terms(s)...), " && ")
}

// namespaceSelector selects namespaces: nil is the policy's own, an empty selector
// all of them.
func namespaceSelector(s *metav1.LabelSelector) string {
	switch text := strings.Join(terms(s), " && "); {
	case s == nil || text != "":
		return text
	default:
		return "all()"
	}
}

func terms(s *metav1.LabelSelector) []string {
	if s == nil {
		return nil
	}
	var out []string
	for _, key := range sortedKeys(s.MatchLabels) {
		out = append(out, fmt.Sprintf("%s == '%s'", key, s.MatchLabels[key]))
	}
	for _, e := range s.MatchExpressions {
		values := "{ '" + strings.Join(e.Values, "', '") + "' }"
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			out = append(out, e.Key+" in "+values)
		case metav1.LabelSelectorOpNotIn:
			out = append(out, e.Key+" not in "+values)
		case metav1.LabelSelectorOpExists:
			out = append(out, "has("+e.Key+")")
		case metav1.LabelSelectorOpDoesNotExist:
			out = append(out, "! has("+e.Key+")")
		}
	}
	return out
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

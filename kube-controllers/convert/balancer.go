package convert

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/ipam"
)

// What a Service of type LoadBalancer says about its addresses, in JSON lists.
const (
	annotationPools4      = "projectcalico.org/ipv4pools"
	annotationPools6      = "projectcalico.org/ipv6pools"
	annotationBalancerIPs = "projectcalico.org/loadBalancerIPs"
)

// balancerClass is the loadBalancerClass of services that want us and nobody else.
const balancerClass = "calico"

// BalancerAnnotations are those of a Service's that Balancer reads.
func BalancerAnnotations(all map[string]string) map[string]string {
	var out map[string]string
	for _, name := range []string{annotationPools4, annotationPools6, annotationBalancerIPs} {
		if value := all[name]; value != "" {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = value
		}
	}
	return out
}

// Balanced reports whether a Service gets its load balancer's addresses from us.
func Balanced(svc *corev1.Service, assign v3.AssignIPs) bool {
	switch class := svc.Spec.LoadBalancerClass; {
	case svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil:
		return false
	case class != nil && *class != balancerClass:
		return false
	}
	return assign == v3.AllServices || len(BalancerAnnotations(svc.Annotations)) > 0
}

// Balancer is which addresses a Service asks for.
type Balancer struct {
	// Addrs are addresses themselves, at most one of each IP version. When there are
	// none, it is one of each of Families, from the pools named if any are.
	Addrs          []netip.Addr
	Families       []corev1.IPFamily
	Pools4, Pools6 []string
	// AllFamilies says that one of an IP version alone is of no use.
	AllFamilies bool
}

// BalancerOf reads what a Service asks for.
func BalancerOf(svc *corev1.Service) (b Balancer, err error) {
	policy := svc.Spec.IPFamilyPolicy
	b.AllFamilies = policy == nil || *policy != corev1.IPFamilyPolicyPreferDualStack
	if b.Families = svc.Spec.IPFamilies; len(b.Families) == 0 {
		b.Families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	if b.Pools4, err = list(svc, annotationPools4); err != nil {
		return Balancer{}, err
	}
	if b.Pools6, err = list(svc, annotationPools6); err != nil {
		return Balancer{}, err
	}
	texts, err := list(svc, annotationBalancerIPs)
	if err != nil {
		return Balancer{}, err
	}
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			return Balancer{}, fmt.Errorf("annotation %s: %q: want an IP address such as 192.0.2.1", annotationBalancerIPs, text)
		}
		if slices.ContainsFunc(b.Addrs, func(o netip.Addr) bool { return o.Is4() == addr.Is4() }) {
			return Balancer{}, fmt.Errorf("annotation %s: %s: more than one of an IP version", annotationBalancerIPs, svc.Annotations[annotationBalancerIPs])
		}
		b.Addrs = append(b.Addrs, addr)
	}
	return b, nil
}

func list(svc *corev1.Service, annotation string) ([]string, error) {
	text := svc.Annotations[annotation]
	if text == "" {
		return nil, nil
	}
	var out []string
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf(`annotation %s: %q: want a list such as ["a", "b"]`, annotation, text)
	}
	return out, nil
}

// BalancerHandle holds the addresses of a Service: upstream's handle of it, so that either
// goes on with what the other has assigned.
func BalancerHandle(svc *corev1.Service) ipam.HandleID {
	sum := sha256.Sum256([]byte(strings.ToLower(svc.Name + "-" + svc.Namespace + "-" + string(svc.UID))))
	text := base64.RawURLEncoding.EncodeToString(sum[:])
	return ipam.HandleID("lb-" + strings.NewReplacer("-", "", "_", "").Replace(text))
}

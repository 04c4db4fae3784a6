package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"tortie/internal/api"
)

// parse reads the spec of a Kubernetes NetworkPolicy.
func parse(t *testing.T, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &np.Spec); err != nil {
		t.Fatal(err)
	}
	return np
}

func TestPolicyConversion(t *testing.T) {
	const k8s = "projectcalico.org/orchestrator == 'k8s'"
	tests := map[string]struct{ kubernetes, stored string }{
		"DenyAllIngress": {
			`{podSelector: {}, policyTypes: [Ingress]}`,
			`{tier: default, order: 1000, selector: "` + k8s + `", types: [Ingress]}`,
		},
		"WithoutTypesItIsIngress": {
			`{podSelector: {}}`,
			`{tier: default, order: 1000, selector: "` + k8s + `", types: [Ingress]}`,
		},
		"AllowAllBothWays": {
			`{podSelector: {}, policyTypes: [Egress, Ingress], ingress: [{}], egress: [{}]}`,
			`{tier: default, order: 1000, selector: "` + k8s + `", types: [Ingress, Egress],
			  ingress: [{action: Allow}], egress: [{action: Allow}]}`,
		},
		"SelectorsOfEveryKind": {
			`podSelector:
  matchLabels: {b: "2", a: "1"}
  matchExpressions:
  - {key: tier, operator: In, values: [x, "y"]}
  - {key: env, operator: NotIn, values: [dev]}
  - {key: has, operator: Exists}
  - {key: hasnt, operator: DoesNotExist}`,
			`{tier: default, order: 1000, types: [Ingress], selector: "` + k8s +
				` && a == '1' && b == '2' && tier in { 'x', 'y' } && env not in { 'dev' } && has(has) && ! has(hasnt)"}`,
		},
		"Peers": {
			`podSelector: {}
ingress:
- from:
  - podSelector: {matchLabels: {app: a}}
  - namespaceSelector: {}
  - namespaceSelector: {matchLabels: {env: prod}}
    podSelector: {matchLabels: {app: b}}
  - ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16, 10.2.0.0/16]}
  - ipBlock: {cidr: "fd00::/8"}`,
			`tier: default
order: 1000
types: [Ingress]
selector: "` + k8s + `"
ingress:
- {action: Allow, source: {selector: "` + k8s + ` && app == 'a'"}}
- {action: Allow, source: {selector: "` + k8s + `", namespaceSelector: all()}}
- {action: Allow, source: {selector: "` + k8s + ` && app == 'b'", namespaceSelector: "env == 'prod'"}}
- {action: Allow, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16, 10.2.0.0/16]}}
- {action: Allow, source: {nets: ["fd00::/8"]}}`,
		},
		"PortsByProtocolEachWithEachPeer": {
			`podSelector: {}
policyTypes: [Egress]
egress:
- to:
  - podSelector: {}
  - ipBlock: {cidr: 192.0.2.0/24}
  ports:
  - {port: 53, protocol: UDP}
  - {port: 80}
  - {port: http}
  - {port: 81, endPort: 90}
  - {port: 443, protocol: TCP}
  - {protocol: SCTP}`,
			`tier: default
order: 1000
types: [Egress]
selector: "` + k8s + `"
egress:
- {action: Allow, protocol: SCTP, destination: {selector: "` + k8s + `"}}
- {action: Allow, protocol: SCTP, destination: {nets: [192.0.2.0/24]}}
- {action: Allow, protocol: TCP, destination: {selector: "` + k8s + `", ports: [http, "80:90", 443]}}
- {action: Allow, protocol: TCP, destination: {nets: [192.0.2.0/24], ports: [http, "80:90", 443]}}
- {action: Allow, protocol: UDP, destination: {selector: "` + k8s + `", ports: [53]}}
- {action: Allow, protocol: UDP, destination: {nets: [192.0.2.0/24], ports: [53]}}`,
		},
		"AProtocolWithoutPortIsAllOfItsPorts": {
			`podSelector: {}
ingress: [{ports: [{port: 80}, {protocol: TCP}, {port: 81}]}]`,
			`{tier: default, order: 1000, types: [Ingress], selector: "` + k8s + `", ingress: [{action: Allow, protocol: TCP}]}`,
		},
		"OneNumberKeepsItsPlace": {
			`podSelector: {}
ingress: [{ports: [{port: 80}, {port: http}]}]`,
			`{tier: default, order: 1000, types: [Ingress], selector: "` + k8s + `",
			  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, http]}}]}`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, problems := Policy(parse(t, tc.kubernetes))
			if len(problems) > 0 {
				t.Errorf("problems: %v", problems)
			}
			var want v3.NetworkPolicySpec
			if err := yaml.UnmarshalStrict([]byte(tc.stored), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Spec); diff != "" {
				t.Error(diff)
			}
			if got.Name != "knp.default.web" || got.Namespace != "ns1" {
				t.Errorf("name %s/%s", got.Namespace, got.Name)
			}
			reg := api.NewRegistry()
			reg.Default(got)
			if err := reg.Validate(got); err != nil {
				t.Errorf("not valid: %v", err)
			}
		})
	}
}

func TestWhatMakesNoSenseIsLeftOutAndNamed(t *testing.T) {
	good := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}}
	port := func(v intstr.IntOrString, end int32) []networkingv1.NetworkPolicyPort {
		return []networkingv1.NetworkPolicyPort{{Port: &v, EndPort: &end}}
	}
	operator := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}
	tests := map[string]struct {
		rule  networkingv1.NetworkPolicyIngressRule
		rules int
		want  string
	}{
		"CIDR":     {networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10/8"}}, good}}, 1, `"10/8"`},
		"Except":   {networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"x"}}}}}, 0, `"x"`},
		"Range":    {networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{good}, Ports: port(intstr.FromInt32(90), 80)}, 0, "90:80"},
		"Operator": {networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{PodSelector: operator}}}, 0, "Like"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			np := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{tc.rule}}}
			got, problems := Policy(np)
			if len(got.Spec.Ingress) != tc.rules {
				t.Errorf("%d rules, want %d", len(got.Spec.Ingress), tc.rules)
			}
			if text := strings.Join(problems, "; "); !strings.Contains(text, tc.want) || !strings.Contains(text, "spec.ingress[0]") {
				t.Errorf("problems %q don't name %s", text, tc.want)
			}
		})
	}
}

func TestPolicyNames(t *testing.T) {
	key := PolicyKey("ns1", "a.b")
	if name, ok := PolicyOf(key); !ok || name != "a.b" || key.Name != "knp.default.a.b" {
		t.Errorf("%v: %q, %v", key, name, ok)
	}
	if _, ok := PolicyOf(api.Key{Kind: api.KindNetworkPolicy, Namespace: "ns1", Name: "mine"}); ok {
		t.Error("an operator's policy counts as one of Kubernetes's")
	}
}

func TestProtocolIsCanonical(t *testing.T) {
	udp := corev1.ProtocolUDP
	got, _ := Policy(&networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{
		Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp}}}},
	}})
	if p := got.Spec.Ingress[0].Protocol; *p != numorstring.ProtocolFromString("UDP") {
		t.Errorf("%+v", p)
	}
}

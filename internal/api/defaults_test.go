package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

func TestDefaultKeepsWhatTheAuthorSaid(t *testing.T) {
	manual := v3.Manual
	pool := &v3.IPPool{Spec: v3.IPPoolSpec{
		CIDR: "10.0.0.0/16", VXLANMode: v3.VXLANModeAlways, IPIPMode: v3.IPIPModeNever, BlockSize: 28,
		NodeSelector: "has(rack)", AllowedUses: []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseTunnel}, AssignmentMode: &manual,
	}}
	before := pool.DeepCopy()
	api.NewRegistry().Default(pool)
	if diff := cmp.Diff(before, pool); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultInfersPolicyTypesFromTheRules(t *testing.T) {
	rules := []v3.Rule{{Action: v3.Allow}}
	tests := []struct {
		ingress, egress []v3.Rule
		given, want     []v3.PolicyType
	}{
		{nil, nil, nil, []v3.PolicyType{"Ingress"}},
		{rules, nil, nil, []v3.PolicyType{"Ingress"}},
		{nil, rules, nil, []v3.PolicyType{"Egress"}},
		{rules, rules, nil, []v3.PolicyType{"Ingress", "Egress"}},
		{rules, rules, []v3.PolicyType{"Egress"}, []v3.PolicyType{"Egress"}},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		policy := &v3.NetworkPolicy{Spec: v3.NetworkPolicySpec{Ingress: tt.ingress, Egress: tt.egress, Types: tt.given}}
		reg.Default(policy)
		if diff := cmp.Diff(tt.want, policy.Spec.Types); diff != "" {
			t.Error(diff)
		}
	}
	staged := &v3.StagedKubernetesNetworkPolicy{Spec: v3.StagedKubernetesNetworkPolicySpec{Egress: []networkingv1.NetworkPolicyEgressRule{{}}}}
	reg.Default(staged)
	if diff := cmp.Diff([]networkingv1.PolicyType{"Ingress", "Egress"}, staged.Spec.PolicyTypes); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultLabelsFollowTheSpec(t *testing.T) {
	reg := api.NewRegistry()
	policy := &v3.GlobalNetworkPolicy{Spec: v3.GlobalNetworkPolicySpec{Tier: "security"}}
	policy.Labels = map[string]string{"projectcalico.org/tier": "default", "a": "b"}
	reg.Default(policy)
	if diff := cmp.Diff(map[string]string{"projectcalico.org/tier": "security", "a": "b"}, policy.Labels); diff != "" {
		t.Error(diff)
	}
	wep := &api.WorkloadEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns1"},
		Spec:       api.WorkloadEndpointSpec{Orchestrator: "k8s", ServiceAccountName: "sa"},
	}
	reg.Default(wep)
	want := map[string]string{
		"projectcalico.org/namespace": "ns1", "projectcalico.org/orchestrator": "k8s", "projectcalico.org/serviceaccount": "sa",
	}
	if diff := cmp.Diff(want, wep.Labels); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultGivesTheSystemTiersTheirOrder(t *testing.T) {
	reg := api.NewRegistry()
	tests := map[string]struct {
		order  float64
		action v3.Action
	}{"default": {1e6, v3.Deny}, "kube-admin": {1e3, v3.Pass}, "kube-baseline": {1e7, v3.Pass}}
	for name, want := range tests {
		tier := &v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: name}}
		reg.Default(tier)
		if tier.Spec.Order == nil || *tier.Spec.Order != want.order || *tier.Spec.DefaultAction != want.action {
			t.Errorf("%s: %v %v", name, tier.Spec.Order, *tier.Spec.DefaultAction)
		}
	}
	other := &v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: "security"}}
	reg.Default(other)
	if other.Spec.Order != nil || *other.Spec.DefaultAction != v3.Deny {
		t.Errorf("security: %v %v", other.Spec.Order, *other.Spec.DefaultAction)
	}
}

// TestDefaultIsIdempotent on an empty object of every kind.
func TestDefaultIsIdempotent(t *testing.T) {
	reg := api.NewRegistry()
	for _, info := range reg.Kinds() {
		obj := info.New()
		reg.Default(obj)
		once := obj.DeepCopyObject()
		reg.Default(obj)
		if diff := cmp.Diff(once, obj); diff != "" {
			t.Errorf("%s: %s", info.Kind, diff)
		}
	}
}

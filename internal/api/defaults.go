package api

import (
	"net/netip"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Default fills in what an object's author left out, as upstream's clients do
// before they write it. It is idempotent. An object of an unknown type is left
// as it is.
func (r *Registry) Default(obj Object) {
	d, err := r.definitionOf(obj)
	if err != nil || d.setDefaults == nil {
		return
	}
	d.setDefaults(obj)
}

// Prepare gives an object that is about to be created its UID and creation time
// (in seconds, UTC) where it has none. Bare records have neither.
func (r *Registry) Prepare(obj Object, now time.Time, newUID func() string) {
	d, err := r.definitionOf(obj)
	if err != nil || d.bare {
		return
	}
	if obj.GetUID() == "" {
		obj.SetUID(types.UID(newUID()))
	}
	if created := obj.GetCreationTimestamp(); created.IsZero() {
		obj.SetCreationTimestamp(metav1.NewTime(now.UTC().Truncate(time.Second)))
	}
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func orDefaultPtr[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func setLabel(obj Object, name, value string) {
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[name] = value
	obj.SetLabels(labels)
}

func defaultIPPool(p *v3.IPPool) {
	orDefault(&p.Spec.VXLANMode, v3.VXLANModeNever)
	orDefault(&p.Spec.IPIPMode, v3.IPIPModeNever)
	if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil {
		if cidr.Addr().Is4() {
			orDefault(&p.Spec.BlockSize, 26)
		} else {
			orDefault(&p.Spec.BlockSize, 122)
		}
	}
	orDefault(&p.Spec.NodeSelector, "all()")
	if len(p.Spec.AllowedUses) == 0 {
		p.Spec.AllowedUses = []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseWorkload, v3.IPPoolAllowedUseTunnel}
	}
	orDefaultPtr(&p.Spec.AssignmentMode, v3.Automatic)
}

// PoolServes reports whether a pool is for a use; one that names none is for pods and
// tunnels.
func PoolServes(spec v3.IPPoolSpec, use v3.IPPoolAllowedUse) bool {
	if len(spec.AllowedUses) == 0 {
		return use == v3.IPPoolAllowedUseWorkload || use == v3.IPPoolAllowedUseTunnel
	}
	return slices.Contains(spec.AllowedUses, use)
}

func defaultBGPConfiguration(c *v3.BGPConfiguration) {
	orDefaultPtr(&c.Spec.ServiceLoadBalancerAggregation, v3.ServiceLoadBalancerAggregationEnabled)
}

func defaultFelixConfiguration(c *v3.FelixConfiguration) {
	orDefaultPtr(&c.Spec.NFTablesMode, v3.NFTablesMode("Auto"))
	orDefaultPtr(&c.Spec.BPFConnectTimeLoadBalancing, v3.BPFConnectTimeLBTCP)
	orDefaultPtr(&c.Spec.BPFHostNetworkedNATWithoutCTLB, v3.BPFHostNetworkedNATEnabled)
	orDefaultPtr(&c.Spec.FloatingIPs, v3.FloatingIPsDisabled)
}

func defaultKubeControllersConfiguration(c *v3.KubeControllersConfiguration) {
	orDefault(&c.Spec.HealthChecks, v3.Enabled)
	orDefaultPtr(&c.Spec.PrometheusMetricsPort, 9094)
}

// defaultTier gives the tiers that every cluster has their order, and every tier
// its action for traffic that no rule matched.
func defaultTier(t *v3.Tier) {
	action := v3.Deny
	switch t.Name {
	case DefaultTier:
		orDefaultPtr(&t.Spec.Order, v3.DefaultTierOrder)
	case "kube-admin":
		orDefaultPtr(&t.Spec.Order, v3.AdminNetworkPolicyTierOrder)
		action = v3.Pass
	case "kube-baseline":
		orDefaultPtr(&t.Spec.Order, v3.BaselineAdminNetworkPolicyTierOrder)
		action = v3.Pass
	}
	orDefaultPtr(&t.Spec.DefaultAction, action)
}

// defaultPolicy sets a policy's tier, the label that shows it, and the types: by
// the directions it has rules for, Ingress when it has none.
func defaultPolicy(obj Object, tier *string, types *[]v3.PolicyType, ingress, egress []v3.Rule) {
	orDefault(tier, DefaultTier)
	setLabel(obj, v3.LabelTier, *tier)
	if len(*types) > 0 {
		return
	}
	switch {
	case len(egress) == 0:
		*types = []v3.PolicyType{v3.PolicyTypeIngress}
	case len(ingress) == 0:
		*types = []v3.PolicyType{v3.PolicyTypeEgress}
	default:
		*types = []v3.PolicyType{v3.PolicyTypeIngress, v3.PolicyTypeEgress}
	}
}

func defaultGlobalNetworkPolicy(p *v3.GlobalNetworkPolicy) {
	defaultPolicy(p, &p.Spec.Tier, &p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
}

func defaultNetworkPolicy(p *v3.NetworkPolicy) {
	defaultPolicy(p, &p.Spec.Tier, &p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
}

func defaultStagedGlobalNetworkPolicy(p *v3.StagedGlobalNetworkPolicy) {
	orDefault(&p.Spec.StagedAction, v3.StagedActionSet)
	defaultPolicy(p, &p.Spec.Tier, &p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
}

func defaultStagedNetworkPolicy(p *v3.StagedNetworkPolicy) {
	orDefault(&p.Spec.StagedAction, v3.StagedActionSet)
	defaultPolicy(p, &p.Spec.Tier, &p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
}

func defaultStagedKubernetesNetworkPolicy(p *v3.StagedKubernetesNetworkPolicy) {
	orDefault(&p.Spec.StagedAction, v3.StagedActionSet)
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

// defaultWorkloadEndpoint sets the labels by which policies select an endpoint
// without the orchestrator's own.
func defaultWorkloadEndpoint(w *WorkloadEndpoint) {
	setLabel(w, v3.LabelNamespace, w.Namespace)
	setLabel(w, v3.LabelOrchestrator, w.Spec.Orchestrator)
	// A longer name is no label value; upstream leaves out one of 63 as well.
	if n := len(w.Spec.ServiceAccountName); n > 0 && n < 63 {
		setLabel(w, v3.LabelServiceAccount, w.Spec.ServiceAccountName)
	}
}

package api

import (
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefaultAllowProfile is the name of the profile that allows everything. It is
// part of the system: clients know it, and it is never stored.
const DefaultAllowProfile = "projectcalico-default-allow"

// policySpec is what the policy kinds have in common.
type policySpec struct {
	tier                                  string
	ingress, egress                       []v3.Rule
	selector, namespaces, serviceAccounts string
	types                                 []v3.PolicyType
	hints                                 []v3.PolicyPerformanceHint
}

func (c *checker) policy(p policySpec) {
	c.optionalName("spec.tier", p.tier)
	c.rules("spec.ingress", p.ingress, false)
	c.rules("spec.egress", p.egress, true)
	c.selector("spec.selector", p.selector)
	c.selector("spec.namespaceSelector", p.namespaces)
	c.selector("spec.serviceAccountSelector", p.serviceAccounts)
	for i, t := range p.types {
		oneOf(c, at("spec.types", i), t, v3.PolicyTypeIngress, v3.PolicyTypeEgress)
	}
	unique(c, "spec.types", p.types)
	for i, hint := range p.hints {
		oneOf(c, at("spec.performanceHints", i), hint, v3.PerfHintAssumeNeededOnEveryNode)
	}
	unique(c, "spec.performanceHints", p.hints)
}

// hostPolicy checks the settings that only concern host endpoints.
func (c *checker) hostPolicy(doNotTrack, preDNAT, applyOnForward bool, egress []v3.Rule, types []v3.PolicyType) {
	if doNotTrack && preDNAT {
		c.missing("spec.preDNAT", "can't be combined with doNotTrack")
	}
	if (doNotTrack || preDNAT) && !applyOnForward {
		c.missing("spec.applyOnForward", "must be true with doNotTrack or preDNAT")
	}
	if preDNAT && len(egress) > 0 {
		c.missing("spec.egress", "a preDNAT policy has no egress rules")
	}
	if preDNAT && slices.Contains(types, v3.PolicyTypeEgress) {
		c.missing("spec.types", "a preDNAT policy has no type Egress")
	}
}

func checkGlobalNetworkPolicy(c *checker, p *v3.GlobalNetworkPolicy) {
	s := &p.Spec
	c.policy(policySpec{s.Tier, s.Ingress, s.Egress, s.Selector, s.NamespaceSelector, s.ServiceAccountSelector, s.Types, s.PerformanceHints})
	c.hostPolicy(s.DoNotTrack, s.PreDNAT, s.ApplyOnForward, s.Egress, s.Types)
}

func checkNetworkPolicy(c *checker, p *v3.NetworkPolicy) {
	s := &p.Spec
	c.policy(policySpec{s.Tier, s.Ingress, s.Egress, s.Selector, "", s.ServiceAccountSelector, s.Types, s.PerformanceHints})
}

func checkStagedGlobalNetworkPolicy(c *checker, p *v3.StagedGlobalNetworkPolicy) {
	s := &p.Spec
	c.stagedAction(s.StagedAction)
	c.policy(policySpec{s.Tier, s.Ingress, s.Egress, s.Selector, s.NamespaceSelector, s.ServiceAccountSelector, s.Types, s.PerformanceHints})
	c.hostPolicy(s.DoNotTrack, s.PreDNAT, s.ApplyOnForward, s.Egress, s.Types)
}

func checkStagedNetworkPolicy(c *checker, p *v3.StagedNetworkPolicy) {
	s := &p.Spec
	c.stagedAction(s.StagedAction)
	c.policy(policySpec{s.Tier, s.Ingress, s.Egress, s.Selector, "", s.ServiceAccountSelector, s.Types, s.PerformanceHints})
}

func (c *checker) stagedAction(a v3.StagedAction) {
	oneOf(c, "spec.stagedAction", a, v3.StagedActionSet, v3.StagedActionDelete, v3.StagedActionLearn, v3.StagedActionIgnore)
}

func checkStagedKubernetesNetworkPolicy(c *checker, p *v3.StagedKubernetesNetworkPolicy) {
	s := &p.Spec
	c.stagedAction(s.StagedAction)
	c.labelSelector("spec.podSelector", &s.PodSelector)
	for i, t := range s.PolicyTypes {
		oneOf(c, at("spec.policyTypes", i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
	for i, rule := range s.Ingress {
		c.kubernetesPeers(at("spec.ingress", i)+".from", rule.From)
	}
	for i, rule := range s.Egress {
		c.kubernetesPeers(at("spec.egress", i)+".to", rule.To)
	}
}

func (c *checker) kubernetesPeers(field string, peers []networkingv1.NetworkPolicyPeer) {
	for i, peer := range peers {
		field := at(field, i)
		c.labelSelector(field+".podSelector", peer.PodSelector)
		c.labelSelector(field+".namespaceSelector", peer.NamespaceSelector)
		if peer.IPBlock == nil {
			continue
		}
		c.network(field+".ipBlock.cidr", peer.IPBlock.CIDR, 0)
		c.networks(field+".ipBlock.except", peer.IPBlock.Except)
		if peer.PodSelector != nil || peer.NamespaceSelector != nil {
			c.missing(field+".ipBlock", "can't be combined with podSelector or namespaceSelector")
		}
	}
}

func (c *checker) labelSelector(field string, s *metav1.LabelSelector) {
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		c.missing(field, "%v", err)
	}
}

func checkProfile(c *checker, p *v3.Profile) {
	if p.Name == DefaultAllowProfile {
		c.bad("metadata.name", p.Name, "this profile is part of the system and can't be changed; choose another name")
	}
	c.rules("spec.ingress", p.Spec.Ingress, false)
	c.rules("spec.egress", p.Spec.Egress, true)
	c.labels("spec.labelsToApply", p.Spec.LabelsToApply)
}

func checkGlobalNetworkSet(c *checker, s *v3.GlobalNetworkSet) { c.networks("spec.nets", s.Spec.Nets) }

func checkNetworkSet(c *checker, s *v3.NetworkSet) { c.networks("spec.nets", s.Spec.Nets) }

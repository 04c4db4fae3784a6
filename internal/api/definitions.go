package api

import (
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// definitions lists every kind. Names, plurals and aliases are upstream's.
func definitions() []definition {
	all := configurationDefinitions()
	all = append(all, policyDefinitions()...)
	all = append(all, endpointDefinitions()...)
	sortDefinitions(all)
	all = append(all, ipamDefinitions()...)
	return append(all, serviceDefinition(), historyDefinition(), loanDefinition())
}

// configurationDefinitions are the kinds that configure the cluster's network.
func configurationDefinitions() []definition {
	return []definition{
		checked(defaulted(resource(KindBGPConfiguration, "bgpconfigurations", func(o *v3.BGPConfiguration) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "bgpconfig", "bgpconfigs"), defaultBGPConfiguration), checkBGPConfiguration),
		checked(resource(KindBGPFilter, "bgpfilters", func(o *BGPFilter) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "bgpf", "bgpfs", "bf", "bfs"), checkBGPFilter),
		checked(resource(KindBGPPeer, "bgppeers", func(o *v3.BGPPeer) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "bgpp", "bgpps", "bp", "bps"), checkBGPPeer),
		checked(resource(KindCalicoNodeStatus, "caliconodestatuses", func(o *v3.CalicoNodeStatus) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec, status: &o.Status}
		}, "caliconodestatus"), checkCalicoNodeStatus),
		checked(resource(KindClusterInformation, "clusterinformations", func(o *v3.ClusterInformation) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "clusterinfo", "clusterinfos"), checkClusterInformation),
		checked(defaulted(resource(KindFelixConfiguration, "felixconfigurations", func(o *v3.FelixConfiguration) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "felixconfig", "felixconfigs"), defaultFelixConfiguration), checkFelixConfiguration),
		checked(defaulted(resource(KindIPPool, "ippools", func(o *v3.IPPool) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "ipp", "ipps", "pool", "pools"), defaultIPPool), checkIPPool),
		checked(resource(KindIPReservation, "ipreservations", func(o *v3.IPReservation) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "reservation", "reservations"), checkIPReservation),
		checked(defaulted(resource(KindKubeControllersConfiguration, "kubecontrollersconfigurations",
			func(o *v3.KubeControllersConfiguration) parts {
				return parts{meta: &o.ObjectMeta, spec: &o.Spec, status: kccStatus(&o.Status)}
			}, "kubecontrollersconfig", "kubecontrollersconfigs"), defaultKubeControllersConfiguration), checkKubeControllersConfiguration),
	}
}

// policyDefinitions are the kinds that say which traffic is allowed.
func policyDefinitions() []definition {
	return []definition{
		tiered(checked(defaulted(resource(KindGlobalNetworkPolicy, "globalnetworkpolicies", func(o *v3.GlobalNetworkPolicy) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "gnp", "gnps"), defaultGlobalNetworkPolicy), checkGlobalNetworkPolicy),
			func(o *v3.GlobalNetworkPolicy) *string { return &o.Spec.Tier }),
		tiered(checked(defaulted(resource(KindNetworkPolicy, "networkpolicies", func(o *v3.NetworkPolicy) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "policy", "policies", "np", "nps", "pol", "pols"), defaultNetworkPolicy), checkNetworkPolicy),
			func(o *v3.NetworkPolicy) *string { return &o.Spec.Tier }).namespaced(),
		tiered(checked(defaulted(resource(KindStagedGlobalNetworkPolicy, "stagedglobalnetworkpolicies", func(o *v3.StagedGlobalNetworkPolicy) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "sgnp", "sgnps"), defaultStagedGlobalNetworkPolicy), checkStagedGlobalNetworkPolicy),
			func(o *v3.StagedGlobalNetworkPolicy) *string { return &o.Spec.Tier }),
		tiered(checked(defaulted(resource(KindStagedNetworkPolicy, "stagednetworkpolicies", func(o *v3.StagedNetworkPolicy) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "stagedpolicy", "stagedpolicies", "snp", "snps", "spol", "spols"), defaultStagedNetworkPolicy), checkStagedNetworkPolicy),
			func(o *v3.StagedNetworkPolicy) *string { return &o.Spec.Tier }).namespaced(),
		checked(defaulted(resource(KindStagedKubernetesNetworkPolicy, "stagedkubernetesnetworkpolicies",
			func(o *v3.StagedKubernetesNetworkPolicy) parts {
				return parts{meta: &o.ObjectMeta, spec: &o.Spec}
			}, "sknp", "sknps"), defaultStagedKubernetesNetworkPolicy), checkStagedKubernetesNetworkPolicy).namespaced(),
		checked(resource(KindGlobalNetworkSet, "globalnetworksets", func(o *v3.GlobalNetworkSet) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "gnetset", "gnetsets"), checkGlobalNetworkSet),
		checked(resource(KindNetworkSet, "networksets", func(o *v3.NetworkSet) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "netset", "netsets"), checkNetworkSet).namespaced(),
		checked(resource(KindProfile, "profiles", func(o *v3.Profile) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "pro", "pros"), checkProfile),
		checked(defaulted(resource(KindTier, "tiers", func(o *v3.Tier) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec, status: emptyStatus{}}
		}), defaultTier), checkTier).into(func(o Object) any { return &storedTier{Tier: o.(*v3.Tier)} }),
	}
}

// endpointDefinitions are nodes and what is attached to them.
func endpointDefinitions() []definition {
	return []definition{
		checked(resource(KindHostEndpoint, "hostendpoints", func(o *v3.HostEndpoint) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "hep", "heps"), checkHostEndpoint),
		checked(resource(KindNode, "nodes", func(o *Node) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec, status: &o.Status}
		}, "no", "nos"), checkNode),
		plainlyWritten(checked(defaulted(resource(KindWorkloadEndpoint, "workloadendpoints", func(o *WorkloadEndpoint) parts {
			return parts{meta: &o.ObjectMeta, spec: &o.Spec}
		}, "wep", "weps"), defaultWorkloadEndpoint), checkWorkloadEndpoint), writePlainWorkloadEndpoint).namespaced(),
	}
}

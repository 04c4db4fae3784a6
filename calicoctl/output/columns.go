package output

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// of makes a column of a kind whose Go type is T. Only objects of that kind
// ever reach it.
func of[T api.Object](head string, cell func(obj T) string) column {
	return column{head: head, cell: func(obj api.Object, _ Env) string { return cell(obj.(T)) }}
}

func nameColumn() column {
	return column{head: "NAME", cell: func(obj api.Object, _ Env) string { return obj.GetName() }}
}

func namespaceColumn() column {
	return column{head: columnNamespace, cell: func(obj api.Object, _ Env) string { return obj.GetNamespace() }}
}

// layouts are the columns of every kind, named as upstream names them.
func layouts() map[api.Kind]layout {
	all := map[api.Kind]layout{
		api.KindBGPConfiguration: {
			narrow: []string{"NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"},
			columns: []column{
				nameColumn(),
				of("LOGSEVERITY", func(o *v3.BGPConfiguration) string { return o.Spec.LogSeverityScreen }),
				of("MESHENABLED", func(o *v3.BGPConfiguration) string { return orElse(o.Spec.NodeToNodeMeshEnabled, "-") }),
				of("ASNUMBER", func(o *v3.BGPConfiguration) string { return orElse(o.Spec.ASNumber, "-") }),
			},
		},
		api.KindBGPFilter: filterLayout(),
		api.KindBGPPeer: {
			narrow: []string{"NAME", "PEERIP", "NODE", "ASN"},
			columns: []column{
				nameColumn(),
				of("PEERIP", func(o *v3.BGPPeer) string { return o.Spec.PeerIP }),
				of("NODE", peerNode),
				of("ASN", func(o *v3.BGPPeer) string { return o.Spec.ASNumber.String() }),
			},
		},
		api.KindCalicoNodeStatus: {
			narrow: []string{"NAME", "NODE"}, wide: []string{"NAME", "NODE", "CLASSES"},
			columns: []column{
				nameColumn(),
				of("NODE", func(o *v3.CalicoNodeStatus) string { return o.Spec.Node }),
				of("CLASSES", func(o *v3.CalicoNodeStatus) string { return join(o.Spec.Classes, ",") }),
			},
		},
		api.KindClusterInformation: clusterLayout(),
		api.KindHostEndpoint:       hostEndpointLayout(),
		api.KindIPPool:             poolLayout(),
		api.KindIPReservation: {
			narrow: []string{"NAME"}, wide: []string{"NAME", "CIDRS"},
			columns: []column{
				nameColumn(),
				of("CIDRS", func(o *v3.IPReservation) string { return truncate(strings.Join(o.Spec.ReservedCIDRs, ","), 80) }),
			},
		},
		api.KindNode: nodeLayout(),
		api.KindProfile: {
			narrow: []string{"NAME"}, wide: []string{"NAME", "LABELS"},
			columns: []column{nameColumn(), of("LABELS", func(o *v3.Profile) string { return labels(o.Spec.LabelsToApply) })},
		},
		api.KindTier: {
			narrow:  []string{"NAME", "ORDER"},
			columns: []column{nameColumn(), of("ORDER", func(o *v3.Tier) string { return order(o.Spec.Order) })},
		},
		api.KindWorkloadEndpoint: endpointLayout(),
	}
	for _, kind := range []api.Kind{api.KindFelixConfiguration, api.KindKubeControllersConfiguration} {
		all[kind] = layout{narrow: []string{"NAME"}, columns: []column{nameColumn()}}
	}
	addPolicies(all)
	addIPAM(all)
	all[api.KindAdvertisedService] = serviceLayout()
	return all
}

// serviceLayout shows which addresses of a Service nodes announce one by one.
func serviceLayout() layout {
	return layout{
		narrow: []string{"NAMESPACE", "NAME", "POLICY", "ADDRESSES"}, wide: []string{"NAMESPACE", "NAME", "POLICY", "ADDRESSES", "NODES"},
		columns: []column{
			namespaceColumn(), nameColumn(),
			of("POLICY", func(o *api.AdvertisedService) string {
				return textOr(o.Spec.ExternalTrafficPolicy, string(api.TrafficPolicyCluster))
			}),
			of("ADDRESSES", func(o *api.AdvertisedService) string {
				return strings.Join(slices.Concat(o.Spec.ClusterIPs, o.Spec.ExternalIPs, o.Spec.LoadBalancerIPs), ",")
			}),
			of("NODES", func(o *api.AdvertisedService) string {
				var nodes []string
				for _, e := range []*api.ServiceEndpoints{o.Spec.IPv4Endpoints, o.Spec.IPv6Endpoints} {
					if e != nil {
						nodes = append(nodes, e.Nodes...)
					}
				}
				slices.Sort(nodes)
				return truncate(strings.Join(slices.Compact(nodes), ","), 80)
			}),
		},
	}
}

func filterLayout() layout {
	return layout{
		narrow: []string{"NAME", "EXPORTV4", "IMPORTV4", "EXPORTV6", "IMPORTV6"},
		columns: []column{
			nameColumn(),
			of("EXPORTV4", func(o *api.BGPFilter) string { return filterRules(o.Spec.ExportV4) }),
			of("IMPORTV4", func(o *api.BGPFilter) string { return filterRules(o.Spec.ImportV4) }),
			of("EXPORTV6", func(o *api.BGPFilter) string { return filterRules(o.Spec.ExportV6) }),
			of("IMPORTV6", func(o *api.BGPFilter) string { return filterRules(o.Spec.ImportV6) }),
		},
	}
}

func hostEndpointLayout() layout {
	return layout{
		narrow: []string{"NAME", "NODE"}, wide: []string{"NAME", "NODE", "INTERFACE", "IPS", "PROFILES"},
		columns: []column{
			nameColumn(),
			of("NODE", func(o *v3.HostEndpoint) string { return o.Spec.Node }),
			of("INTERFACE", func(o *v3.HostEndpoint) string { return o.Spec.InterfaceName }),
			of("IPS", func(o *v3.HostEndpoint) string { return strings.Join(o.Spec.ExpectedIPs, ",") }),
			of("PROFILES", func(o *v3.HostEndpoint) string { return strings.Join(o.Spec.Profiles, ",") }),
		},
	}
}

func clusterLayout() layout {
	return layout{
		narrow: []string{"NAME", "CLUSTERGUID", "CLUSTERTYPE", "CALICOVERSION", "DATASTOREREADY"},
		columns: []column{
			nameColumn(),
			of("CLUSTERGUID", func(o *v3.ClusterInformation) string { return o.Spec.ClusterGUID }),
			of("CLUSTERTYPE", func(o *v3.ClusterInformation) string { return o.Spec.ClusterType }),
			of("CALICOVERSION", func(o *v3.ClusterInformation) string { return o.Spec.CalicoVersion }),
			of("DATASTOREREADY", func(o *v3.ClusterInformation) string { return orElse(o.Spec.DatastoreReady, "<nil>") }),
		},
	}
}

func poolLayout() layout {
	return layout{
		narrow: []string{"NAME", "CIDR", "SELECTOR"},
		wide: []string{
			"NAME", "CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR", "ASSIGNMENTMODE",
		},
		columns: []column{
			nameColumn(),
			of("CIDR", func(o *v3.IPPool) string { return o.Spec.CIDR }),
			of("NAT", func(o *v3.IPPool) string { return strconv.FormatBool(o.Spec.NATOutgoing) }),
			of("IPIPMODE", func(o *v3.IPPool) string { return textOr(o.Spec.IPIPMode, "Never") }),
			of("VXLANMODE", func(o *v3.IPPool) string { return textOr(o.Spec.VXLANMode, "Never") }),
			of("DISABLED", func(o *v3.IPPool) string { return strconv.FormatBool(o.Spec.Disabled) }),
			of("DISABLEBGPEXPORT", func(o *v3.IPPool) string { return strconv.FormatBool(o.Spec.DisableBGPExport) }),
			of("SELECTOR", func(o *v3.IPPool) string { return o.Spec.NodeSelector }),
			of("ASSIGNMENTMODE", func(o *v3.IPPool) string { return orElse(o.Spec.AssignmentMode, "Automatic") }),
			of("BLOCKSIZE", func(o *v3.IPPool) string { return strconv.Itoa(o.Spec.BlockSize) }),
		},
	}
}

// nodeLayout shows an AS number that a node inherits in parentheses.
func nodeLayout() layout {
	return layout{
		narrow: []string{"NAME"}, wide: []string{"NAME", "ASN", "IPV4", "IPV6"},
		columns: []column{
			nameColumn(),
			{head: "ASN", cell: func(obj api.Object, env Env) string {
				bgp := obj.(*api.Node).Spec.BGP
				switch {
				case bgp == nil:
					return ""
				case bgp.ASNumber != nil:
					return bgp.ASNumber.String()
				}
				return "(" + env.DefaultASN() + ")"
			}},
			of("IPV4", func(o *api.Node) string { return nodeBGP(o).IPv4Address }),
			of("IPV6", func(o *api.Node) string { return nodeBGP(o).IPv6Address }),
		},
	}
}

func nodeBGP(node *api.Node) api.NodeBGPSpec {
	if node.Spec.BGP == nil {
		return api.NodeBGPSpec{}
	}
	return *node.Spec.BGP
}

func endpointLayout() layout {
	return layout{
		namespaced: true,
		narrow:     []string{"WORKLOAD", "NODE", "NETWORKS", "INTERFACE"},
		wide:       []string{"NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"},
		columns: []column{
			nameColumn(),
			of("WORKLOAD", func(o *api.WorkloadEndpoint) string { return textOr(o.Spec.Workload, o.Spec.Pod) }),
			of("ORCHESTRATOR", func(o *api.WorkloadEndpoint) string { return o.Spec.Orchestrator }),
			of("NODE", func(o *api.WorkloadEndpoint) string { return o.Spec.Node }),
			of("NETWORKS", func(o *api.WorkloadEndpoint) string { return strings.Join(o.Spec.IPNetworks, ",") }),
			of("INTERFACE", func(o *api.WorkloadEndpoint) string { return o.Spec.InterfaceName }),
			of("PROFILES", func(o *api.WorkloadEndpoint) string { return strings.Join(o.Spec.Profiles, ",") }),
			of("NATS", func(o *api.WorkloadEndpoint) string {
				var nats []string
				for _, nat := range o.Spec.IPNATs {
					nats = append(nats, nat.ExternalIP+"->"+nat.InternalIP)
				}
				return strings.Join(nats, ",")
			}),
		},
	}
}

// peerNode says which nodes a peer applies to.
func peerNode(peer *v3.BGPPeer) string {
	switch {
	case peer.Spec.Node != "":
		return peer.Spec.Node
	case peer.Spec.NodeSelector != "":
		return peer.Spec.NodeSelector
	}
	return "(global)"
}

func filterRules(rules []api.BGPFilterRule) string {
	texts := make([]string, len(rules))
	for i := range rules {
		texts[i] = filterRule(&rules[i])
	}
	return strings.Join(texts, "; ")
}

// filterRule reads "Accept In 10.20.0.0/16 source=RemotePeers".
func filterRule(r *api.BGPFilterRule) string {
	parts := []string{string(r.Action)}
	if r.CIDR != "" {
		parts = append(parts, string(r.Operator), r.CIDR)
	}
	for _, more := range []struct{ name, value string }{
		{"source", string(r.Source)},
		{"interface", r.Interface},
		{"peerType", string(r.PeerType)},
		{"community", filterCommunities(r)},
		{"asPathPrefix", joined(r.ASPathPrefix)},
		{"priority", orElse(r.Priority, "")},
	} {
		if more.value != "" {
			parts = append(parts, more.name+"="+more.value)
		}
	}
	for _, op := range r.Operations {
		switch {
		case op.AddCommunity != nil:
			parts = append(parts, "add-community="+op.AddCommunity.Value)
		case op.PrependASPath != nil:
			parts = append(parts, "prepend="+joined(op.PrependASPath.Prefix))
		case op.SetPriority != nil:
			parts = append(parts, fmt.Sprintf("set-priority=%d", op.SetPriority.Value))
		}
	}
	return strings.Join(parts, " ")
}

func filterCommunities(r *api.BGPFilterRule) string {
	if r.Communities == nil {
		return ""
	}
	return strings.Join(r.Communities.Values, ",")
}

func joined(asns []api.ASN) string {
	texts := make([]string, len(asns))
	for i, asn := range asns {
		texts[i] = asn.String()
	}
	return strings.Join(texts, ",")
}

// orElse is what a pointer points at, or a substitute for nil.
func orElse[T any](p *T, otherwise string) string {
	if p == nil {
		return otherwise
	}
	return fmt.Sprint(*p)
}

func textOr[T ~string](s T, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return string(s)
}

// order is a policy's or tier's order in decimal; upstream's tables show an
// absent one as "<nil>".
func order(o *float64) string {
	if o == nil {
		return "<nil>"
	}
	return strconv.FormatFloat(*o, 'f', -1, 64)
}

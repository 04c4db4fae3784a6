package topology

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

func felixConfig(name string, floating v3.FloatingIPType) *v3.FelixConfiguration {
	f := v3.NewFelixConfiguration()
	f.Name, f.Spec.FloatingIPs = name, &floating
	return f
}

func TestFloatingAddressesAreAnnounced(t *testing.T) {
	pod := &api.WorkloadEndpoint{Spec: api.WorkloadEndpointSpec{Node: "node1", Pod: "web", IPNetworks: []string{"10.65.1.1/32", "fd65:1::1/128"}}}
	pod.Namespace, pod.Name = "ns1", "node1-k8s-web-eth0"
	for _, external := range []string{"10.65.200.9", "fd65:9::9", "192.0.2.9", "10.66.0.9", "10.65.1.9", "x"} {
		pod.Spec.IPNATs = append(pod.Spec.IPNATs, api.IPNAT{ExternalIP: external, InternalIP: "10.65.1.1"})
	}
	elsewhere := &api.WorkloadEndpoint{Spec: api.WorkloadEndpointSpec{Node: "node2", IPNATs: []api.IPNAT{{ExternalIP: "10.65.200.10"}}}}
	hidden := aPool("hidden", "10.66.0.0/16")
	hidden.Spec.DisableBGPExport = true
	announced := []Export{
		{Prefix: netip.MustParsePrefix("10.65.1.0/26"), Reason: "block of this node"},
		{Prefix: netip.MustParsePrefix("10.65.200.9/32"), Reason: "floating address of ns1/web"},
		{Prefix: netip.MustParsePrefix("fd65:9::9/128"), Reason: "floating address of ns1/web"},
	}
	for name, tc := range map[string]struct {
		felix []*v3.FelixConfiguration
		want  []Export
	}{
		"by default not":           {nil, announced[:1]},
		"enabled":                  {[]*v3.FelixConfiguration{felixConfig("default", v3.FloatingIPsEnabled)}, announced},
		"disabled on this node":    {[]*v3.FelixConfiguration{felixConfig("default", v3.FloatingIPsEnabled), felixConfig("node.node1", v3.FloatingIPsDisabled)}, announced[:1]},
		"enabled on this node":     {[]*v3.FelixConfiguration{felixConfig("node.node1", v3.FloatingIPsEnabled), felixConfig("default", v3.FloatingIPsDisabled)}, announced},
		"enabled on another alone": {[]*v3.FelixConfiguration{felixConfig("node.node2", v3.FloatingIPsEnabled)}, announced[:1]},
	} {
		out := Compute(Input{
			Node: "node1", Nodes: threeNodes(), Pools: []*v3.IPPool{aPool("v4", "10.65.0.0/16"), aPool("v6", "fd65::/16"), hidden},
			Affinities: []*api.BlockAffinity{affinity("node1", "10.65.1.0/26", api.AffinityConfirmed)},
			Workloads:  []*api.WorkloadEndpoint{pod, elsewhere}, Felix: tc.felix,
		})
		if d := cmp.Diff(tc.want, out.Exports, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
			t.Errorf("%s: exports (-want +got):\n%s", name, d)
		}
		if len(out.Floating) != len(tc.want)-1 || len(tc.want) > 1 && out.Floating[announced[1].Prefix] != "ns1/web" {
			t.Errorf("%s: floating %v", name, out.Floating)
		}
		if out.WantsWorkloads != (len(tc.want) > 1) {
			t.Errorf("%s: pods are wanted: %v", name, out.WantsWorkloads)
		}
	}
}

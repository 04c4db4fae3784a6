package cniserver

import (
	"testing"

	"tortie/felix/calc"
	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/ipam"
)

func handleID(s string) ipam.HandleID { return ipam.HandleID(s) }

func idOf(r cniwire.Request) journal.ID {
	return journal.ID{Network: "net1", ContainerID: r.ContainerID, IfName: r.IfName}
}

func argsOf(t *testing.T, s string) netconf.Args {
	t.Helper()
	args, err := netconf.ParseArgs(s)
	if err != nil {
		t.Fatal(err)
	}
	return args
}

// upstreamEndpoint is an endpoint as upstream's plugin writes it.
func upstreamEndpoint(id calc.EndpointID, container, hostIf string) *api.WorkloadEndpoint {
	parsed, err := api.ParseWorkloadEndpointName(id.Name)
	if err != nil {
		panic(err)
	}
	wep := &api.WorkloadEndpoint{}
	wep.Kind, wep.APIVersion = string(api.KindWorkloadEndpoint), api.GroupVersion
	wep.Name, wep.Namespace = id.Name, id.Namespace
	wep.Spec = api.WorkloadEndpointSpec{
		Orchestrator: parsed.Orchestrator, Node: parsed.Node, ContainerID: container, Endpoint: parsed.Endpoint,
		InterfaceName: hostIf, IPNetworks: []string{"10.65.3.3/32"}, Profiles: []string{"net1"},
	}
	if parsed.Orchestrator == orchestratorK8s {
		wep.Spec.Pod = parsed.Workload
	}
	return wep
}

// putBlock stores a block with one address for each handle, on a node.
func (w *world) putBlock(nodeOf map[string]string) {
	w.t.Helper()
	block := &api.IPAMBlock{}
	block.Name = "10.65.0.0/26"
	block.Spec.CIDR = "10.65.0.0/26"
	owner := "host:" + testNode
	block.Spec.Affinity = &owner
	block.Spec.SequenceNumberForAllocation = map[string]uint64{}
	block.Spec.Allocations = make([]*int, 64)
	block.Spec.Unallocated = []int{}
	for handle, node := range nodeOf {
		n := len(block.Spec.Attributes)
		block.Spec.Allocations[n] = &n
		block.Spec.Attributes = append(block.Spec.Attributes, api.BlockAttributes{
			HandleID: &handle, ActiveOwnerAttrs: map[string]string{api.AttributeNode: node},
		})
	}
	for n := len(nodeOf); n < 64; n++ {
		block.Spec.Unallocated = append(block.Spec.Unallocated, n)
	}
	block.Kind = string(api.KindIPAMBlock)
	w.put(block)
}

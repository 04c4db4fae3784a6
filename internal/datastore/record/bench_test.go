package record_test

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/record"
)

// BenchmarkPlan plans what the start of a pod writes: the node's block, here a full
// one, a new handle and a new endpoint.
func BenchmarkPlan(b *testing.B) {
	const cidr, handle = "10.65.0.0/26", "k8s-pod-network.04cff94076271743f054483af1788f7662b5bdb58d4472472c04c61993431cc2"
	owner, now := "host:node1", metav1.NewTime(time.Date(2026, 11, 22, 2, 1, 40, 0, time.UTC))
	block := &api.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: cidr}, Spec: api.IPAMBlockSpec{
		CIDR: cidr, Affinity: &owner, AffinityClaimTime: &now, Unallocated: []int{}, SequenceNumber: 1795312900295641371,
		SequenceNumberForAllocation: map[string]uint64{},
	}}
	for n := range 64 {
		index, id := n, fmt.Sprintf("k8s-pod-network.%064d", n)
		block.Spec.Allocations = append(block.Spec.Allocations, &index)
		block.Spec.SequenceNumberForAllocation[fmt.Sprint(n)] = block.Spec.SequenceNumber
		block.Spec.Attributes = append(block.Spec.Attributes, api.BlockAttributes{HandleID: &id, ActiveOwnerAttrs: map[string]string{
			api.AttributeNode: "node1", api.AttributeNamespace: "default", api.AttributePod: "web-7d4b9c-x2x5z", api.AttributeTimestamp: now.String(),
		}})
	}
	endpoint := &api.WorkloadEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: "node1-k8s-web--7d4b9c--x2x5z-eth0", Namespace: "default", UID: "0c8332e8-ee97-4bdc-882f-2040042692e2", CreationTimestamp: now},
		Spec: api.WorkloadEndpointSpec{
			Orchestrator: "k8s", Node: "node1", Pod: "web-7d4b9c-x2x5z", Endpoint: "eth0", IPNetworks: []string{"10.65.0.1/32"}, Profiles: []string{"kns.default"},
		},
	}
	ops := []datastore.Op{
		datastore.Update(datastore.Entry{Key: api.Key{Kind: api.KindIPAMBlock, Name: cidr}, Object: block, Revision: 5}),
		datastore.Create(api.HandleKey(handle), &api.IPAMHandle{
			ObjectMeta: metav1.ObjectMeta{Name: handle}, Spec: api.IPAMHandleSpec{HandleID: handle, Block: map[string]int{cidr: 1}},
		}),
		datastore.Create(api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "default", Name: endpoint.Name}, endpoint),
	}
	codec := record.NewCodec(api.NewRegistry())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codec.Plan(ops); err != nil {
			b.Fatal(err)
		}
	}
}

package check_test

import (
	"fmt"
	"net/netip"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam/check"
)

// cluster is a healthy cluster of full blocks of 64 addresses, each of them a pod's.
func cluster(blocks int) check.Input {
	var in check.Input
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR, pool.Spec.BlockSize = "p", "10.64.0.0/10", 26
	in.Pools = []datastore.Entry{{Key: api.Key{Kind: api.KindIPPool, Name: "p"}, Object: pool}}
	addr := netip.MustParseAddr("10.64.0.0")
	for n := range blocks {
		node := fmt.Sprintf("node%d", n)
		in.Nodes = append(in.Nodes, datastore.Entry{Key: api.Key{Kind: api.KindNode, Name: node}, Object: &api.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}})
		prefix := netip.PrefixFrom(addr, 26)
		owner := api.HostAffinity(node).String()
		spec := api.IPAMBlockSpec{CIDR: prefix.String(), Affinity: &owner, SequenceNumberForAllocation: map[string]uint64{}}
		for i := range 64 {
			id := fmt.Sprintf("net.c%d-%d", n, i)
			spec.Allocations = append(spec.Allocations, &i)
			spec.Attributes = append(spec.Attributes, api.BlockAttributes{HandleID: &id, ActiveOwnerAttrs: map[string]string{"node": node}})
			in.Handles = append(in.Handles, datastore.Entry{Key: api.HandleKey(id), Object: &api.IPAMHandle{Spec: api.IPAMHandleSpec{Block: map[string]int{spec.CIDR: 1}}}})
			in.Endpoints = append(in.Endpoints, datastore.Entry{
				Key:    api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns", Name: id},
				Object: &api.WorkloadEndpoint{Spec: api.WorkloadEndpointSpec{Node: node, IPNetworks: []string{addr.String() + "/32"}}},
			})
			addr = addr.Next()
		}
		in.Blocks = append(in.Blocks, datastore.Entry{Key: api.BlockKey(prefix), Object: &api.IPAMBlock{Spec: spec}})
		in.Affinities = append(in.Affinities, datastore.Entry{
			Key: api.BlockAffinityKey(api.HostAffinity(node), prefix), Object: &api.BlockAffinity{Spec: api.BlockAffinitySpec{State: api.AffinityConfirmed}},
		})
	}
	return in
}

func TestAssignedFindsAnAddress(t *testing.T) {
	r := check.Check(cluster(3))
	if len(r.Findings) > 0 || len(r.Addresses) != 192 {
		t.Fatalf("%d findings, %d addresses", len(r.Findings), len(r.Addresses))
	}
	for text, want := range map[string]int{"10.64.0.0": 1, "10.64.0.191": 1, "10.64.0.192": 0, "10.63.255.255": 0, "fd00::1": 0} {
		if got := r.Assigned(netip.MustParseAddr(text)); len(got) != want || want == 1 && got[0].Addr.String() != text {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// A cluster in which every endpoint is missing is checked in a time that grows with
// its size, not with its square.
func BenchmarkCheckOfALeakedCluster(b *testing.B) {
	in := cluster(1024)
	in.Endpoints = nil
	for b.Loop() {
		if r := check.Check(in); len(r.Findings) != 65536 {
			b.Fatalf("%d findings", len(r.Findings))
		}
	}
}

package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

func balancerPool(name, cidr string, opts ...func(*v3.IPPool)) *v3.IPPool {
	return newPool(name, cidr, append(opts, func(p *v3.IPPool) {
		p.Spec.AllowedUses = []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseLoadBalancer}
	})...)
}

// balancer is the allocator of addresses of services; there is no Node for it.
func (c *cluster) balancer() *ipam.Allocator {
	c.t.Helper()
	a := ipam.New(ipam.Config{Client: c.store, Node: v3.VirtualLoadBalancer, Virtual: true, View: c.view(v3.VirtualLoadBalancer), Now: c.now})
	c.t.Cleanup(a.Close)
	return a
}

func service(handle string) ipam.Request {
	return ipam.Request{
		Handle: ipam.HandleID(handle), Num4: 1, Use: v3.IPPoolAllowedUseLoadBalancer, Namespace: "ns1",
		Attrs: map[string]string{api.AttributeService: handle, api.AttributeType: "LoadBalancer"},
	}
}

func TestTheLoadBalancerOwnsItsBlocksAndNoNodeIsSaidToUseThem(t *testing.T) {
	c := newCluster(t, newPool("pods", "10.0.0.0/24"), balancerPool("lb", "10.1.0.0/24", blockSize(29)), newNode("n", nil))
	lb := c.balancer()
	got, err := lb.AutoAssign(t.Context(), service("web"))
	if err != nil || got[0].Pool != "lb" {
		t.Fatalf("got %v, %v", got, err)
	}
	info, err := ipam.Lookup(t.Context(), c.store, got[0].Addr)
	if err != nil || info.Affinity != "virtual:load-balancer" || info.Attrs[api.AttributeService] != "web" || info.Attrs[api.AttributeNamespace] != "ns1" {
		t.Errorf("got %+v, %v", info, err)
	}
	if node, ok := info.Attrs[api.AttributeNode]; ok {
		t.Errorf("node %s is said to use it", node)
	}
	owner := api.Affinity{Type: api.AffinityVirtual, Name: v3.VirtualLoadBalancer}
	entry, err := c.store.Get(t.Context(), api.BlockAffinityKey(owner, got[0].Block))
	if err != nil || entry.Object.(*api.BlockAffinity).Spec.State != api.AffinityConfirmed {
		t.Errorf("affinity: %v, %v", entry.Object, err)
	}
	c.check()
	if addrs, err := lb.ReleaseByHandle(t.Context(), "web"); err != nil || len(addrs) != 1 {
		t.Fatalf("released %v, %v", addrs, err)
	}
	c.check()
	// Another start finds the block again.
	again, err := c.balancer().AutoAssign(t.Context(), service("web2"))
	if err != nil || again[0].Block != got[0].Block {
		t.Errorf("got %v, %v; want one of block %s", again, err, got[0].Block)
	}
}

func TestTheLimitOfANodeIsNotTheLoadBalancers(t *testing.T) {
	c := newCluster(t, balancerPool("lb", "10.1.0.0/24", blockSize(32)), newConfig(func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost = 2 }))
	lb := c.balancer()
	for i := range 5 {
		if _, err := lb.AutoAssign(t.Context(), service(fmt.Sprint("s", i))); err != nil {
			t.Fatal(err)
		}
	}
	c.check()
}

func TestAnAddressOfAServiceMayBeNamedAndComesFromAManualPool(t *testing.T) {
	manual := v3.Manual
	c := newCluster(t, balancerPool("lb", "10.1.0.0/24"), balancerPool("named", "10.2.0.0/24", func(p *v3.IPPool) { p.Spec.AssignmentMode = &manual }),
		newPool("pods", "10.0.0.0/24"), newNode("n", nil))
	lb := c.balancer()
	got, err := lb.AssignIP(t.Context(), netip.MustParseAddr("10.2.0.9"), service("web"))
	if err != nil || got.Pool != "named" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := lb.AutoAssign(t.Context(), service("other")); err != nil || got[0].Pool != "lb" {
		t.Errorf("got %v, %v", got, err)
	}
	req := service("third")
	req.Pools4 = []string{"named"}
	if got, err := lb.AutoAssign(t.Context(), req); err != nil || got[0].Pool != "named" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := lb.AssignIP(t.Context(), netip.MustParseAddr("10.0.0.9"), service("fourth")); !errors.Is(err, ipam.ErrNoPool) {
		t.Errorf("an address of the pods' pool: %v", err)
	}
	c.check()
}

// A node neither gets addresses of services nor takes their blocks.
func TestNodesHaveNothingOfTheLoadBalancersBlocks(t *testing.T) {
	c := newCluster(t, balancerPool("lb", "10.1.0.0/30", blockSize(30)), newNode("n", nil))
	lb, n := c.balancer(), c.allocator("n")
	if _, err := lb.AutoAssign(t.Context(), service("web")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1}); !errors.Is(err, ipam.ErrNoPool) {
		t.Errorf("AutoAssign: %v", err)
	}
	req := service("h")
	if _, err := n.AutoAssign(t.Context(), req); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("AutoAssign for a service: %v", err)
	}
	if _, err := n.AssignIP(t.Context(), netip.MustParseAddr("10.1.0.2"), req); !errors.Is(err, ipam.ErrNotOurs) {
		t.Errorf("AssignIP: %v", err)
	}
	c.check()
}

func TestAFullLoadBalancerPoolSaysSo(t *testing.T) {
	c := newCluster(t, balancerPool("lb", "10.1.0.0/30", blockSize(30)))
	lb := c.balancer()
	for i := range 4 {
		if _, err := lb.AutoAssign(t.Context(), service(fmt.Sprint("s", i))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := lb.AutoAssign(t.Context(), service("more"))
	const want = "assign 1 IPv4 address for load-balancer: no free address: lb (10.1.0.0/30): load-balancer has 1 block in it with 0 free, 4 used"
	if !errors.Is(err, ipam.ErrPoolFull) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// A claim begun by a replica that died is finished by the next.
func TestALoadBalancersClaimIsGoneOnWith(t *testing.T) {
	c := newCluster(t, balancerPool("lb", "10.1.0.0/24", blockSize(29)))
	owner, block := api.Affinity{Type: api.AffinityVirtual, Name: v3.VirtualLoadBalancer}, netip.MustParsePrefix("10.1.0.48/29")
	pending := &api.BlockAffinity{Spec: api.BlockAffinitySpec{State: api.AffinityPending, Type: owner.Type, Node: owner.Name, CIDR: block.String()}}
	if _, err := c.store.Txn(t.Context(), datastore.Create(api.BlockAffinityKey(owner, block), pending)); err != nil {
		t.Fatal(err)
	}
	got, err := c.balancer().AutoAssign(t.Context(), service("web"))
	if err != nil || got[0].Block != block {
		t.Errorf("got %v, %v; want one of block %s", got, err, block)
	}
	c.check()
}

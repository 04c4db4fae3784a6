package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/tests/e2e/cluster"
)

// balancers are the pools of load balancers' addresses, and what has them announced.
const balancers = `apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: balancers}
spec: {cidr: 192.0.2.0/24, blockSize: 26, allowedUses: [LoadBalancer]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: balancers-v6}
spec: {cidr: "2001:db8:2::/112", blockSize: 122, allowedUses: [LoadBalancer]}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceLoadBalancerIPs: [{cidr: 192.0.2.0/24}, {cidr: "2001:db8:2::/112"}]}
`

// loadBalancers: kube-controllers give Services of type LoadBalancer addresses of a pool,
// every node announces the pool to the router, and a host outside reaches the Services by
// them; with externalTrafficPolicy: Local the node of the pod announces the address alone,
// and the pod sees who called. What a deleted Service had is given back, and what is sent
// there ends at a node.
func loadBalancers(t *testing.T, e *env) {
	pods := e.agents(t)
	e.apply(t, "services.yaml")
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/local", "--timeout=60s")
	e.applyResources(t, balancers)
	e.apply(t, "loadbalancers.yaml")
	web, local := e.ingress(t, "web", 2), e.ingress(t, "web-local", 1)[0]
	if want := netip.MustParseAddr("192.0.2.77"); local != want {
		t.Errorf("web-local has %s, want %s, which it asked for", local, want)
	}
	for i, pool := range []string{"192.0.2.0/24", "2001:db8:2::/112"} {
		if !netip.MustParsePrefix(pool).Contains(web[i]) {
			t.Errorf("web has %s, which is not in the pool %s", web[i], pool)
		}
		eventually(t, 20*time.Second, func() error { return e.routerHears(t, pool, 3) })
	}
	eventually(t, 20*time.Second, func() error { return e.routerHears(t, local.String()+"/32", 1) })
	var all []expectation
	for _, address := range web {
		all = append(all, both("web", netip.AddrPortFrom(address, 80), "", netip.Addr{})...)
	}
	fromOutside := append(slices.Clone(all), both("web-local", netip.AddrPortFrom(local, 80), "local", hostAddr(cluster.OutsideHost(), false))...)
	eventually(t, 20*time.Second, func() error { // as soon as kube-proxy knows of them
		wrong := probe(cluster.Outside, e.fromHost(t, cluster.Outside), fromOutside)
		for _, p := range pods {
			wrong = append(wrong, probe(p.name, e.fromPod(t, p), all)...)
		}
		if len(wrong) > 0 {
			return errors(wrong)
		}
		return nil
	})
	if out := e.calicoctl(t, "ipam", "show", "--ip="+local.String()); lineWith(out, []string{"service: web-local"}) == "" || !strings.Contains(out, "IP pool balancers") {
		t.Errorf("who has %s:\n%s", local, out)
	}

	e.kubectl(t, "delete", "-f", "tests/e2e/testdata/loadbalancers.yaml")
	for _, address := range append(web, local) {
		eventually(t, 20*time.Second, func() error {
			if out := e.calicoctl(t, "ipam", "show", "--ip="+address.String()); !strings.Contains(out, "is not assigned") {
				return fmt.Errorf("its Service is deleted: %s", out)
			}
			return nil
		})
	}
	if err := e.routerHears(t, local.String()+"/32", 0); err != nil {
		t.Error(err)
	}
	// Nobody has it, and the router sends it to the nodes, which have no way but back.
	if out, err := e.Machine(cluster.Outside).Run(t.Context(), "ping", "-c1", "-W1", local.String()); err == nil || strings.Contains(out, "Time to live exceeded") {
		t.Errorf("a packet to an address of no Service goes round: %v\n%s", err, out)
	}
	e.calicoctl(t, "delete", "bgpconfiguration", "default")
	e.calicoctl(t, "delete", "ippool", "balancers", "balancers-v6")
	for _, pool := range []string{"192.0.2.0/24", "2001:db8:2::/112"} {
		eventually(t, 20*time.Second, func() error { return e.routerHears(t, pool, 0) })
	}
}

// ingress are the addresses that a Service has as a load balancer, IPv4 first.
func (e *env) ingress(t *testing.T, name string, count int) (addresses []netip.Addr) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		s, err := e.client.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if addresses = nil; len(s.Status.LoadBalancer.Ingress) != count {
			return fmt.Errorf("service %s has %v, want %d addresses", name, s.Status.LoadBalancer.Ingress, count)
		}
		for _, i := range s.Status.LoadBalancer.Ingress {
			addresses = append(addresses, netip.MustParseAddr(i.IP))
		}
		return nil
	})
	return addresses
}

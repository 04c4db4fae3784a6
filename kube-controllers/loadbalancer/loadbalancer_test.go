package loadbalancer

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
	"tortie/kube-controllers/convert"
	"tortie/kube-controllers/kubetest"
)

func pool(name, cidr string, opts ...func(*v3.IPPool)) *v3.IPPool {
	p := v3.NewIPPool()
	p.Name, p.Spec.CIDR = name, cidr
	p.Spec.AllowedUses = []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseLoadBalancer}
	for _, opt := range opts {
		opt(p)
	}
	return p
}

func manual(p *v3.IPPool) {
	mode := v3.Manual
	p.Spec.AssignmentMode = &mode
}

func balanced(name string, opts ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name, UID: types.UID("uid-" + name), Annotations: map[string]string{}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, opt := range opts {
		opt(svc)
	}
	return svc
}

func annotated(name, value string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Annotations["projectcalico.org/"+name] = value }
}

func dual(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, &policy
	}
}

func class(name string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &name }
}

// site is a world with the controller in it.
type site struct {
	*kubetest.World
	assign v3.AssignIPs
	log    *strings.Builder
}

func run(t *testing.T, objects []runtime.Object, pools []api.Object, test func(s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{World: kubetest.New(t, objects...), assign: v3.AllServices, log: new(strings.Builder)}
		s.Put(pools...)
		s.start()
		test(s)
		if err := ipamtest.Check(context.Background(), s.Store); err != nil {
			t.Error(err)
		}
	})
}

func (s *site) start() {
	s.Helper()
	c, err := New(Config{
		Client: s.Store, Cache: s.Cache, Services: s.Cluster.Services(), SetIngress: s.Cluster.SetIngress,
		AssignIPs: func() v3.AssignIPs { return s.assign }, Log: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Start(c)
}

// ingress is the status of a service.
func (s *site) ingress(name string) []string {
	s.Helper()
	svc, err := s.API.CoreV1().Services("ns1").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	var out []string
	for _, i := range svc.Status.LoadBalancer.Ingress {
		out = append(out, i.IP)
	}
	return out
}

// inUse counts the addresses assigned.
func (s *site) inUse() int {
	s.Helper()
	snap, err := s.Store.List(context.Background(), datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		s.Fatal(err)
	}
	n := 0
	for _, entry := range snap.Entries {
		allocations, err := ipam.AllocationsOf(entry)
		if err != nil {
			s.Fatal(err)
		}
		n += len(allocations)
	}
	return n
}

// update changes a service as a user does.
func (s *site) update(name string, change func(*corev1.Service)) {
	s.Helper()
	svc, err := s.API.CoreV1().Services("ns1").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	svc = svc.DeepCopy()
	change(svc)
	if _, err := s.API.CoreV1().Services("ns1").Update(context.Background(), svc, metav1.UpdateOptions{}); err != nil {
		s.Fatal(err)
	}
	s.Settle()
}

func (s *site) expect(name string, want ...string) {
	s.Helper()
	got := s.ingress(name)
	if len(got) != len(want) {
		s.Fatalf("service %s has %v, want one in each of %v\n%s", name, got, want, s.log)
	}
	for i, cidr := range want {
		if !netip.MustParsePrefix(cidr).Contains(netip.MustParseAddr(got[i])) {
			s.Errorf("service %s has %v, want one in each of %v", name, got, want)
		}
	}
}

func lbPools() []api.Object {
	return []api.Object{pool("four", "192.0.2.0/24"), pool("six", "fd00:1::/112"), pool("named", "198.51.100.0/24", manual)}
}

func TestAServiceGetsWhatItAsksFor(t *testing.T) {
	objects := []runtime.Object{
		balanced("plain"),
		balanced("ours", class("calico")),
		balanced("both", dual(corev1.IPFamilyPolicyRequireDualStack)),
		balanced("address", annotated("loadBalancerIPs", `["198.51.100.7"]`)),
		balanced("pool", annotated("ipv4pools", `["named"]`)),
		balanced("range", annotated("ipv4pools", `["198.51.100.0/24"]`)),
		balanced("theirs", class("example.com/lb")),
		balanced("internal", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }),
	}
	run(t, objects, lbPools(), func(s *site) {
		s.expect("plain", "192.0.2.0/24")
		s.expect("ours", "192.0.2.0/24")
		s.expect("both", "192.0.2.0/24", "fd00:1::/112")
		s.expect("address", "198.51.100.7/32")
		s.expect("pool", "198.51.100.0/24")
		s.expect("range", "198.51.100.0/24")
		s.expect("theirs")
		s.expect("internal")
		info, err := ipam.Lookup(t.Context(), s.Store, netip.MustParseAddr(s.ingress("plain")[0]))
		want := convert.BalancerHandle(balanced("plain"))
		if err != nil || info.Handle != want || info.Affinity != "virtual:load-balancer" || info.Attrs[api.AttributeService] != "plain" ||
			info.Attrs[api.AttributeNamespace] != "ns1" || info.Attrs[api.AttributeType] != "LoadBalancer" {
			t.Errorf("got %+v, %v", info, err)
		}
	})
}

func TestAnAddressStaysWithItsServiceAndGoesWithIt(t *testing.T) {
	run(t, []runtime.Object{balanced("web")}, lbPools(), func(s *site) {
		had := s.ingress("web")
		s.update("web", func(svc *corev1.Service) { svc.Annotations["other"] = "x" })
		s.Put(pool("later", "203.0.113.0/24"))
		s.Settle()
		if got := s.ingress("web"); !slices.Equal(got, had) {
			t.Errorf("got %v, had %v", got, had)
		}
		_ = s.API.CoreV1().Services("ns1").Delete(t.Context(), "web", metav1.DeleteOptions{})
		s.Settle()
		if n := s.inUse(); n != 0 {
			t.Errorf("%d addresses are still in use", n)
		}
	})
}

// A service that the API server has and the cache lacks keeps its address.
func TestACacheThatIsBehindTakesNothingAway(t *testing.T) {
	svc := balanced("web")
	run(t, []runtime.Object{svc}, lbPools(), func(s *site) {
		s.OnlyLive("services", svc)
		_ = s.API.CoreV1().Services("ns1").Delete(t.Context(), "web", metav1.DeleteOptions{})
		s.Settle()
		if n := s.inUse(); n != 1 {
			t.Errorf("%d addresses are in use", n)
		}
	})
}

func TestWhatAServiceSaysIsFollowed(t *testing.T) {
	run(t, []runtime.Object{balanced("web")}, lbPools(), func(s *site) {
		for _, step := range []struct {
			change func(*corev1.Service)
			want   []string
			inUse  int
		}{
			{annotated("loadBalancerIPs", `["198.51.100.7"]`), []string{"198.51.100.7/32"}, 1},
			{annotated("loadBalancerIPs", `["198.51.100.8","fd00:1::8"]`), []string{"198.51.100.8/32", "fd00:1::8/128"}, 2},
			{func(svc *corev1.Service) { clear(svc.Annotations) }, []string{"192.0.2.0/24"}, 1}, // its pool is manual, and it is of one family
			{dual(corev1.IPFamilyPolicyPreferDualStack), []string{"192.0.2.0/24", "fd00:1::/112"}, 2},
			{class("example.com/lb"), nil, 0},
		} {
			s.update("web", step.change)
			s.expect("web", step.want...)
			if n := s.inUse(); n != step.inUse {
				t.Errorf("%d addresses are in use, want %d", n, step.inUse)
			}
		}
	})
}

func TestAnotherControllersAddressStaysInTheStatus(t *testing.T) {
	run(t, []runtime.Object{balanced("web")}, lbPools(), func(s *site) {
		s.update("web", func(svc *corev1.Service) {
			other := "example.com/lb"
			svc.Spec.LoadBalancerClass = &other
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: "203.0.113.1"})
		})
		if got := s.ingress("web"); !slices.Equal(got, []string{"203.0.113.1"}) || s.inUse() != 0 {
			t.Errorf("got %v, %d in use", got, s.inUse())
		}
	})
}

// A service made anew under its old name is another one.
func TestTheAddressOfADeletedNamesakeIsReleased(t *testing.T) {
	run(t, []runtime.Object{balanced("web")}, lbPools(), func(s *site) {
		_ = s.API.CoreV1().Services("ns1").Delete(t.Context(), "web", metav1.DeleteOptions{})
		anew := balanced("web", func(svc *corev1.Service) { svc.UID = "another" })
		if _, err := s.API.CoreV1().Services("ns1").Create(t.Context(), anew, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.Settle()
		s.expect("web", "192.0.2.0/24")
		if n := s.inUse(); n != 1 {
			t.Errorf("%d addresses are in use", n)
		}
	})
}

func TestServicesThatWaitAreServedWhenAPoolComes(t *testing.T) {
	run(t, []runtime.Object{balanced("web"), balanced("both", dual(corev1.IPFamilyPolicyPreferDualStack))}, []api.Object{
		pool("pods", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.AllowedUses = []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseWorkload} }),
	}, func(s *site) {
		if s.log.Len() > 0 {
			t.Errorf("without a pool for load balancers it says: %s", s.log)
		}
		s.expect("web")
		s.Put(pool("four", "192.0.2.0/24"))
		s.Settle()
		s.expect("web", "192.0.2.0/24")
		s.expect("both", "192.0.2.0/24") // either is better than none
	})
}

func TestOnlyServicesThatAskAreServedWhenThatIsSaid(t *testing.T) {
	objects := []runtime.Object{balanced("plain"), balanced("asks", annotated("ipv4pools", `["four"]`))}
	synctest.Test(t, func(t *testing.T) {
		s := &site{World: kubetest.New(t, objects...), assign: v3.RequestedServicesOnly, log: new(strings.Builder)}
		s.Put(lbPools()...)
		s.start()
		s.expect("plain")
		s.expect("asks", "192.0.2.0/24")
		s.assign = v3.AllServices
		s.Put(&v3.KubeControllersConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
		s.Settle()
		s.expect("plain", "192.0.2.0/24")
	})
}

func TestWhyAServiceGetsNoAddressIsSaid(t *testing.T) {
	for name, tc := range map[string]struct {
		svc  *corev1.Service
		want string
	}{
		"no list":    {balanced("web", annotated("ipv4pools", "four")), `annotation projectcalico.org/ipv4pools: \"four\": want a list such as`},
		"no address": {balanced("web", annotated("loadBalancerIPs", `["x"]`)), "want an IP address such as 192.0.2.1"},
		"two of one": {balanced("web", annotated("loadBalancerIPs", `["192.0.2.1","192.0.2.2"]`)), "more than one of an IP version"},
		"no pool":    {balanced("web", annotated("ipv4pools", `["nowhere"]`)), "requested, but there is no such pool"},
		"outside":    {balanced("web", annotated("loadBalancerIPs", `["203.0.113.9"]`)), "it lies in no IP pool"},
		"full":       {balanced("web", annotated("ipv4pools", `["tiny"]`)), "no other block of the pool is free"},
	} {
		t.Run(name, func(t *testing.T) {
			other := balanced("a", annotated("loadBalancerIPs", `["203.0.113.8"]`))
			tiny := pool("tiny", "203.0.113.8/32", func(p *v3.IPPool) { p.Spec.BlockSize = 32 })
			run(t, []runtime.Object{other}, append(lbPools(), tiny), func(s *site) {
				if _, err := s.API.CoreV1().Services("ns1").Create(t.Context(), tc.svc, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				s.Settle()
				s.expect("web")
				if !strings.Contains(s.log.String(), tc.want) {
					t.Errorf("nobody says %q:\n%s", tc.want, s.log)
				}
			})
		})
	}
}

// The status could not be written, or the store was away: in the end the service has one
// address, and shows it.
func TestAFailureInBetweenLeavesOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{World: kubetest.New(t, balanced("web")), assign: v3.AllServices, log: new(strings.Builder)}
		s.Put(lbPools()...)
		fail := true
		c, err := New(Config{
			Client: s.Store, Cache: s.Cache, Services: s.Cluster.Services(), AssignIPs: func() v3.AssignIPs { return s.assign },
			SetIngress: func(ctx context.Context, svc *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
				if fail {
					return errors.New("the API server is away")
				}
				return s.Cluster.SetIngress(ctx, svc, ingress)
			},
			Log: slog.New(slog.NewTextHandler(s.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start(c)
		s.expect("web")
		fail = false
		s.Settle()
		s.Settle()
		s.expect("web", "192.0.2.0/24")
		if n := s.inUse(); n != 1 {
			t.Errorf("%d addresses are in use", n)
		}
	})
}

// The answer to an assignment is lost; what it assigned is the service's all the same.
func TestAnAssignmentWithoutAnAnswerIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{World: kubetest.New(t, balanced("web")), assign: v3.AllServices, log: new(strings.Builder)}
		s.Put(lbPools()...)
		lost := false
		store := &ipamtest.Faulty{Client: s.Store, Decide: func(_ int, ops []datastore.Op) ipamtest.Fault {
			for _, op := range ops {
				if op.Key.Kind == api.KindIPAMHandle && op.Kind == datastore.OpCreate && !lost {
					lost = true
					return ipamtest.LoseReply
				}
			}
			return ipamtest.Pass
		}}
		c, err := New(Config{
			Client: store, Cache: s.Cache, Services: s.Cluster.Services(), SetIngress: s.Cluster.SetIngress,
			AssignIPs: func() v3.AssignIPs { return s.assign }, Log: slog.New(slog.NewTextHandler(s.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start(c)
		s.Settle()
		s.Settle()
		s.expect("web", "192.0.2.0/24")
		if n := s.inUse(); n != 1 || !lost {
			t.Errorf("%d addresses are in use", n)
		}
	})
}

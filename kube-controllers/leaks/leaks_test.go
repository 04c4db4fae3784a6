package leaks

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/kube-controllers/kubetest"
)

const grace = 15 * time.Minute

func pod(name, node string, ips ...netip.Addr) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	return p
}

func kubeNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func node(name string) *api.Node {
	return &api.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func endpoint(name, node string, networks ...string) *api.WorkloadEndpoint {
	wep := &api.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: node + "-k8s-" + name + "-eth0"}}
	wep.Spec = api.WorkloadEndpointSpec{Orchestrator: "k8s", Node: node, Pod: name, Endpoint: "eth0", IPNetworks: networks, InterfaceName: "cali1"}
	return wep
}

func networks(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()).String())
	}
	return out
}

// setup is a world with a collector, on nodes a and b.
type setup struct {
	*kubetest.World
	grace time.Duration
}

func world(t *testing.T, objects []runtime.Object, test func(w *setup)) {
	synctest.Test(t, func(t *testing.T) {
		w := &setup{World: kubetest.New(t, append(objects, kubeNode("a"), kubeNode("b"))...), grace: grace}
		w.Put(node("a"), node("b"))
		test(w)
	})
}

func (w *setup) collect() {
	w.Helper()
	c, err := New(Config{
		Client: w.Store, Cache: w.Cache, Pods: w.Cluster.Pods(), Nodes: w.Cluster.Nodes(),
		Grace: func() time.Duration { return w.grace }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Start(c)
}

func (w *setup) wait(d time.Duration) {
	time.Sleep(d) // simulated
	synctest.Wait()
}

// pods assigns addresses to a pod of a node.
func (w *setup) pod(handle ipam.HandleID, name, node string) []netip.Addr {
	w.Helper()
	return w.Assign(node, handle, api.AttributeNamespace, "ns1", api.AttributePod, name)
}

func (w *setup) held(handle ipam.HandleID) int {
	w.Helper()
	addrs, err := ipam.AddressesOf(context.Background(), w.Store, handle)
	if err != nil {
		w.Fatal(err)
	}
	return len(addrs)
}

// keeps checks that a handle still has its two addresses after a long time.
func (w *setup) keeps(handle ipam.HandleID) {
	w.Helper()
	w.wait(3 * grace)
	if w.held(handle) != 2 {
		w.Errorf("%s was released", handle)
	}
}

// loses checks that a handle is released within a grace period from now, and not
// before the end of it.
func (w *setup) loses(handle ipam.HandleID) {
	w.Helper()
	w.wait(grace - time.Minute)
	if w.held(handle) != 2 {
		w.Errorf("%s was released too early", handle)
	}
	w.wait(2 * time.Minute)
	if w.held(handle) != 0 {
		w.Errorf("%s was not released", handle)
	}
}

func (w *setup) deletePod(name string) {
	w.Helper()
	if err := w.API.CoreV1().Pods("ns1").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w *setup) createPod(p *corev1.Pod) {
	w.Helper()
	if _, err := w.API.CoreV1().Pods("ns1").Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func TestAddressesOfAPodThatIsGoneAreReleasedAfterTheGracePeriod(t *testing.T) {
	t.Run("GoneWhileWatching", func(t *testing.T) {
		world(t, []runtime.Object{pod("p", "a"), pod("alive", "a")}, func(w *setup) {
			w.pod("h", "p", "a")
			w.pod("alive", "alive", "a")
			w.collect()
			w.deletePod("p")
			w.loses("h")
			w.keeps("alive")
		})
	})
	t.Run("GoneBefore", func(t *testing.T) {
		world(t, nil, func(w *setup) {
			w.pod("h", "p", "a")
			w.collect()
			w.loses("h")
		})
	})
	t.Run("AssignedWhileWatchingAndNeverAPod", func(t *testing.T) {
		world(t, nil, func(w *setup) {
			w.collect()
			w.pod("h", "p", "a")
			w.loses("h")
		})
	})
	t.Run("ItsHandleHasNoRecord", func(t *testing.T) {
		world(t, nil, func(w *setup) {
			addrs := w.pod("h", "p", "a")
			w.Store.RawDelete("/calico/ipam/v2/handle/h")
			w.collect()
			w.wait(2 * grace)
			if info, err := ipam.Lookup(t.Context(), w.Store, addrs[0]); err != nil || info.Assigned {
				t.Errorf("%+v, %v", info, err)
			}
		})
	})
}

// TestLivingPodsKeepTheirAddresses: whatever a cache lacks, and whatever can't be
// told, is in use.
func TestLivingPodsKeepTheirAddresses(t *testing.T) {
	tests := map[string]func(w *setup, addrs []netip.Addr){
		"PodExists":      func(w *setup, _ []netip.Addr) { w.createPod(pod("p", "a")) },
		"NotScheduled":   func(w *setup, _ []netip.Addr) { w.createPod(pod("p", "")) },
		"ListIsStale":    func(w *setup, _ []netip.Addr) { w.OnlyLive("pods", pod("p", "a")) },
		"APIServerFails": func(w *setup, _ []netip.Addr) { w.Fail("get", "pods", context.DeadlineExceeded) },
		"EndpointHasOne": func(w *setup, addrs []netip.Addr) { w.Put(endpoint("p", "a", networks(addrs[:1])...)) },
		"EndpointOfAnotherNameHasOne": func(w *setup, addrs []netip.Addr) {
			w.Put(endpoint("q", "b", networks(addrs[1:])...))
		},
		"AnotherSpellingOfIPv6": func(w *setup, addrs []netip.Addr) {
			w.Store.RawPut("/calico/resources/v3/projectcalico.org/workloadendpoints/ns1/a-k8s-p-eth0", fmt.Appendf(nil,
				`{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"a-k8s-p-eth0","namespace":"ns1"},`+
					`"spec":{"orchestrator":"k8s","node":"a","pod":"p","endpoint":"eth0","ipNetworks":[%q]}}`,
				strings.ToUpper(addrs[1].StringExpanded())+"/128"))
		},
		"UnreadableEndpoint": func(w *setup, _ []netip.Addr) {
			w.Store.RawPut("/calico/resources/v3/projectcalico.org/workloadendpoints/ns1/a-k8s-p-eth0", []byte("{"))
		},
		"PodElsewhereWithOneOfThem": func(w *setup, addrs []netip.Addr) { w.createPod(pod("p", "b", addrs[1])) },
		"GarbageCollectionIsOff":    func(w *setup, _ []netip.Addr) { w.grace = 0 },
		"DatastoreAway":             nil,
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			world(t, nil, func(w *setup) {
				addrs := w.pod("h", "p", "a")
				if prepare != nil {
					prepare(w, addrs)
				}
				w.collect()
				if prepare == nil {
					w.Store.SetUnavailable(true)
					w.createPod(pod("p", "a"))
					w.wait(2 * grace)
					w.Store.SetUnavailable(false)
				}
				w.keeps("h")
			})
		})
	}
}

func TestWhatIsSeenInTimeStopsTheRelease(t *testing.T) {
	t.Run("ThePodComes", func(t *testing.T) {
		world(t, nil, func(w *setup) {
			w.pod("h", "p", "a")
			w.collect()
			w.wait(grace / 2)
			w.createPod(pod("p", "a"))
			w.keeps("h")
		})
	})
	t.Run("TheHandleIsAssignedAnew", func(t *testing.T) {
		world(t, nil, func(w *setup) {
			w.pod("h", "p", "a")
			w.collect()
			w.wait(grace - time.Minute)
			w.Link.SetUnavailable(true) // so that both changes are seen as one
			if _, err := ipam.ReleaseHandle(t.Context(), w.Store, "h"); err != nil {
				t.Fatal(err)
			}
			w.pod("h", "p", "a")
			w.Link.SetUnavailable(false)
			w.Settle()
			w.loses("h") // a whole period from now
		})
	})
	t.Run("TheEndpointStaysLonger", func(t *testing.T) {
		world(t, nil, func(w *setup) {
			addrs := w.pod("h", "p", "a")
			wep := endpoint("p", "a", networks(addrs)...)
			w.Put(wep)
			w.collect()
			w.keeps("h")
			if _, err := w.Store.Txn(t.Context(), datastore.DeleteAny(api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: wep.Name})); err != nil {
				t.Fatal(err)
			}
			w.loses("h")
		})
	})
}

// TestTheDatastoreItselfHasTheLastWord: the cache may be behind.
func TestTheDatastoreItselfHasTheLastWord(t *testing.T) {
	for name, change := range map[string]func(w *setup, addrs []netip.Addr){
		"Endpoint": func(w *setup, addrs []netip.Addr) { w.Put(endpoint("p", "a", networks(addrs)...)) },
		"UnreadableEndpoint": func(w *setup, _ []netip.Addr) {
			w.Store.RawPut("/calico/resources/v3/projectcalico.org/workloadendpoints/ns1/a-k8s-p-eth0", []byte("{"))
		},
		"AssignedAnew": func(w *setup, _ []netip.Addr) {
			if _, err := ipam.ReleaseHandle(context.Background(), w.Store, "h"); err != nil {
				w.Fatal(err)
			}
			w.pod("h", "p", "a")
		},
		"NodeAfterAll": func(w *setup, _ []netip.Addr) { w.Put(node("n")) },
	} {
		t.Run(name, func(t *testing.T) {
			world(t, nil, func(w *setup) {
				addrs := w.pod("h", "p", "a")
				w.Assign("n", "tunnel", api.AttributeType, "vxlanTunnelAddress")
				w.collect()
				w.Link.SetUnavailable(true)
				change(w, addrs)
				w.wait(2 * grace)
				handle := ipam.HandleID("h")
				if name == "NodeAfterAll" {
					handle = "tunnel"
				}
				if w.held(handle) != 2 {
					t.Errorf("%s was released", handle)
				}
			})
		})
	}
}

func TestPodOfThatNameThatMovedHasOnlyItsNewAddresses(t *testing.T) {
	world(t, []runtime.Object{pod("p", "a")}, func(w *setup) {
		w.pod("old", "p", "a")
		w.collect()
		w.deletePod("p")
		fresh := w.pod("new", "p", "b")
		w.createPod(pod("p", "b", fresh...))
		w.loses("old")
		w.keeps("new")
	})
}

func TestOthersAddressesAreNotTouched(t *testing.T) {
	for name, attrs := range map[string][]string{
		"Tunnel":         {api.AttributeType, "vxlanTunnelAddress"},
		"NoPod":          {},
		"VirtualMachine": {api.AttributeNamespace, "ns1", api.AttributePod, "p", "vmi-name", "vm"},
		"OtherType":      {api.AttributeNamespace, "ns1", api.AttributePod, "p", api.AttributeType, "something"},
	} {
		t.Run(name, func(t *testing.T) {
			world(t, nil, func(w *setup) {
				w.Assign("a", "h", attrs...)
				w.collect()
				w.keeps("h")
			})
		})
	}
}

func TestBlocksAndTunnelsOfANodeThatIsGoneAreReleased(t *testing.T) {
	world(t, nil, func(w *setup) {
		w.Assign("gone", "vxlan-tunnel-addr-gone", api.AttributeType, "vxlanTunnelAddress")
		w.Assign("a", "vxlan-tunnel-addr-a", api.AttributeType, "vxlanTunnelAddress")
		w.collect()
		w.loses("vxlan-tunnel-addr-gone")
		w.keeps("vxlan-tunnel-addr-a")
		if names := w.Names(api.KindBlockAffinity); strings.Contains(strings.Join(names, " "), "gone") || len(w.Names(api.KindIPAMBlock)) != 2 {
			t.Errorf("%v, %v", names, w.Names(api.KindIPAMBlock))
		}
	})
}

// TestLoansOfANodeThatWasDeletedByUpstreamsToolsEnd: these give its addresses and blocks
// back, and know nothing of loans. What others borrow stays on record.
func TestLoansOfANodeThatWasDeletedByUpstreamsToolsEnd(t *testing.T) {
	world(t, nil, func(w *setup) {
		w.Put(node("going"))
		block := netip.MustParsePrefix("10.65.0.0/26")
		w.Put(api.NewLoan("going", block), api.NewLoan("a", block))
		w.collect()
		w.wait(time.Minute)
		if got := w.Names(api.KindIPAMLoan); len(got) != 2 {
			t.Fatalf("while the nodes are there: %v", got)
		}
		if _, err := w.Store.Txn(context.Background(), datastore.DeleteAny(api.Key{Kind: api.KindNode, Name: "going"})); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Minute)
		if got := w.Names(api.KindIPAMLoan); len(got) != 1 || got[0] != "a/10.65.0.0-26" {
			t.Errorf("loans %v, want that of a", got)
		}
	})
}

func TestNodesThatMayLiveKeepTheirBlocks(t *testing.T) {
	for name, prepare := range map[string]func(w *setup){
		"OnlyKubernetesHasIt": func(w *setup) {
			_, _ = w.API.CoreV1().Nodes().Create(context.Background(), kubeNode("n"), metav1.CreateOptions{})
		},
		"OnlyTheAPIServerHasIt": func(w *setup) { w.OnlyLive("nodes", kubeNode("n")) },
		"OnlyTheDatastoreHasIt": func(w *setup) { w.Put(node("n")) },
		"Unreadable":            func(w *setup) { w.Store.RawPut("/calico/resources/v3/projectcalico.org/nodes/n", []byte("{")) },
		"SomethingRunsThere":    func(w *setup) { w.Put(endpoint("x", "n", "192.0.2.9/32")) },
		"APIServerFails":        func(w *setup) { w.Fail("get", "nodes", context.DeadlineExceeded) },
		"NoNodeAtAll": func(w *setup) {
			for _, name := range []string{"a", "b"} {
				_ = w.API.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			world(t, nil, func(w *setup) {
				w.Assign("n", "tunnel", api.AttributeType, "vxlanTunnelAddress")
				prepare(w)
				w.collect()
				w.keeps("tunnel")
			})
		})
	}
}

func TestAGracePeriodThatIsSetLaterCounts(t *testing.T) {
	world(t, nil, func(w *setup) {
		w.pod("h", "p", "a")
		w.grace = 0
		w.collect()
		w.keeps("h")
		w.grace = grace
		k := v3.NewKubeControllersConfiguration()
		k.Name = "default"
		w.Put(k)
		w.Settle()
		if w.held("h") != 0 {
			t.Error("not released")
		}
	})
}

// TestLivingPodsKeepTheirAddressesWhateverHappens lets pods, endpoints, the API
// server and the datastore come and go, and checks after each step that nobody who
// lives has lost an address.
func TestLivingPodsKeepTheirAddressesWhateverHappens(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			world(t, nil, func(w *setup) {
				w.collect()
				c := &chaos{setup: w, rnd: rnd, addrs: map[string][]netip.Addr{}, lives: map[string]bool{}}
				for range 60 {
					c.step()
					c.check()
				}
				// In the end whatever doesn't live is released.
				w.Store.SetUnavailable(false)
				w.wait(3 * grace)
				for name := range c.addrs {
					if got := w.held(ipam.HandleID(name)); !c.lives[name] && got != 0 {
						t.Errorf("%s is gone and holds %d addresses", name, got)
					}
				}
				c.check()
			})
		})
	}
}

type chaos struct {
	*setup
	rnd   *rand.Rand
	addrs map[string][]netip.Addr // by pod, its handle is its name
	lives map[string]bool
	away  bool
}

func (c *chaos) step() {
	name := fmt.Sprintf("p%d", c.rnd.IntN(8))
	switch c.rnd.IntN(6) {
	case 0, 1: // a pod starts: at times its addresses are there before the API server shows it
		if c.lives[name] || c.away {
			return
		}
		if len(c.addrs[name]) == 0 || c.held(ipam.HandleID(name)) == 0 {
			c.addrs[name] = c.pod(ipam.HandleID(name), name, "a")
		}
		c.createPod(pod(name, "a"))
		c.lives[name] = true
	case 2: // a pod ends, and its DEL never comes
		if c.lives[name] {
			c.deletePod(name)
			c.lives[name] = false
		}
	case 3:
		c.away = !c.away
		c.Store.SetUnavailable(c.away)
	default:
		c.wait(time.Duration(c.rnd.Int64N(int64(grace))))
	}
}

func (c *chaos) check() {
	c.Helper()
	if c.away {
		return
	}
	synctest.Wait()
	for name, lives := range c.lives {
		if lives && c.held(ipam.HandleID(name)) != 2 {
			c.Fatalf("%s lives and holds %d addresses", name, c.held(ipam.HandleID(name)))
		}
	}
}

// TestMetricsShowCandidatesAndReleasesByPoolAndNode under upstream's names; those of a
// node that is gone for an hour.
func TestMetricsShowCandidatesAndReleasesByPoolAndNode(t *testing.T) {
	world(t, []runtime.Object{pod("alive", "a")}, func(w *setup) {
		w.pod("h", "p", "a")
		w.pod("alive", "alive", "a")
		w.pod("x", "x", "gone")
		registry := prometheus.NewPedanticRegistry()
		c, err := New(Config{
			Client: w.Store, Cache: w.Cache, Pods: w.Cluster.Pods(), Nodes: w.Cluster.Nodes(), Registerer: registry,
			Grace: func() time.Duration { return w.grace }, Log: slog.New(slog.DiscardHandler),
			PoolOf: func(a netip.Addr) string { return map[bool]string{true: "four", false: "six"}[a.Is4()] },
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		shows := func(when string, want ...string) {
			t.Helper()
			rec := httptest.NewRecorder()
			promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			var got []string
			for line := range strings.Lines(rec.Body.String()) {
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "ipam_gc_oldest") {
					got = append(got, strings.TrimSpace(line))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", when, diff)
			}
		}
		shows("suspected",
			`ipam_allocations_gc_candidates{ippool="four",node="a"} 1`, `ipam_allocations_gc_candidates{ippool="four",node="gone"} 1`,
			`ipam_allocations_gc_candidates{ippool="six",node="a"} 1`, `ipam_allocations_gc_candidates{ippool="six",node="gone"} 1`,
			`ipam_gc_candidates 3`, `ipam_gc_released_total 0`) // a handle, another handle, a node
		w.wait(2 * grace)
		released := []string{
			`ipam_allocations_gc_candidates{ippool="four",node="a"} 0`, `ipam_allocations_gc_candidates{ippool="four",node="gone"} 0`,
			`ipam_allocations_gc_candidates{ippool="six",node="a"} 0`, `ipam_allocations_gc_candidates{ippool="six",node="gone"} 0`,
			`ipam_allocations_gc_reclamations{ippool="four",node="a"} 1`, `ipam_allocations_gc_reclamations{ippool="four",node="gone"} 1`,
			`ipam_allocations_gc_reclamations{ippool="six",node="a"} 1`, `ipam_allocations_gc_reclamations{ippool="six",node="gone"} 1`,
			`ipam_gc_candidates 0`, `ipam_gc_released_total 4`,
		}
		shows("released", released...)
		w.wait(2 * time.Hour)
		shows("two hours later",
			`ipam_allocations_gc_candidates{ippool="four",node="a"} 0`, `ipam_allocations_gc_candidates{ippool="six",node="a"} 0`,
			`ipam_allocations_gc_reclamations{ippool="four",node="a"} 1`, `ipam_allocations_gc_reclamations{ippool="six",node="a"} 1`,
			`ipam_gc_candidates 0`, `ipam_gc_released_total 4`)
	})
}

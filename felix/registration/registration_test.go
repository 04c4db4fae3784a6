package registration

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/kernel"
)

// node is a machine with one device, and the datastore.
type node struct {
	*testing.T
	store *memory.Store
	log   strings.Builder
	env   map[string]string

	mu     sync.Mutex
	addrs  []kernel.Address
	events chan kernel.Event
}

func newNode(t *testing.T, env map[string]string) *node {
	n := &node{T: t, store: memory.New(api.NewRegistry()), events: make(chan kernel.Event), env: env}
	n.has("10.10.1.1/24", "fd10::1/64")
	return n
}

func (n *node) has(addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs = nil
	for _, a := range addrs {
		n.addrs = append(n.addrs, kernel.Address{Link: 2, Prefix: netip.MustParsePrefix(a)})
	}
}

func (n *node) Links() ([]kernel.Link, error) {
	return []kernel.Link{{Index: 2, Name: "eth0", Up: true}, {Index: 1, Name: "lo", Up: true}}, nil
}

func (n *node) Addresses(int) ([]kernel.Address, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addrs, nil
}

func (n *node) Routes(context.Context, kernel.RouteFilter) ([]kernel.Route, error) { return nil, nil }

func (n *node) SubscribeExcept(context.Context, kernel.Topics, kernel.Ignore) (<-chan kernel.Event, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.events, nil
}

// endSubscription ends the one there is; the next one is another.
func (n *node) endSubscription() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.events)
	n.events = make(chan kernel.Event)
}

func (n *node) registrar() *Registrar {
	n.Helper()
	settings, err := FromEnv(func(name string) string { return n.env[name] })
	if err != nil {
		n.Fatal(err)
	}
	return New(Config{
		Node: "node1", Settings: settings, Client: n.store, Registry: api.NewRegistry(), Kernel: n,
		Log: slog.New(slog.NewTextHandler(&n.log, nil)),
		InternalIPs: func(context.Context) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.10.1.1")}, nil
		},
	})
}

func (n *node) put(obj api.Object) {
	n.Helper()
	if _, _, err := datastore.NewResources(n.store, api.NewRegistry(), nil).Apply(n.Context(), obj); err != nil {
		n.Fatal(err)
	}
}

func (n *node) stored() *api.Node {
	n.Helper()
	e, err := n.store.Get(n.Context(), api.Key{Kind: api.KindNode, Name: "node1"})
	if err != nil {
		n.Fatal(err)
	}
	return e.Object.(*api.Node)
}

func TestNewNodeIsRegisteredWithItsAddressesAndWhy(t *testing.T) {
	n := newNode(t, map[string]string{"IP6": "autodetect", "IP_AUTODETECTION_METHOD": "kubernetes-internal-ip", "AS": "64999", "CALICO_K8S_NODE_REF": "worker-1"})
	if err := n.registrar().Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := n.stored()
	asn := api.ASN(64999)
	want := api.NodeSpec{
		BGP:       &api.NodeBGPSpec{IPv4Address: "10.10.1.1/24", IPv6Address: "fd10::1/64", ASNumber: &asn},
		Addresses: []api.NodeAddress{{Address: "10.10.1.1/24", Type: "CalicoNodeIP"}, {Address: "fd10::1/64", Type: "CalicoNodeIP"}},
		OrchRefs:  []api.OrchRef{{NodeName: "worker-1", Orchestrator: "k8s"}},
	}
	if diff := cmp.Diff(want, got.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{
		api.AnnotationIPv4From: "eth0: the node's InternalIP in Kubernetes (kubernetes-internal-ip)",
		api.AnnotationIPv6From: "eth0: the first address of the first device that is the node's own (first-found)",
	} {
		if got.Annotations[name] != want {
			t.Errorf("%s: %q, want %q", name, got.Annotations[name], want)
		}
		if !strings.Contains(n.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, &n.log)
		}
	}
	if ready, err := datastore.Ready(t.Context(), n.store); err != nil || !ready {
		t.Errorf("the datastore is not initialized: %v", err)
	}
}

func TestStoredNodeKeepsWhatOthersWrote(t *testing.T) {
	by := &api.Node{}
	by.Name, by.Labels = "node1", map[string]string{"rack": "a"}
	by.Spec.BGP = &api.NodeBGPSpec{IPv4Address: "192.0.2.7/24", RouteReflectorClusterID: "1.0.0.1"}
	by.Spec.Addresses = []api.NodeAddress{{Address: "203.0.113.7", Type: "ExternalIP"}, {Address: "192.0.2.7/24", Type: "CalicoNodeIP"}}
	for name, tc := range map[string]struct {
		env  map[string]string
		want string
	}{
		"without settings the address stays": {nil, "192.0.2.7/24"},
		"detected, it is replaced":           {map[string]string{"IP": "autodetect"}, "10.10.1.1/24"},
		"given":                              {map[string]string{"IP": "198.51.100.3/28"}, "198.51.100.3/28"},
		"given without a network":            {map[string]string{"IP": "10.10.1.1"}, "10.10.1.1/24"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, tc.env)
			n.put(by.DeepCopyObject().(*api.Node))
			if err := n.registrar().Register(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := n.stored()
			if got.Spec.BGP.IPv4Address != tc.want || got.Spec.BGP.RouteReflectorClusterID != "1.0.0.1" || got.Labels["rack"] != "a" {
				t.Errorf("node %+v %v", got.Spec.BGP, got.Labels)
			}
			want := []api.NodeAddress{{Address: tc.want, Type: "CalicoNodeIP"}, {Address: "203.0.113.7", Type: "ExternalIP"}}
			if diff := cmp.Diff(want, got.Spec.Addresses); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNothingIsWrittenWhenNothingChanged(t *testing.T) {
	n := newNode(t, map[string]string{"IP": "autodetect", "CALICO_IPV4POOL_CIDR": "10.65.0.0/16"})
	r := n.registrar()
	if err := r.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := n.store.Revision()
	if err := r.Register(t.Context()); err != nil || n.store.Revision() != before {
		t.Errorf("revision %d after %d, %v", n.store.Revision(), before, err)
	}
}

func TestAddressOfAnotherNodeIsRefused(t *testing.T) {
	n := newNode(t, nil)
	other := &api.Node{}
	other.Name, other.Spec.BGP = "node9", &api.NodeBGPSpec{IPv4Address: "10.10.1.1/16"}
	n.put(other)
	err := n.registrar().Register(t.Context())
	if err == nil || !strings.Contains(err.Error(), "its address 10.10.1.1 is that of node node9 already") {
		t.Errorf("error %v", err)
	}
	if _, err := n.store.Get(t.Context(), api.Key{Kind: api.KindNode, Name: "node1"}); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("the node was written: %v", err)
	}
}

func TestAddressThatIsGoneForAMomentStays(t *testing.T) {
	n := newNode(t, map[string]string{"IP": "autodetect"})
	r := n.registrar()
	if err := r.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.has()
	if err := r.Register(t.Context()); err == nil || !strings.Contains(err.Error(), "no address found") {
		t.Errorf("error %v", err)
	}
	if got := n.stored().Spec.BGP.IPv4Address; got != "10.10.1.1/24" {
		t.Errorf("address %q", got)
	}
}

func TestNodeWithoutAnAddressIsNotRegistered(t *testing.T) {
	n := newNode(t, map[string]string{"IP": "none"})
	if err := n.registrar().Register(t.Context()); !errors.Is(err, ErrNoAddress) {
		t.Errorf("error %v", err)
	}
}

func TestRunFollowsTheNodesInternalIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, map[string]string{"IP": "autodetect", "IP_AUTODETECTION_METHOD": "kubernetes-internal-ip"})
		n.has("10.10.1.1/24", "10.10.1.2/24")
		var internal []netip.Addr
		failed := errors.New("the Node is not known")
		r := n.registrar()
		r.cfg.InternalIPs = func(context.Context) ([]netip.Addr, error) { return internal, failed }
		if r.Problem() == nil {
			t.Error("no problem before anything was tried")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(10 * time.Minute) // simulated
		if err := r.Problem(); !errors.Is(err, failed) {
			t.Errorf("problem %v", err)
		}
		for _, addr := range []string{"10.10.1.1", "10.10.1.2"} {
			internal, failed = []netip.Addr{netip.MustParseAddr(addr)}, nil
			r.Again()
			synctest.Wait()
			if got := n.stored().Spec.BGP.IPv4Address; got != addr+"/24" || r.Problem() != nil {
				t.Errorf("%q, want %s; problem %v", got, addr, r.Problem())
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRunFollowsAddressesAndOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, map[string]string{"IP": "autodetect"})
		n.store.SetUnavailable(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.registrar().Run(ctx) }()
		time.Sleep(10 * time.Second) // simulated
		n.store.SetUnavailable(false)
		time.Sleep(time.Minute)
		if got := n.stored().Spec.BGP.IPv4Address; got != "10.10.1.1/24" {
			t.Errorf("after the outage: %q", got)
		}
		n.has("10.10.1.77/24")
		n.events <- kernel.AddressEvent{}
		time.Sleep(2 * time.Second)
		if got := n.stored().Spec.BGP.IPv4Address; got != "10.10.1.77/24" {
			t.Errorf("after the change: %q", got)
		}
		n.store.SetUnavailable(true) // a look into the store would fail
		n.events <- kernel.LinkEvent{}
		time.Sleep(2 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if lines := strings.Count(n.log.String(), "level=WARN"); lines != 1 {
			t.Errorf("%d warnings, want 1:\n%s", lines, &n.log)
		}
	})
}

func TestRunOutlivesASubscriptionThatTheKernelEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, map[string]string{"IP": "autodetect"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.registrar().Run(ctx) }()
		time.Sleep(time.Second) // simulated
		n.has("10.10.1.78/24")
		n.endSubscription()
		time.Sleep(2 * time.Second)
		if got := n.stored().Spec.BGP.IPv4Address; got != "10.10.1.78/24" {
			t.Errorf("what changed meanwhile: %q", got)
		}
		n.has("10.10.1.79/24")
		n.events <- kernel.AddressEvent{}
		time.Sleep(2 * time.Second)
		if got := n.stored().Spec.BGP.IPv4Address; got != "10.10.1.79/24" {
			t.Errorf("what the new subscription tells: %q", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFirstPools(t *testing.T) {
	env := map[string]string{
		"CALICO_IPV4POOL_CIDR": "10.65.0.0/16", "CALICO_IPV4POOL_BLOCK_SIZE": "28", "CALICO_IPV4POOL_NAT_OUTGOING": "false",
		"CALICO_IPV6POOL_CIDR": "fd65::/48", "CALICO_IPV6POOL_NODE_SELECTOR": "rack == 'a'",
	}
	n := newNode(t, env)
	pool6 := v3.NewIPPool()
	pool6.Name, pool6.Spec.CIDR = "operators", "fd99::/48"
	n.put(pool6)
	balancers := v3.NewIPPool() // which is for no pod
	balancers.Name, balancers.Spec.CIDR, balancers.Spec.AllowedUses = "balancers", "192.0.2.0/24", []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseLoadBalancer}
	n.put(balancers)
	if err := n.registrar().Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := n.store.Get(t.Context(), api.Key{Kind: api.KindIPPool, Name: "default-ipv4-ippool"})
	if err != nil {
		t.Fatal(err)
	}
	spec := e.Object.(*v3.IPPool).Spec
	if spec.CIDR != "10.65.0.0/16" || spec.BlockSize != 28 || spec.NATOutgoing || spec.NodeSelector != "all()" || spec.IPIPMode != v3.IPIPModeNever {
		t.Errorf("pool %+v", spec)
	}
	if _, err := n.store.Get(t.Context(), api.Key{Kind: api.KindIPPool, Name: "default-ipv6-ippool"}); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("a pool beside the operator's of that family: %v", err)
	}
	if log := n.log.String(); !strings.Contains(log, `cidr=fd65::/48 pools="operators fd99::/48"`) || strings.Contains(log, "cidr=10.65.0.0/16 pools=") {
		t.Errorf("whose setting made no pool isn't told so:\n%s", log)
	}
}

// TestPoolStaysWhenTheSettingsChange: whoever applies the manifest with VXLAN to a
// cluster of BGP must hear that the pool is as it was.
func TestPoolStaysWhenTheSettingsChange(t *testing.T) {
	n := newNode(t, map[string]string{"CALICO_IPV4POOL_CIDR": "10.65.0.0/16"})
	if err := n.registrar().Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.env["CALICO_IPV4POOL_VXLAN"] = "Always"
	r := n.registrar()
	for range 2 {
		if err := r.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if log := n.log.String(); strings.Count(log, `pool=default-ipv4-ippool cidr=10.65.0.0/16 has="vxlanMode Never, ipipMode Never" asked="vxlanMode Always, ipipMode Never"`) != 1 {
		t.Errorf("it isn't told once:\n%s", log)
	}
}

func TestSettingsThatCanNotBeNameTheVariable(t *testing.T) {
	for variable, value := range map[string]string{
		"IP": "fd10::1", "IP6": "10.0.0.1", "IP_AUTODETECTION_METHOD": "first", "AS": "70000.1", "NO_DEFAULT_POOLS": "maybe",
		"CALICO_IPV4POOL_CIDR": "fd65::/48", "CALICO_IPV4POOL_IPIP": "Sometimes", "CALICO_IPV4POOL_VXLAN": "true", "CALICO_IPV4POOL_BLOCK_SIZE": "/26",
	} {
		_, err := FromEnv(func(name string) string {
			if name == variable {
				return value
			}
			if name == "CALICO_IPV4POOL_CIDR" {
				return "10.65.0.0/16"
			}
			return ""
		})
		if err == nil || !strings.HasPrefix(err.Error(), variable) || !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: %v", variable, value, err)
		}
	}
}

func TestUpstreamsOffIsNever(t *testing.T) {
	s, err := FromEnv(func(name string) string {
		return map[string]string{"CALICO_IPV4POOL_CIDR": "10.65.0.0/16", "CALICO_IPV4POOL_IPIP": "Off", "CALICO_IPV4POOL_VXLAN": "CrossSubnet"}[name]
	})
	if err != nil || len(s.Pools) != 1 || s.Pools[0].Spec.IPIPMode != v3.IPIPModeNever || s.Pools[0].Spec.VXLANMode != v3.VXLANModeCrossSubnet {
		t.Errorf("%+v, %v", s.Pools, err)
	}
}

package mirror

import (
	"log/slog"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tortie/internal/api"
	"tortie/kube-controllers/kubetest"
)

// local is a Service of policy Local with a load balancer address.
func local(name, address string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name}}
	s.Spec.Type, s.Spec.ClusterIP = corev1.ServiceTypeLoadBalancer, "10.96.0.10"
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	return s
}

// endpoints is a slice of a Service with a ready endpoint for each node named.
func endpoints(name, service string, nodes ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns1", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
	}, AddressType: discoveryv1.AddressTypeIPv4}
	for _, node := range nodes {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{NodeName: &node, Addresses: []string{"10.65.0.1"}})
	}
	return s
}

// ranges is a BGPConfiguration that advertises load balancer addresses.
func ranges(cidrs ...string) *v3.BGPConfiguration {
	c := v3.NewBGPConfiguration()
	c.Name = "default"
	for _, cidr := range cidrs {
		c.Spec.ServiceLoadBalancerIPs = append(c.Spec.ServiceLoadBalancerIPs, v3.ServiceLoadBalancerIPBlock{CIDR: cidr})
	}
	return c
}

func startServices(w *kubetest.World) {
	w.Helper()
	env := Environment{Client: w.Store, Registry: w.Registry, Cache: w.Cache, Log: slog.New(slog.DiscardHandler)}
	m, err := Services(env, w.Cluster.Services(), w.Cluster.EndpointSlices())
	if err != nil {
		w.Fatal(err)
	}
	w.Start(m)
}

// servedOn are the nodes in a Service's record; nil for no record.
func servedOn(w *kubetest.World, name string) []string {
	record, ok := w.Get(api.AdvertisedServiceKey("ns1", name)).(*api.AdvertisedService)
	switch {
	case !ok:
		return nil
	case record.Spec.IPv4Endpoints == nil:
		return []string{}
	}
	return record.Spec.IPv4Endpoints.Nodes
}

func TestRecordFollowsServiceAndEndpoints(t *testing.T) {
	world(t, []runtime.Object{local("web", "198.51.100.7"), endpoints("web-a", "web", "node1")}, func(w *kubetest.World) {
		w.Put(ranges("198.51.100.0/24"))
		startServices(w)
		expect := func(step string, want []string) {
			t.Helper()
			w.Settle()
			if got := servedOn(w, "web"); (got == nil) != (want == nil) || !slices.Equal(got, want) {
				t.Errorf("%s: on %q, want %q", step, got, want)
			}
		}
		slice := w.API.DiscoveryV1().EndpointSlices("ns1")
		expect("at first", []string{"node1"})
		_, _ = slice.Create(t.Context(), endpoints("web-b", "web", "node3", "node2"), metav1.CreateOptions{})
		expect("a second slice", []string{"node1", "node2", "node3"})
		_, _ = slice.Update(t.Context(), endpoints("web-a", "web", "node4"), metav1.UpdateOptions{})
		expect("an endpoint moved", []string{"node2", "node3", "node4"})
		_, _ = slice.Update(t.Context(), endpoints("web-b", "other", "node2"), metav1.UpdateOptions{})
		expect("a slice went to another service", []string{"node4"})
		_ = slice.Delete(t.Context(), "web-a", metav1.DeleteOptions{})
		expect("no endpoint left", []string{})

		svcs := w.API.CoreV1().Services("ns1")
		cluster := local("web", "198.51.100.7")
		cluster.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		_, _ = svcs.Update(t.Context(), cluster, metav1.UpdateOptions{})
		expect("policy Cluster: the range stands for it", nil)
		_, _ = svcs.Update(t.Context(), local("web", "198.51.100.7"), metav1.UpdateOptions{})
		expect("policy Local again", []string{})
		_ = svcs.Delete(t.Context(), "web", metav1.DeleteOptions{})
		expect("deleted", nil)
	})
}

// TestEndpointsThatChangeNoNodeCauseNoWrite: pods come and go all the time.
func TestEndpointsThatChangeNoNodeCauseNoWrite(t *testing.T) {
	world(t, []runtime.Object{local("web", "198.51.100.7"), endpoints("web-a", "web", "node1", "node2")}, func(w *kubetest.World) {
		w.Put(ranges("198.51.100.0/24"))
		startServices(w)
		before := w.Store.Revision()
		for i := range 20 {
			s := endpoints("web-a", "web", "node2", "node1", "node2")
			s.Endpoints = append(s.Endpoints, s.Endpoints[:i%2]...)
			s.ResourceVersion = strconv.Itoa(i)
			_, _ = w.API.DiscoveryV1().EndpointSlices("ns1").Update(t.Context(), s, metav1.UpdateOptions{})
			w.Settle()
		}
		if got := servedOn(w, "web"); w.Store.Revision() != before || len(got) != 2 {
			t.Errorf("%d writes, on %q", w.Store.Revision()-before, got)
		}
	})
}

func TestOnlyServicesAnnouncedByThemselvesHaveRecords(t *testing.T) {
	cluster := local("cluster", "198.51.100.8")
	cluster.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	headless := local("headless", "198.51.100.9")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	objects := []runtime.Object{
		local("web", "198.51.100.7"), local("elsewhere", "203.0.113.7"), cluster, headless,
		endpoints("cluster-a", "cluster", "node1"),
	}
	world(t, objects, func(w *kubetest.World) {
		startServices(w)
		expect := func(step string, want ...string) {
			t.Helper()
			w.Settle()
			if diff := cmp.Diff(want, w.Names(api.KindAdvertisedService), cmp.Transformer("sorted", func(s []string) []string {
				return append([]string{}, slices.Sorted(slices.Values(s))...)
			})); diff != "" {
				t.Errorf("%s: %s", step, diff)
			}
		}
		expect("nothing is advertised")
		w.Put(ranges("198.51.100.0/24"))
		expect("a range", "web")
		w.Put(ranges("198.51.100.0/24", "203.0.113.0/24", "198.51.100.8/32"))
		expect("more ranges, and a single address", "cluster", "elsewhere", "web")
		each, disabled := ranges("198.51.100.0/24"), v3.ServiceLoadBalancerAggregationDisabled
		each.Spec.ServiceLoadBalancerAggregation = &disabled
		w.Put(each)
		expect("not aggregated", "cluster", "web")
		w.Put(ranges())
		expect("nothing is advertised any more")
	})
}

// TestBrokenConfigurationTakesNoRecordAway, but a Service that is gone is gone.
func TestBrokenConfigurationTakesNoRecordAway(t *testing.T) {
	const path = "/calico/resources/v3/projectcalico.org/bgpconfigurations/default"
	world(t, []runtime.Object{local("web", "198.51.100.7"), local("old", "198.51.100.8")}, func(w *kubetest.World) {
		w.Put(ranges("198.51.100.0/24"))
		startServices(w)
		w.Store.RawPut(path, []byte("{"))
		w.Settle()
		_ = w.API.CoreV1().Services("ns1").Delete(t.Context(), "old", metav1.DeleteOptions{})
		w.Settle()
		if diff := cmp.Diff([]string{"web"}, w.Names(api.KindAdvertisedService)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestRecordIsRemovedOnlyIfTheAPIServerAgrees: its list and watch may lag behind.
func TestRecordIsRemovedOnlyIfTheAPIServerAgrees(t *testing.T) {
	record := func(name string) *api.AdvertisedService {
		return &api.AdvertisedService{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name}}
	}
	world(t, nil, func(w *kubetest.World) {
		w.Put(ranges("198.51.100.0/24"), record("lagging"), record("left"))
		w.OnlyLive("services", local("lagging", "198.51.100.7"))
		startServices(w)
		if diff := cmp.Diff([]string{"lagging"}, w.Names(api.KindAdvertisedService)); diff != "" {
			t.Error(diff)
		}
	})
}

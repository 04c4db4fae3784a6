package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// TestAdvertisedServiceIsStoredAsItsSpecAlone: there are many, and each node reads
// them all.
func TestAdvertisedServiceIsStoredAsItsSpecAlone(t *testing.T) {
	reg := api.NewRegistry()
	web := &api.AdvertisedService{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	web.Spec = api.AdvertisedServiceSpec{
		ClusterIPs: []string{"10.96.0.10"}, LoadBalancerIPs: []string{"198.51.100.7"}, ExternalTrafficPolicy: api.TrafficPolicyLocal,
		IPv4Endpoints: &api.ServiceEndpoints{Nodes: []string{"node1", "node2"}}, IPv6Endpoints: &api.ServiceEndpoints{},
	}
	value, err := reg.Encode(web, api.Unknown{})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"clusterIPs":["10.96.0.10"],"loadBalancerIPs":["198.51.100.7"],"externalTrafficPolicy":"Local",` +
		`"ipv4Endpoints":{"nodes":["node1","node2"]},"ipv6Endpoints":{}}`
	if string(value) != want {
		t.Errorf("stored as %s, want %s", value, want)
	}
	key, err := reg.KeyOf(web)
	if err != nil || key != api.AdvertisedServiceKey("default", "web") {
		t.Fatalf("key %v, %v", key, err)
	}
	back, unknown, err := reg.Decode(key, value)
	if err != nil || !unknown.Empty() {
		t.Fatalf("%v, unknown %v", err, unknown)
	}
	read := back.(*api.AdvertisedService)
	if d := cmp.Diff(web.Spec, read.Spec); d != "" || read.Namespace != "default" || read.Name != "web" {
		t.Errorf("read back as %s/%s: %s", read.Namespace, read.Name, d)
	}
	copied := read.DeepCopyObject().(*api.AdvertisedService)
	copied.Spec.IPv4Endpoints.Nodes[0], copied.Spec.ClusterIPs[0] = "other", "other"
	if d := cmp.Diff(web.Spec, read.Spec); d != "" {
		t.Errorf("a copy shares what it holds: %s", d)
	}
}

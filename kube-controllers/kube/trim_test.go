package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSliceIsKeptAsWhereItsServiceIsReady: a node may have hundreds of endpoints.
func TestSliceIsKeptAsWhereItsServiceIsReady(t *testing.T) {
	a, b, no := "node-a", "node-b", false
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns1", Name: "web-1", ResourceVersion: "7", Annotations: map[string]string{"long": "text"},
			Labels: map[string]string{discoveryv1.LabelServiceName: "web", "app": "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv6,
		Endpoints: []discoveryv1.Endpoint{
			{NodeName: &a, Addresses: []string{"fd65::1"}},
			{NodeName: &a, Addresses: []string{"fd65::2"}},
			{NodeName: &b, Addresses: []string{"fd65::3"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
			{Addresses: []string{"fd65::4"}},
		},
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns1", Name: "web-1", ResourceVersion: "7", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv6, Endpoints: []discoveryv1.Endpoint{{NodeName: &a}, {}},
	}
	got, err := trim(s)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

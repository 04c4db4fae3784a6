package convert

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The handle is upstream's, computed apart.
func TestTheHandleOfAServiceIsUpstreams(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web", UID: "0c8332e8-ee97-4bdc-882f-2040042692e2"}}
	const want = "lb-VgUUmFzYosJM2xiF5GGVJIKStiW9ZDhvNFqJMHsNfY"
	if got := BalancerHandle(svc); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

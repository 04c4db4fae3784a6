package kube_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/calicoctl/kube"
	"tortie/internal/kubeapi"
	"tortie/internal/kubeapi/apitest"
	"tortie/ipam/proof"
)

func reader(t *testing.T) (*kube.Reader, *apitest.Server) {
	t.Helper()
	s := apitest.New(false)
	t.Cleanup(s.Close)
	client, err := kubeapi.New(s.Config(), kube.Role)
	if err != nil {
		t.Fatal(err)
	}
	return kube.New(client), s
}

func TestReaderReadsPodsNodesAndServices(t *testing.T) {
	r, s := reader(t)
	s.Put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web"}, Spec: corev1.PodSpec{NodeName: "n1"},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.65.0.1"}, {IP: "fd65::1"}}},
	})
	for i := range 3 {
		s.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}})
	}
	s.Put(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "lb"},
		Status:     corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "10.65.9.9"}, {Hostname: "x"}}}},
	})
	got, err := r.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]proof.Pod{"ns1/web": {Node: "n1", IPs: []string{"10.65.0.1", "fd65::1"}}}
	if diff := cmp.Diff(want, got.Pods, cmpopts.EquateEmpty()); diff != "" || len(got.Nodes) != 3 || len(got.LoadBalancers) != 1 {
		t.Errorf("%+v", got)
	}
	pod, err := r.Pod(t.Context(), "ns1", "web")
	if err != nil || pod == nil || pod.Node != "n1" {
		t.Errorf("pod %v, %v", pod, err)
	}
	if pod, err := r.Pod(t.Context(), "ns1", "gone"); err != nil || pod != nil {
		t.Errorf("a pod that isn't there: %v, %v", pod, err)
	}
	for name, want := range map[string]bool{"n1": true, "n9": false} {
		if got, err := r.HasNode(t.Context(), name); err != nil || got != want {
			t.Errorf("node %s: %v, %v", name, got, err)
		}
	}
}

// What can't be asked is never taken for what isn't there.
func TestReaderSaysWhatItMayNotRead(t *testing.T) {
	r, s := reader(t)
	for resource, ask := range map[string]func() error{
		"pods":     func() error { _, err := r.Pod(t.Context(), "ns1", "web"); return err },
		"nodes":    func() error { _, err := r.HasNode(t.Context(), "n1"); return err },
		"services": func() error { _, err := r.Read(t.Context()); return err },
	} {
		s.Deny(func(_, asked string) int {
			if asked == resource {
				return http.StatusForbidden
			}
			return 0
		})
		if err := ask(); err == nil || !strings.Contains(err.Error(), resource+": RBAC forbids it: give the user of the kubeconfig the verbs") {
			t.Errorf("%s: error %v", resource, err)
		}
	}
}

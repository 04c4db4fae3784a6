package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// stored is the spec of an object as etcd holds it.
func stored(t *testing.T, obj api.Object) string {
	t.Helper()
	value, err := api.NewRegistry().Encode(obj, api.Unknown{})
	if err != nil {
		t.Fatal(err)
	}
	_, spec, _ := strings.Cut(string(value), `"spec":`)
	return strings.TrimSuffix(spec, "}")
}

func TestNamespaceProfileIsStoredAsUpstreamDoes(t *testing.T) {
	got := Namespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns1", Labels: map[string]string{"env": "prod"}}})
	const want = `{"ingress":[{"action":"Allow","source":{},"destination":{}}],"egress":[{"action":"Allow","source":{},"destination":{}}],` +
		`"labelsToApply":{"pcns.env":"prod","pcns.projectcalico.org/name":"ns1"}}`
	if diff := cmp.Diff(want, stored(t, got)); got.Name != "kns.ns1" || diff != "" {
		t.Errorf("%s: %s", got.Name, diff)
	}
	if ns, ok := NamespaceOf(NamespaceProfileKey("ns1")); !ok || ns != "ns1" {
		t.Errorf("%q, %v", ns, ok)
	}
}

func TestServiceAccountProfileOnlyGivesLabels(t *testing.T) {
	got := ServiceAccount(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "a.b", Labels: map[string]string{"role": "db"}}})
	const want = `{"labelsToApply":{"pcsa.projectcalico.org/name":"a.b","pcsa.role":"db"}}`
	if diff := cmp.Diff(want, stored(t, got)); got.Name != "ksa.ns1.a.b" || diff != "" {
		t.Errorf("%s: %s", got.Name, diff)
	}
	if ns, name, ok := ServiceAccountOf(ServiceAccountProfileKey("ns1", "a.b")); !ok || ns != "ns1" || name != "a.b" {
		t.Errorf("%q, %q, %v", ns, name, ok)
	}
	if _, _, ok := ServiceAccountOf(api.Key{Kind: api.KindProfile, Name: "ksa.broken"}); ok {
		t.Error("ksa.broken stands for a service account")
	}
}

func TestCordonedNodeHasALabelMore(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"zone": "a"}}}
	if diff := cmp.Diff(map[string]string{"zone": "a"}, LabelsOf(node)); diff != "" {
		t.Error(diff)
	}
	node.Spec.Unschedulable = true
	if diff := cmp.Diff(map[string]string{"zone": "a", "tortie/graceful-shutdown": "true"}, LabelsOf(node)); diff != "" || len(node.Labels) != 1 {
		t.Errorf("labels %v: %s", node.Labels, diff)
	}
	if got := LabelsOf(&corev1.Node{Spec: node.Spec}); got["tortie/graceful-shutdown"] != "true" {
		t.Errorf("a node without labels: %v", got)
	}
}

func TestNodeLabels(t *testing.T) {
	const key = "projectcalico.org/kube-labels"
	tests := map[string]struct {
		labels     map[string]string
		annotation string
		kubernetes map[string]string
		want       map[string]string
	}{
		"FirstTime":            {map[string]string{"rack": "r1"}, "", map[string]string{"zone": "a"}, map[string]string{"rack": "r1", "zone": "a"}},
		"GoneInKubernetes":     {map[string]string{"rack": "r1", "zone": "a"}, `{"zone":"a"}`, map[string]string{}, map[string]string{"rack": "r1"}},
		"ChangedInKubernetes":  {map[string]string{"zone": "a"}, `{"zone":"a"}`, map[string]string{"zone": "b"}, map[string]string{"zone": "b"}},
		"RemovedByAnOperator":  {nil, `{"zone":"a"}`, map[string]string{"zone": "a"}, map[string]string{"zone": "a"}},
		"UnreadableAnnotation": {map[string]string{"old": "1"}, `{`, map[string]string{"zone": "a"}, map[string]string{"old": "1", "zone": "a"}},
		"NullAsUpstreamWrites": {map[string]string{"rack": "r1"}, `null`, nil, map[string]string{"rack": "r1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			node := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: tc.labels, Annotations: map[string]string{"other": "x"}}}
			if tc.annotation != "" {
				node.Annotations[key] = tc.annotation
			}
			got, changed, err := NodeLabels(node, tc.kubernetes)
			if err != nil || !changed {
				t.Fatalf("changed %v, %v", changed, err)
			}
			if diff := cmp.Diff(tc.want, got.Labels); diff != "" || got.Annotations["other"] != "x" {
				t.Errorf("%v %s", got.Annotations, diff)
			}
			if again, changed, err := NodeLabels(got, tc.kubernetes); err != nil || changed || again != got {
				t.Error("a second time it changes again")
			}
		})
	}
	got, _, _ := NodeLabels(&api.Node{}, map[string]string{"b": "2", "a": "1"})
	if got.Annotations[key] != `{"a":"1","b":"2"}` {
		t.Errorf("annotation %s", got.Annotations[key])
	}
}

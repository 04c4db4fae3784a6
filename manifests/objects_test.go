package manifests_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"tortie/kube-controllers/kube"
)

// object is one document.
type object interface {
	runtime.Object
	metav1.Object
}

// objects reads a single file as strictly as an API server does.
func objects(t *testing.T, file string) map[string]object {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	out := map[string]object{}
	for documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		decoded, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", file, err, document)
		}
		o := decoded.(object)
		name := kind.Kind + " " + o.GetName()
		if _, twice := out[name]; twice {
			t.Errorf("%s: two of %s", file, name)
		}
		out[name] = o
	}
}

// find is the object of a name and its type.
func find[T object](t *testing.T, file, name string) T {
	t.Helper()
	o, ok := objects(t, file)[name].(T)
	if !ok {
		t.Fatalf("%s has no %s", file, name)
	}
	return o
}

func TestObjectsHaveTheNamesThatUpstreamsUsersKnow(t *testing.T) {
	installed := []string{
		"ClusterRole calico-kube-controllers", "ClusterRole calico-node", "ClusterRoleBinding calico-kube-controllers", "ClusterRoleBinding calico-node",
		"ConfigMap calico-config", "ConfigMap calico-settings", "DaemonSet calico-node", "Deployment calico-kube-controllers",
		"PodDisruptionBudget calico-kube-controllers", "Role calico-kube-controllers", "Role calico-node-bgp", "RoleBinding calico-kube-controllers", "RoleBinding calico-node-bgp",
		"ServiceAccount calico-kube-controllers", "ServiceAccount calico-node",
	}
	trial := slices.Concat(installed, []string{"Service calico-etcd", "ServiceAccount calico-etcd", "StatefulSet calico-etcd"})
	slices.Sort(trial)
	for file, want := range map[string][]string{
		"calico-etcd.yaml": installed, "calico-vxlan.yaml": installed, "calico-trial.yaml": trial, "calico-trial-vxlan.yaml": trial,
		"calico-uninstall.yaml": {"DaemonSet calico-uninstall", "ServiceAccount calico-uninstall"},
	} {
		var got []string
		for name, o := range objects(t, file) {
			got = append(got, name)
			clusterWide := strings.HasPrefix(name, "ClusterRole")
			if o.GetNamespace() != "kube-system" && !clusterWide {
				t.Errorf("%s: %s is in namespace %q", file, name, o.GetNamespace())
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", file, got, want)
		}
	}
}

func TestConfigMapHasUpstreamsKeys(t *testing.T) {
	for file, backend := range map[string]string{"calico-etcd.yaml": "bird", "calico-vxlan.yaml": "vxlan"} {
		data := find[*corev1.ConfigMap](t, file, "ConfigMap calico-config").Data
		for _, key := range []string{"etcd_endpoints", "etcd_ca", "etcd_cert", "etcd_key", "calico_backend", "veth_mtu", "cni_network_config"} {
			if data[key] == "" {
				t.Errorf("%s: no %s", file, key)
			}
		}
		if data["calico_backend"] != backend || len(data) != 7 {
			t.Errorf("%s: %v", file, data)
		}
	}
}

// TestRights: neither more nor less than the code asks for. What asks is named.
func TestRights(t *testing.T) {
	all := objects(t, "calico-etcd.yaml")
	for role, want := range map[string][]string{
		"ClusterRole calico-node": {
			"/pods: list watch",       // felix's watch of its own node's pods
			"/nodes: list watch",      // its watch of the node itself
			"/namespaces: list watch", // their annotations for their pods
			"/nodes/status: patch",    // NetworkUnavailable
			"/events: create patch",   // what is wrong, for kubectl describe
		},
		"ClusterRole calico-kube-controllers": {
			"/pods: get list watch", "/namespaces: get list watch", "/serviceaccounts: get list watch", "/nodes: get list watch",
			"/services: get list watch", "/services/status: update", "networking.k8s.io/networkpolicies: get list watch", "discovery.k8s.io/endpointslices: get list watch",
			"/events: create patch",
		},
		"Role calico-node-bgp": {"/secrets/bgp-secrets: list watch"}, // bgpd's passwords of peers
		"Role calico-kube-controllers": {
			"coordination.k8s.io/leases: create", "coordination.k8s.io/leases/" + kube.LeaseName + ": get update",
		},
	} {
		var rules []rbacv1.PolicyRule
		switch r := all[role].(type) {
		case *rbacv1.ClusterRole:
			rules = r.Rules
		case *rbacv1.Role:
			rules = r.Rules
		}
		got := rights(rules)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", role, got, want)
		}
	}
}

// rights are rules, one line for each resource.
func rights(rules []rbacv1.PolicyRule) []string {
	var out []string
	for _, r := range rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				line := group + "/" + resource
				for _, name := range r.ResourceNames {
					line += "/" + name
				}
				out = append(out, line+": "+strings.Join(r.Verbs, " "))
			}
		}
	}
	return out
}

// TestBindingsBindWhatIsThere: a role without its account, or the other way round,
// shows only when something is refused.
func TestBindingsBindWhatIsThere(t *testing.T) {
	for file := range rendered() {
		all := objects(t, file)
		for name, o := range all {
			var role rbacv1.RoleRef
			var subjects []rbacv1.Subject
			switch b := o.(type) {
			case *rbacv1.ClusterRoleBinding:
				role, subjects = b.RoleRef, b.Subjects
			case *rbacv1.RoleBinding:
				role, subjects = b.RoleRef, b.Subjects
			default:
				continue
			}
			if all[role.Kind+" "+role.Name] == nil || len(subjects) != 1 || all["ServiceAccount "+subjects[0].Name] == nil || subjects[0].Namespace != "kube-system" {
				t.Errorf("%s: %s binds %v to %v", file, name, role, subjects)
			}
		}
		for name, pod := range pods(all) {
			if all["ServiceAccount "+pod.ServiceAccountName] == nil {
				t.Errorf("%s: %s runs as %q, which is not there", file, name, pod.ServiceAccountName)
			}
		}
	}
}

// pods are the templates of all pods, by the name of what makes them.
func pods(all map[string]object) map[string]corev1.PodSpec {
	out := map[string]corev1.PodSpec{}
	for name, o := range all {
		switch w := o.(type) {
		case *appsv1.DaemonSet:
			out[name] = w.Spec.Template.Spec
		case *appsv1.Deployment:
			out[name] = w.Spec.Template.Spec
		case *appsv1.StatefulSet:
			out[name] = w.Spec.Template.Spec
		}
	}
	return out
}

package mirror

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tortie/internal/api"
	"tortie/kube-controllers/kubetest"
)

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func account(namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func policy(namespace, name string, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: types},
	}
}

func profile(name string, labels map[string]string) *v3.Profile {
	p := v3.NewProfile()
	p.Name = name
	p.Spec.LabelsToApply = labels
	return p
}

// start runs all three mirrors.
func start(w *kubetest.World) {
	w.Helper()
	env := Environment{Client: w.Store, Registry: w.Registry, Cache: w.Cache, Log: slog.New(slog.DiscardHandler)}
	namespaces, err := Namespaces(env, w.Cluster.Namespaces(), 1)
	if err != nil {
		w.Fatal(err)
	}
	accounts, err := ServiceAccounts(env, w.Cluster.ServiceAccounts(), 1)
	if err != nil {
		w.Fatal(err)
	}
	policies, err := Policies(env, w.Cluster.NetworkPolicies(), 1)
	if err != nil {
		w.Fatal(err)
	}
	w.Start(namespaces, accounts, policies)
}

// world runs a test in a bubble.
func world(t *testing.T, objects []runtime.Object, test func(w *kubetest.World)) {
	synctest.Test(t, func(t *testing.T) { test(kubetest.New(t, objects...)) })
}

func TestProfilesFollowNamespacesAndServiceAccounts(t *testing.T) {
	world(t, []runtime.Object{namespace("ns1", map[string]string{"env": "prod"}), account("ns1", "sa")}, func(w *kubetest.World) {
		start(w)
		if diff := cmp.Diff([]string{"kns.ns1", "ksa.ns1.sa"}, w.Names(api.KindProfile)); diff != "" {
			t.Fatal(diff)
		}
		ctx := context.Background()
		_, _ = w.API.CoreV1().Namespaces().Update(ctx, namespace("ns1", map[string]string{"env": "dev"}), metav1.UpdateOptions{})
		_, _ = w.API.CoreV1().Namespaces().Create(ctx, namespace("ns2", nil), metav1.CreateOptions{})
		_ = w.API.CoreV1().ServiceAccounts("ns1").Delete(ctx, "sa", metav1.DeleteOptions{})
		w.Settle()
		if diff := cmp.Diff([]string{"kns.ns1", "kns.ns2"}, w.Names(api.KindProfile)); diff != "" {
			t.Fatal(diff)
		}
		got := w.Get(api.Key{Kind: api.KindProfile, Name: "kns.ns1"}).(*v3.Profile)
		want := map[string]string{"pcns.env": "dev", "pcns.projectcalico.org/name": "ns1"}
		if diff := cmp.Diff(want, got.Spec.LabelsToApply); diff != "" || got.UID == "" {
			t.Errorf("uid %q %s", got.UID, diff)
		}
	})
}

func TestLeftoversGoAndOthersObjectsStay(t *testing.T) {
	world(t, []runtime.Object{namespace("ns1", nil)}, func(w *kubetest.World) {
		mine := v3.NewNetworkPolicy()
		mine.Namespace, mine.Name = "ns1", "mine"
		left := v3.NewNetworkPolicy()
		left.Namespace, left.Name = "ns1", "knp.default.left"
		w.Put(profile("kns.left", nil), profile("ksa.left.sa", nil), profile("mine", nil), mine, left)
		w.Store.RawPut("/calico/resources/v3/projectcalico.org/profiles/kns.ns1", []byte("{"))
		w.Store.RawPut("/calico/resources/v3/projectcalico.org/profiles/kns.broken", []byte("{"))
		start(w)
		if diff := cmp.Diff([]string{"kns.ns1", "mine"}, w.Names(api.KindProfile)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"mine"}, w.Names(api.KindNetworkPolicy)); diff != "" {
			t.Error(diff)
		}
		if paths := w.Store.Paths("/calico/resources/v3/projectcalico.org/profiles/kns.broken"); len(paths) > 0 {
			t.Errorf("%v", paths)
		}
	})
}

func TestPoliciesFollow(t *testing.T) {
	world(t, []runtime.Object{policy("ns1", "web", networkingv1.PolicyTypeIngress)}, func(w *kubetest.World) {
		start(w)
		key := api.Key{Kind: api.KindNetworkPolicy, Namespace: "ns1", Name: "knp.default.web"}
		got := w.Get(key).(*v3.NetworkPolicy)
		if got.Spec.Tier != "default" || *got.Spec.Order != 1000 || got.Labels[v3.LabelTier] != "default" {
			t.Errorf("%+v", got)
		}
		before := w.Store.Revision()
		w.Settle()
		if w.Store.Revision() != before {
			t.Error("something is written again and again")
		}
		_, _ = w.API.NetworkingV1().NetworkPolicies("ns1").Update(t.Context(), policy("ns1", "web", networkingv1.PolicyTypeEgress), metav1.UpdateOptions{})
		w.Settle()
		if got := w.Get(key).(*v3.NetworkPolicy); !slices.Equal(got.Spec.Types, []v3.PolicyType{v3.PolicyTypeEgress}) {
			t.Errorf("%v", got.Spec.Types)
		}
		_ = w.API.NetworkingV1().NetworkPolicies("ns1").Delete(t.Context(), "web", metav1.DeleteOptions{})
		w.Settle()
		if names := w.Names(api.KindNetworkPolicy); len(names) > 0 {
			t.Errorf("%v", names)
		}
	})
}

func TestForeignChangesAreUndone(t *testing.T) {
	world(t, []runtime.Object{namespace("ns1", nil)}, func(w *kubetest.World) {
		start(w)
		w.Put(profile("kns.ns1", map[string]string{"forged": "1"}))
		w.Settle()
		key := api.Key{Kind: api.KindProfile, Name: "kns.ns1"}
		if got := w.Get(key).(*v3.Profile); got.Spec.LabelsToApply["forged"] != "" || len(got.Spec.Ingress) != 1 {
			t.Errorf("%+v", got.Spec)
		}
		w.Store.RawDelete("/calico/resources/v3/projectcalico.org/profiles/kns.ns1")
		w.Settle()
		if w.Get(key) == nil {
			t.Error("a deleted profile was not made again")
		}
	})
}

// TestAStaleListRemovesNothing: an API server that lags behind lists less than
// there is.
func TestAStaleListRemovesNothing(t *testing.T) {
	world(t, []runtime.Object{namespace("ns1", nil)}, func(w *kubetest.World) {
		w.Put(profile("kns.ns2", nil))
		w.OnlyLive("namespaces", namespace("ns2", nil))
		start(w)
		if diff := cmp.Diff([]string{"kns.ns1", "kns.ns2"}, w.Names(api.KindProfile)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDatastoreOutageIsWaitedOut(t *testing.T) {
	world(t, []runtime.Object{namespace("ns1", nil)}, func(w *kubetest.World) {
		start(w)
		w.Store.SetUnavailable(true)
		_, _ = w.API.CoreV1().Namespaces().Create(t.Context(), namespace("ns2", nil), metav1.CreateOptions{})
		_ = w.API.CoreV1().Namespaces().Delete(t.Context(), "ns1", metav1.DeleteOptions{})
		w.Settle()
		w.Store.SetUnavailable(false)
		for range 4 {
			w.Settle()
		}
		if diff := cmp.Diff([]string{"kns.ns2"}, w.Names(api.KindProfile)); diff != "" {
			t.Error(diff)
		}
	})
}

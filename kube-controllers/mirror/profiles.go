package mirror

import (
	"context"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/kube-controllers/convert"
	"tortie/kube-controllers/kube"
)

// Namespaces keeps a profile kns.<namespace> for each namespace.
func Namespaces(env Environment, namespaces *kube.Resource[*corev1.Namespace], workers int) (*Mirror, error) {
	m := newMirror(env, source{
		name: "namespace", kind: api.KindProfile, workers: workers, spec: profileSpec, adopt: adoptProfile,
		owns: func(key api.Key) bool { _, ok := convert.NamespaceOf(key); return ok },
		want: func(key api.Key) api.Object {
			name, _ := convert.NamespaceOf(key)
			if ns, ok := namespaces.Get("", name); ok {
				return convert.Namespace(ns)
			}
			return nil
		},
		gone: func(ctx context.Context, key api.Key) (bool, error) {
			name, _ := convert.NamespaceOf(key)
			_, exists, err := namespaces.Live(ctx, "", name)
			return !exists, err
		},
	})
	return m, namespaces.Watch(func(_, name string) { m.queue.Add(convert.NamespaceProfileKey(name)) })
}

// ServiceAccounts keeps a profile ksa.<namespace>.<name> for each service account.
func ServiceAccounts(env Environment, accounts *kube.Resource[*corev1.ServiceAccount], workers int) (*Mirror, error) {
	m := newMirror(env, source{
		name: "serviceaccount", kind: api.KindProfile, workers: workers, spec: profileSpec, adopt: adoptProfile,
		owns: func(key api.Key) bool { _, _, ok := convert.ServiceAccountOf(key); return ok },
		want: func(key api.Key) api.Object {
			namespace, name, _ := convert.ServiceAccountOf(key)
			if sa, ok := accounts.Get(namespace, name); ok {
				return convert.ServiceAccount(sa)
			}
			return nil
		},
		gone: func(ctx context.Context, key api.Key) (bool, error) {
			namespace, name, _ := convert.ServiceAccountOf(key)
			_, exists, err := accounts.Live(ctx, namespace, name)
			return !exists, err
		},
	})
	return m, accounts.Watch(func(namespace, name string) { m.queue.Add(convert.ServiceAccountProfileKey(namespace, name)) })
}

func profileSpec(obj api.Object) any { return obj.(*v3.Profile).Spec }

func adoptProfile(stored, want api.Object) api.Object {
	out := stored.(*v3.Profile).DeepCopy()
	out.Spec = want.(*v3.Profile).Spec
	return out
}

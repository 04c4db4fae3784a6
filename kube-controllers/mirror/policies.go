package mirror

import (
	"context"
	"sync"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	networkingv1 "k8s.io/api/networking/v1"

	"tortie/internal/api"
	"tortie/kube-controllers/convert"
	"tortie/kube-controllers/kube"
)

// Policies keeps a NetworkPolicy knp.default.<name> for each NetworkPolicy of
// Kubernetes.
func Policies(env Environment, policies *kube.Resource[*networkingv1.NetworkPolicy], workers int) (*Mirror, error) {
	said := &spoken{versions: map[api.Key]string{}}
	m := newMirror(env, source{
		name: "policy", kind: api.KindNetworkPolicy, workers: workers,
		owns: func(key api.Key) bool { _, ok := convert.PolicyOf(key); return ok },
		want: func(key api.Key) api.Object {
			name, _ := convert.PolicyOf(key)
			np, ok := policies.Get(key.Namespace, name)
			if !ok {
				said.forget(key)
				return nil
			}
			policy, problems := convert.Policy(np)
			if len(problems) > 0 && said.first(key, np.ResourceVersion) {
				env.Log.Warn("a part of a NetworkPolicy makes no sense and is left out: it allows nothing", "key", key, "problems", problems)
			}
			return policy
		},
		gone: func(ctx context.Context, key api.Key) (bool, error) {
			name, _ := convert.PolicyOf(key)
			_, exists, err := policies.Live(ctx, key.Namespace, name)
			return !exists, err
		},
		spec: func(obj api.Object) any { return obj.(*v3.NetworkPolicy).Spec },
		adopt: func(stored, want api.Object) api.Object {
			out := stored.(*v3.NetworkPolicy).DeepCopy()
			out.Spec = want.(*v3.NetworkPolicy).Spec
			return out
		},
	})
	return m, policies.Watch(func(namespace, name string) { m.queue.Add(convert.PolicyKey(namespace, name)) })
}

// spoken remembers of which version of a policy the problems were logged.
type spoken struct {
	mu       sync.Mutex
	versions map[api.Key]string
}

func (s *spoken) first(key api.Key, version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.versions[key]
	s.versions[key] = version
	return !known || before != version
}

func (s *spoken) forget(key api.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.versions, key)
}

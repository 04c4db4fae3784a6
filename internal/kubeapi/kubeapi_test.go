package kubeapi_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/kubeapi"
	"tortie/internal/kubeapi/apitest"
)

// store remembers what it is told.
type store struct {
	mu       sync.Mutex
	pods     map[string]string // name → label "app"
	replaced int
}

func (*store) Trim(pod *corev1.Pod) *corev1.Pod {
	pod.Annotations = nil
	return pod
}

func (s *store) Put(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[pod.Name] = pod.Labels["app"] + pod.Annotations["untrimmed"]
}

func (s *store) Delete(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, pod.Name)
}

func (s *store) Replace(all []*corev1.Pod) {
	s.mu.Lock()
	s.pods = map[string]string{}
	s.replaced++
	s.mu.Unlock()
	for _, pod := range all {
		s.Put(pod)
	}
}

func (s *store) has() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name, app := range s.pods {
		out = append(out, name+"="+app)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func pod(name, node, app string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name, Labels: map[string]string{"app": app}, Annotations: map[string]string{"untrimmed": "!"}},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

// world is a node that follows its pods.
type world struct {
	*testing.T
	server *apitest.Server
	client *kubeapi.Client
	store  *store
}

func (w *world) follow(ctx context.Context) {
	kubeapi.Follow(ctx, w.client, kubeapi.Selection{Resource: "pods", Fields: "spec.nodeName=n1"}, w.store)
}

// inWorlds runs a test against an API server that streams lists, and an older one.
func inWorlds(t *testing.T, test func(w *world)) {
	for name, streams := range map[string]bool{"ListByWatch": true, "List": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{T: t, server: apitest.New(streams), store: &store{pods: map[string]string{}}}
				var err error
				if w.client, err = kubeapi.New(w.server.Config(), "ClusterRole calico-node"); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var following sync.WaitGroup
				following.Go(func() { w.follow(ctx) })
				test(w)
				cancel()
				following.Wait()
				w.server.Close()
				client, _ := w.client.HTTP()
				client.CloseIdleConnections()
			})
		})
	}
}

func (w *world) want(pods string) {
	w.Helper()
	synctest.Wait()
	if got := w.store.has(); got != pods {
		w.Errorf("pods %q, want %q", got, pods)
	}
}

// pass lets time go by.
func pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestFollowSeesOnlyWhatIsSelected(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.want("")
		w.server.Put(pod("a", "n1", "web"))
		w.server.Put(pod("b", "n2", "web"))
		w.want("a=web")
		w.server.Put(pod("a", "n1", "db"))
		w.server.Put(pod("c", "n1", ""))
		w.want("a=db c=")
		w.server.Delete(pod("a", "n1", ""))
		w.want("c=")
		for _, r := range w.server.Requests() {
			if !strings.HasSuffix(r, " pods spec.nodeName=n1") {
				w.Errorf("asked for more than this node's pods: %s", r)
			}
		}
	})
}

func TestFollowCatchesUpAfterAnOutage(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.server.Put(pod("a", "n1", "web"))
		w.server.Put(pod("b", "n1", "web"))
		w.want("a=web b=web")
		w.server.Deny(func(string, string) int { return http.StatusServiceUnavailable })
		w.server.Put(pod("c", "n1", "new"))
		w.server.Delete(pod("a", "n1", ""))
		pass(5 * time.Minute)
		if n := len(w.server.Requests()); n > 90 {
			w.Errorf("%d requests in five minutes", n)
		}
		w.want("a=web b=web") // what is known stays
		gone := 0
		w.server.Deny(func(verb, _ string) int {
			if verb == "watch" && gone < 2 {
				gone++
				return http.StatusGone // the revision is too old: it has to be listed
			}
			return 0
		})
		pass(time.Minute)
		w.want("b=web c=new")
		if got := w.client.Problems(); len(got) > 0 {
			w.Errorf("problems %v", got)
		}
		w.server.Deny(nil)
		pass(time.Minute)
		w.server.Put(pod("b", "n1", "db"))
		w.want("b=db c=new")
	})
}

func TestMissingVerbIsNamed(t *testing.T) {
	inWorlds(t, func(w *world) {
		for _, denied := range []string{"watch", "both"} {
			w.server.Deny(func(verb, _ string) int {
				if verb == denied || denied == "both" {
					return http.StatusForbidden
				}
				return 0
			})
			pass(time.Minute)
			const want = `pods: RBAC forbids it: give the ClusterRole calico-node the verbs list and watch on pods: cannot `
			got := w.client.Problems()
			if len(got) != 1 || !strings.HasPrefix(got[0].Error(), want) || kubeapi.NoAnswer(got[0]) {
				w.Errorf("%s: problems %v", denied, got)
			}
		}
		w.server.Deny(nil)
		pass(time.Minute)
		if got := w.client.Problems(); len(got) > 0 {
			w.Errorf("problems %v", got)
		}
	})
}

func TestServerThatIsAwayIsOneProblem(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.want("")
		w.server.Close()
		err := w.client.PatchNodeStatus(w.Context(), "n1", []byte("{}"))
		pass(time.Minute)
		got := w.client.Problems()
		if err == nil || len(got) != 1 || !kubeapi.NoAnswer(got[0]) || !strings.Contains(got[0].Error(), "no answer: look at KUBECONFIG, or at KUBERNETES_SERVICE_HOST") {
			w.Errorf("%v; problems %v", err, got)
		}
		w.server = apitest.New(false) // for the end of the test
	})
}

func TestPatchNeedsItsOwnVerb(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.server.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		w.want("")
		patch := []byte(`{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False"}]}}`)
		w.server.Deny(func(verb, resource string) int {
			if verb == "patch" {
				return http.StatusForbidden
			}
			return 0
		})
		const want = "nodes/status: RBAC forbids it: give the ClusterRole calico-node the verbs patch on nodes/status"
		err := w.client.PatchNodeStatus(w.Context(), "n1", patch)
		if got := w.client.Problems(); err == nil || len(got) != 1 || !strings.HasPrefix(got[0].Error(), want) {
			w.Errorf("%v; problems %v", err, got)
		}
		w.server.Deny(nil)
		if err := w.client.PatchNodeStatus(w.Context(), "n1", patch); err != nil || len(w.client.Problems()) > 0 {
			w.Errorf("%v; problems %v", err, w.client.Problems())
		}
		if c := w.server.Node("n1").Status.Conditions; len(c) != 1 || c[0].Status != "False" {
			w.Errorf("conditions %v", c)
		}
	})
}

func TestConnectSaysWhatIsMissing(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := kubeapi.Connect(kubeapi.Config{}); !errors.Is(err, kubeapi.ErrNoCluster) {
		t.Errorf("outside of a cluster: %v", err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if _, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: path}); err == nil || !strings.HasPrefix(err.Error(), "read KUBECONFIG "+path) {
		t.Errorf("no such file: %v", err)
	}
	if err := os.WriteFile(path, []byte("clusters: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: path}); err == nil || !strings.HasPrefix(err.Error(), "read KUBECONFIG "+path) {
		t.Errorf("broken file: %v", err)
	}
}

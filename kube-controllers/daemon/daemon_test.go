package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/health"
	"tortie/kube-controllers/config"
)

// rig is a cluster that programs are run on.
type rig struct {
	*testing.T
	store *memory.Store
	api   *fake.Clientset
	logs  *syncedBuffer
}

type syncedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncedBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newRig(t *testing.T, objects ...runtime.Object) *rig {
	return &rig{T: t, store: memory.New(api.NewRegistry()), api: fake.NewClientset(objects...), logs: &syncedBuffer{}}
}

func (r *rig) cluster(identity string) Cluster {
	level := &slog.LevelVar{}
	return Cluster{
		Config: config.Config{
			Enabled: config.Controllers(), ProfileWorkers: 1, PolicyWorkers: 1, WorkloadEndpointWorkers: 2, LeaseNamespace: "kube-system", Identity: identity,
		},
		Client: r.store, Kubernetes: r.api, Level: level, Log: slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: level})),
	}
}

// run runs a replica until the returned function is called.
func (r *rig) run(identity string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- RunOn(ctx, r.cluster(identity)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("%s: %v", identity, err)
		}
	})
	r.Cleanup(stop)
	return stop
}

func (r *rig) namespace(name string) {
	r.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := r.api.CoreV1().Namespaces().Create(context.Background(), ns, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) has(profile string) bool {
	_, err := r.store.Get(context.Background(), api.Key{Kind: api.KindProfile, Name: profile})
	return err == nil
}

func settle(d time.Duration) {
	time.Sleep(d) // simulated
	synctest.Wait()
}

func TestOneReplicaWorksAndAnotherTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stopFirst := r.run("one")
		settle(10 * time.Second)
		r.run("two")
		settle(10 * time.Second)
		r.namespace("a")
		settle(10 * time.Second)
		if !r.has("kns.a") {
			t.Fatalf("kns.a was not made:\n%s", r.logs)
		}
		stopFirst()
		r.namespace("b")
		settle(20 * time.Second)
		if !r.has("kns.b") {
			t.Errorf("nobody took over:\n%s", r.logs)
		}
		if n := strings.Count(r.logs.String(), "this replica works now"); n != 2 {
			t.Errorf("%d terms:\n%s", n, r.logs)
		}
	})
}

// TestReplicaThatStandsByFollowsNothing: following all pods costs as much as the work
// does.
func TestReplicaThatStandsByFollowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run("one")
		settle(10 * time.Second)
		before := r.watches()
		if before == 0 {
			t.Fatal("the replica that works follows nothing")
		}
		stop := r.run("two")
		settle(time.Minute)
		if after := r.watches(); after != before {
			t.Errorf("%d watches by one replica, %d by two", before, after)
		}
		stop()
	})
}

// watches is how many watches have been opened.
func (r *rig) watches() (n int) {
	for _, a := range r.api.Actions() {
		if a.GetVerb() == "watch" {
			n++
		}
	}
	return n
}

func TestReplicaThatStandsByIsReadyWhileItCouldWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := newReplica(r.cluster("two"), func(error) {})
		if p.ready() == nil {
			t.Error("ready before it has asked")
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer func() { cancel(); synctest.Wait() }()
		go p.standby.run(ctx)
		settle(time.Second)
		if err := errors.Join(p.ready(), p.live()); err != nil {
			t.Error(err)
		}
		r.store.SetUnavailable(true)
		settle(time.Minute)
		if p.ready() == nil {
			t.Error("ready without a datastore")
		}
		if n := strings.Count(r.logs.String(), "can't read the datastore"); n != 1 {
			t.Errorf("said %d times:\n%s", n, r.logs)
		}
		r.store.SetUnavailable(false)
		settle(time.Minute)
		if err := p.ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestMetricsAreOfTheProcessAndOfTheTerm: who looks at a replica that stands by sees
// that it does.
func TestMetricsAreOfTheProcessAndOfTheTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := newReplica(r.cluster("one"), func(error) {})
		metrics := func() string {
			rec := httptest.NewRecorder()
			handler(p, nil).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
			return rec.Body.String()
		}
		if m := metrics(); !strings.Contains(m, "kube_controllers_leading 0") || strings.Contains(m, "kube_controllers_queue_depth") {
			t.Errorf("standing by: %s", m)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer func() { cancel(); synctest.Wait() }()
		go p.lead(ctx)
		settle(5 * time.Second)
		r.namespace("a")
		settle(5 * time.Second)
		if m := metrics(); !strings.Contains(m, "kube_controllers_leading 1") || !strings.Contains(m, "kube_controllers_queue_depth") {
			t.Errorf("leading: %s", m)
		}
	})
}

func TestALostLeadIsTakenAgainWithoutARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var down atomic.Bool
		r.api.PrependReactor("*", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
			if down.Load() {
				return true, nil, apierrors.NewServiceUnavailable("away")
			}
			return false, nil, nil
		})
		r.run("one")
		settle(10 * time.Second)
		down.Store(true)
		settle(time.Minute)
		r.namespace("a")
		settle(10 * time.Second)
		if r.has("kns.a") {
			t.Error("works without the lead")
		}
		down.Store(false)
		settle(time.Minute)
		if !r.has("kns.a") {
			t.Errorf("doesn't work again:\n%s", r.logs)
		}
	})
}

func TestMissingRightsAreOneClearLineAndNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.api.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", nil)
		})
		r.api.PrependWatchReactor("pods", k8stesting.DefaultWatchReactor(nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", nil)))
		p, err := newTerm(r.cluster("one"))
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		ctx, cancel := context.WithCancel(context.Background())
		defer func() { cancel(); synctest.Wait() }()
		go p.follow(ctx)
		settle(45 * time.Second)
		const want = "RBAC forbids it: give the ClusterRole of kube-controllers the verbs get, list and watch on pods"
		if err := p.ready(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ready: %v", err)
		}
		if n := strings.Count(r.logs.String(), want); n != 1 {
			t.Errorf("said %d times:\n%s", n, r.logs)
		}
		if err := p.live(); err != nil {
			t.Errorf("live: %v", err)
		}
	})
}

// TestResourceThatMayNotBeReadStopsItsControllerAlone: a ClusterRole may be older than
// the program.
func TestResourceThatMayNotBeReadStopsItsControllerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var allowed atomic.Bool
		forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", nil)
		r.api.PrependReactor("list", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
			return !allowed.Load(), nil, forbidden
		})
		r.api.PrependWatchReactor("services", func(k8stesting.Action) (bool, watch.Interface, error) {
			return !allowed.Load(), nil, forbidden
		})
		r.run("one")
		settle(10 * time.Second)
		r.namespace("a")
		settle(10 * time.Second)
		if !r.has("kns.a") {
			t.Errorf("kns.a was not made:\n%s", r.logs)
		}
		const waits = `msg="a controller waits until what it follows of Kubernetes has been read" controller=service`
		for _, want := range []string{waits + "\n", "give the ClusterRole of kube-controllers the verbs get, list and watch on services"} {
			if n := strings.Count(r.logs.String(), want); n != 1 {
				t.Errorf("%q is said %d times:\n%s", want, n, r.logs)
			}
		}
		r.serve("198.51.100.7")
		settle(10 * time.Second)
		if r.announced() {
			t.Error("a service is recorded that can't be read")
		}
		allowed.Store(true)
		settle(2 * time.Minute)
		if !r.announced() {
			t.Errorf("the controller doesn't work when its resource can be read:\n%s", r.logs)
		}
	})
}

// serve makes a Service with an address that is to be announced.
func (r *rig) serve(address string) {
	r.Helper()
	config := v3.NewBGPConfiguration()
	config.Name = "default"
	config.Spec.ServiceLoadBalancerIPs = []v3.ServiceLoadBalancerIPBlock{{CIDR: address + "/32"}}
	if _, _, err := datastore.NewResources(r.store, api.NewRegistry(), nil).Apply(context.Background(), config); err != nil {
		r.Fatal(err)
	}
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	s.Spec.Type, s.Spec.ClusterIP = corev1.ServiceTypeLoadBalancer, "10.96.0.1"
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	if _, err := r.api.CoreV1().Services("default").Create(context.Background(), s, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) announced() bool {
	_, err := r.store.Get(context.Background(), api.Key{Kind: api.KindAdvertisedService, Namespace: "default", Name: "web"})
	return err == nil
}

// TestUnreachableAPIServerIsOneClearLineAndNotReady: a watch that can't connect
// tries again without a word.
func TestUnreachableAPIServerIsOneClearLineAndNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var away atomic.Bool
		away.Store(true)
		r.api.PrependReactor("get", "namespaces", func(k8stesting.Action) (bool, runtime.Object, error) {
			if away.Load() {
				return true, nil, errors.New("dial tcp: connection refused")
			}
			return false, nil, nil
		})
		p, err := newTerm(r.cluster("one"))
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		ctx, cancel := context.WithCancel(context.Background())
		defer func() { cancel(); synctest.Wait() }()
		go p.follow(ctx)
		settle(45 * time.Second)
		const want = "API server: no answer: look at KUBECONFIG"
		if err := p.ready(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ready: %v", err)
		}
		if n := strings.Count(r.logs.String(), want); n != 1 {
			t.Errorf("said %d times:\n%s", n, r.logs)
		}
		away.Store(false)
		settle(15 * time.Second)
		if err := p.ready(); err != nil {
			t.Errorf("ready: %v", err)
		}
	})
}

func TestReadyWhenEverythingHasBeenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p, err := newTerm(r.cluster("one"))
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if p.ready() == nil {
			t.Error("ready before anything has been read")
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer func() { cancel(); synctest.Wait() }()
		go p.follow(ctx)
		settle(5 * time.Second)
		if err := p.ready(); err != nil {
			t.Error(err)
		}
		r.store.SetUnavailable(true)
		settle(5 * time.Second)
		if p.ready() == nil {
			t.Error("ready without a datastore")
		}
		h := handler(p.metrics, &health.Probes{Live: p.live, Ready: p.ready})
		for path, want := range map[string]string{"/liveness": "live", "/readiness": "unavailable"} {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
			if !strings.Contains(rec.Body.String(), want) {
				t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
			}
		}
	})
}

func TestSettingsFollowKubeControllersConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		c := r.cluster("one")
		p, err := newTerm(c)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		ctx, cancel := context.WithCancel(context.Background())
		defer func() { cancel(); synctest.Wait() }()
		go func() { _ = p.syncer.Run(ctx) }()
		settle(time.Second)
		set := settings{c.Config, p.cache}
		if !set.syncLabels() || set.leakGrace() != 15*time.Minute || c.Level.Level() != slog.LevelInfo {
			t.Errorf("defaults: %v, %v, %v", set.syncLabels(), set.leakGrace(), c.Level)
		}
		k := v3.NewKubeControllersConfiguration()
		k.Name = "default"
		k.Spec.LogSeverityScreen = "Debug"
		k.Spec.Controllers.Node = &v3.NodeControllerConfig{SyncLabels: v3.Disabled, LeakGracePeriod: &metav1.Duration{Duration: time.Hour}}
		if _, _, err := datastore.NewResources(r.store, api.NewRegistry(), nil).Apply(context.Background(), k); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if set.syncLabels() || set.leakGrace() != time.Hour || c.Level.Level() != slog.LevelDebug {
			t.Errorf("configured: %v, %v, %v", set.syncLabels(), set.leakGrace(), c.Level)
		}
		yes := true
		if (settings{config.Config{SyncNodeLabels: &yes}, p.cache}).syncLabels() == false {
			t.Error("the environment doesn't win")
		}
	})
}

func TestBadEnvironmentIsRefused(t *testing.T) {
	err := Run(context.Background(), Process{Getenv: func(name string) string {
		return map[string]string{"ETCD_ENDPOINTS": "http://127.0.0.1:1", "ENABLED_CONTROLLERS": "nodes"}[name]
	}, Log: &syncedBuffer{}})
	if err == nil || !strings.Contains(err.Error(), `did you mean "node"`) {
		t.Errorf("%v", err)
	}
}

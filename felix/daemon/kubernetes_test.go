package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/felix/problems"
	"tortie/internal/api"
	"tortie/internal/control/felixstatus"
	"tortie/internal/datastore"
	"tortie/internal/kernel/feature"
	"tortie/internal/kubeapi/apitest"
	"tortie/internal/kubeevent"
	"tortie/internal/kubeevent/eventtest"
)

// kubernetesConf is a network whose policy comes from Kubernetes.
const kubernetesConf = `{"cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}}`

func webPod(app string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web-0", UID: "u1", Labels: map[string]string{"app": app}}}
	p.Spec = corev1.PodSpec{NodeName: "worker-1", ServiceAccountName: "sa"}
	return p
}

func (n *node) endpointOfWeb() *api.WorkloadEndpoint {
	n.Helper()
	e, err := n.store.Get(n.Context(), api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: "node1-k8s-web--0-eth0"})
	if errors.Is(err, datastore.ErrNotFound) {
		return &api.WorkloadEndpoint{}
	}
	if err != nil {
		n.Fatal(err)
	}
	return e.Object.(*api.WorkloadEndpoint)
}

func TestFelixAndKubernetesTogether(t *testing.T) {
	n := newNode(t)
	n.kubernetes = apitest.New(true)
	defer n.kubernetes.Close()
	n.kubernetes.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}})
	n.start(true)
	n.await("the scheduler may send pods", func() bool {
		c := n.kubernetes.Node("worker-1").Status.Conditions
		return len(c) == 1 && c[0].Status == corev1.ConditionFalse && c[0].Reason == "CalicoIsUp"
	})
	const args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web-0;K8S_POD_UID=u1"
	p := n.newPod("c1")
	p.args = args
	if _, err := n.cni("ADD", p, kubernetesConf); err != nil {
		t.Fatal(err)
	}
	if got := n.endpointOfWeb(); got.Spec.ContainerID != "c1" || got.Labels["app"] != "" {
		t.Errorf("before its event: %+v", got)
	}
	for _, app := range []string{"web", "db"} {
		n.kubernetes.Put(webPod(app))
		n.await("the endpoint says what Kubernetes does", func() bool { return n.endpointOfWeb().Labels["app"] == app })
	}
	if diff := cmp.Diff([]string{"kns.ns1", "ksa.ns1.sa"}, n.endpointOfWeb().Spec.Profiles); diff != "" {
		t.Error(diff)
	}
	if _, err := n.cni("DEL", p, kubernetesConf); err != nil {
		t.Fatal(err)
	}
	p = n.newPod("c2")
	p.args = args
	if _, err := n.cni("ADD", p, kubernetesConf); err != nil {
		t.Fatal(err)
	}
	if got := n.endpointOfWeb(); got.Spec.ContainerID != "c2" || got.Labels["app"] != "db" || len(got.Spec.Profiles) != 2 {
		t.Errorf("of a pod that is known: %+v", got)
	}
	n.stop()
	c := n.kubernetes.Node("worker-1").Status.Conditions
	if len(c) != 1 || c[0].Status != corev1.ConditionTrue || c[0].Reason != "CalicoIsDown" {
		t.Errorf("after the end: %v", c)
	}
}

func TestFelixIsReadyOnlyWithAnAddressAndItsDatastore(t *testing.T) {
	n := newNode(t)
	n.store.SetUnavailable(true)
	n.start(false)
	defer func() { n.stop() }()
	n.await("felix says what it waits for", func() bool {
		err := n.felix.ready()
		return err != nil && strings.Contains(err.Error(), "no connection to the datastore") && strings.Contains(err.Error(), "unavailable")
	})
	n.store.SetUnavailable(false)
	n.await("felix is ready", func() bool { return n.felix.ready() == nil })
	self := &api.Node{}
	self.Kind, self.APIVersion, self.Name = string(api.KindNode), api.GroupVersion, "node1"
	if _, _, err := datastore.NewResources(n.store, n.reg, nil).Apply(t.Context(), self); err != nil {
		t.Fatal(err)
	}
	n.await("felix is not", func() bool {
		err := n.felix.ready()
		return err != nil && strings.HasPrefix(err.Error(), "node node1 has no address in the datastore, so that no other node could reach its pods")
	})
}

func TestEveryProblemReachesTheBoard(t *testing.T) {
	n := newNode(t)
	n.kubernetes = apitest.New(true)
	defer n.kubernetes.Close()
	n.kubernetes.Deny(func(verb, resource string) int {
		if resource == "pods" {
			return 403
		}
		return 0
	})
	n.kubernetes.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}}})
	policy := v3.NewGlobalNetworkPolicy()
	policy.Name = "deny-all"
	n.put(policy)
	n.start(true)
	defer func() { n.stop() }()
	has := func(source func() []problems.Problem, want ...string) {
		t.Helper()
		n.await(want[0], func() bool {
			return slices.ContainsFunc(source(), func(p problems.Problem) bool {
				return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(p.Reason+": "+p.Line, w) })
			})
		})
	}
	f := n.felix
	has(f.kubernetesProblems, "KubernetesAccess: Kubernetes can't be followed: pods: RBAC forbids it", "give the ClusterRole calico-node the verbs list and watch on pods")
	has(f.podCIDRProblem, "PodCIDROutsidePools: Kubernetes gives this node the pod addresses 10.244.1.0/24, which are in no IP pool (10.65.0.0/16)")
	if got := f.backendProblem(); got != nil {
		t.Errorf("with BGP: %v", got)
	}
	with := func(backend string) func() []problems.Problem {
		return func() []problems.Problem { return backendProblem(backend, f.desired()) }
	}
	has(with(backendVXLAN), "PoolNotCarried: CALICO_NETWORKING_BACKEND is vxlan", "10.65.0.0/16", "vxlanMode: Always")
	has(with("quagga"), "UnknownBackend: CALICO_NETWORKING_BACKEND is \"quagga\", which bgpd refuses", "bird, vxlan or none")
	has(f.policyProblem, "PoliciesNotEnforced: network policies are stored but not enforced by this version (there are 1)")
	n.store.SetUnavailable(true)
	has(f.datastoreProblem, "DatastoreUnavailable: ", "datastore unavailable", "going on with what is known")
	n.lacks(checkKernel(func(feature.Feature) error { return errors.New("no") }))
	has(f.kernelCheck, "KernelUnsupported: the kernel ("+feature.Release()+") doesn't do network namespaces")
	if err := f.ready(); err == nil || !strings.HasPrefix(err.Error(), "the kernel (") {
		t.Errorf("ready with such a kernel: %v", err)
	}
}

func TestUnsupportedKernelIsNamedWithWhatToDo(t *testing.T) {
	err := checkKernel(func(f feature.Feature) error {
		if f == feature.Veth {
			return errors.New("operation not supported")
		}
		return nil
	})
	if want := "the kernel (" + feature.Release() + ") doesn't do veth devices (CONFIG_VETH), so no pod can be attached: operation not supported: load the module"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if err := checkKernel(feature.Probe); err != nil {
		t.Errorf("this kernel: %v", err)
	}
}

func TestPodCIDROutsideOfEveryPool(t *testing.T) {
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	pools := prefixes("10.65.0.0/16", "10.66.0.0/24", "fd65::/64")
	for _, tc := range []struct{ cidrs, pools, outside []netip.Prefix }{
		{nil, pools, nil},
		{prefixes("10.65.1.0/24", "fd65::/80"), pools, nil},
		{prefixes("10.66.0.0/16"), pools, nil}, // a pool within it
		{prefixes("10.244.1.0/24", "fd65::/80"), pools, prefixes("10.244.1.0/24")},
		{prefixes("10.65.1.0/24", "fd00:244::/64"), prefixes("10.65.0.0/16"), nil}, // pods have no IPv6
		{prefixes("10.244.1.0/24"), nil, nil},                                      // another problem
	} {
		if got, _ := outsidePools(tc.cidrs, tc.pools); fmt.Sprint(got) != fmt.Sprint(tc.outside) {
			t.Errorf("%v of pools %v: %v, want %v", tc.cidrs, tc.pools, got, tc.outside)
		}
	}
}

func TestPoliciesAreCounted(t *testing.T) {
	var p policies
	update := func(kind api.Kind, name string, there bool) {
		u := datastore.SyncUpdate{Key: api.Key{Kind: kind, Name: name}}
		if there {
			u.Entry = &datastore.Entry{}
		}
		p.Apply([]datastore.SyncUpdate{u})
	}
	update(api.KindNetworkPolicy, "a", true)
	update(api.KindNetworkPolicy, "a", true)
	update(api.KindGlobalNetworkPolicy, "a", true)
	update(api.KindIPPool, "a", true)
	update(api.KindNetworkPolicy, "b", false)
	if got := p.count(); got != 2 {
		t.Errorf("%d policies", got)
	}
	update(api.KindNetworkPolicy, "a", false)
	update(api.KindGlobalNetworkPolicy, "a", false)
	if got := p.count(); got != 0 {
		t.Errorf("%d policies are left", got)
	}
}

// told takes Events in.
type told struct{ warnings []kubeevent.Warning }

func (t *told) Set(now []kubeevent.Warning) { t.warnings = now }

func TestTellerTellsCalicoctlAndKubernetes(t *testing.T) {
	events := &told{}
	path := filepath.Join(t.TempDir(), "calico", "felix-status.json")
	tell := &teller{log: slog.New(slog.DiscardHandler), events: events, status: felixstatus.Status{Node: "node1"}}
	tell.show(nil) // another felix's file is left alone
	if s, err := felixstatus.Read(path); err != nil || s.Node != "" {
		t.Errorf("%+v, %v", s, err)
	}
	tell.own(path)
	tell.show([]problems.Problem{{Reason: "DatastoreUnavailable", Line: "etcd is away"}, {Reason: "ObjectNotHonoured", Line: "a pool", Minor: true}})
	s, err := felixstatus.Read(path)
	if err != nil || s.Node != "node1" || s.PID != os.Getpid() || len(s.Problems) != 2 || s.Ended != "" {
		t.Errorf("%+v, %v", s, err)
	}
	if len(events.warnings) != 1 || events.warnings[0].Message != "etcd is away" {
		t.Errorf("%+v", events.warnings)
	}
	tell.ended(t.Context(), nil)
	if s, err := felixstatus.Read(path); err != nil || len(s.Problems) > 0 || s.Ended != "" {
		t.Errorf("after an end in order: %+v, %v", s, err)
	}
}

// TestFelixThatCanNotStartSaysSoToEverybody: in its error, in an Event of its node and
// its pod, and to calicoctl.
func TestFelixThatCanNotStartSaysSoToEverybody(t *testing.T) {
	events := &eventtest.Server{}
	server := httptest.NewServer(events)
	defer server.Close()
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	raw, _ := json.Marshal(map[string]any{ // YAML, too
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": server.URL}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": "t"}}},
	})
	if err := os.WriteFile(kubeconfig, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"NODENAME=node1", "KUBECONFIG=" + kubeconfig, "POD_NAMESPACE=kube-system", "POD_NAME=calico-node-x", "POD_UID=u1",
		"FELIX_LOCKFILE=" + filepath.Join(dir, "lock"), "FELIX_CNISOCKET=" + filepath.Join(dir, "felix.sock"),
		"ETCD_ENDPOINTS=https://127.0.0.1:1", "ETCD_CA_CERT_FILE=" + filepath.Join(dir, "no-ca.pem"),
	}
	for name, more := range map[string]struct{ env, says string }{
		"certificate that is not there": {"A=b", "no-ca.pem"},
		"bad parameter":                 {"FELIX_HEALTHPORT=x", "FELIX_HEALTHPORT"},
		"bad address":                   {"IP=nowhere", `IP="nowhere": want autodetect, none, or an address`},
	} {
		t.Run(name, func(t *testing.T) {
			events.Expire()
			var log strings.Builder
			err := Run(t.Context(), Process{Version: "test", Environ: append(env, more.env), Log: &log})
			if err == nil || !strings.Contains(err.Error(), more.says) {
				t.Fatalf("error %v", err)
			}
			got := events.Events()
			if len(got) != 2 || got[0].About.Name != "node1" || got[1].About.Name != "calico-node-x" || got[1].Message != "felix can't run: "+err.Error() {
				t.Errorf("Events %+v\n%s", got, log.String())
			}
			if s, readErr := felixstatus.Read(felixstatus.Path(filepath.Join(dir, "felix.sock"))); readErr != nil || s.Ended != err.Error() {
				t.Errorf("%+v, %v", s, readErr)
			}
		})
	}
}

func TestUnreadableKubeconfigIsRefused(t *testing.T) {
	var log strings.Builder
	dir := t.TempDir()
	path := filepath.Join(dir, "none")
	env := []string{"NODENAME=n", "KUBECONFIG=" + path, "FELIX_LOCKFILE=" + filepath.Join(dir, "lock"), "FELIX_CNISOCKET=" + filepath.Join(dir, "felix.sock")}
	err := Run(t.Context(), Process{Version: "test", Environ: env, Log: &log})
	if err == nil || !strings.HasPrefix(err.Error(), "read KUBECONFIG "+path) {
		t.Errorf("error %v", err)
	}
}

// TestPodWithoutAServiceAccountGoesOn: felix needs Kubernetes for nothing that it
// can't do without.
func TestPodWithoutAServiceAccountGoesOn(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	k, without, err := connectKubernetes(Process{Version: "test"}, "node1", slog.New(slog.DiscardHandler))
	if k != nil || err != nil || without == nil || !strings.HasPrefix(without.Error(), "find the API server: ") {
		t.Fatalf("%v, %v, %v", k, without, err)
	}
	f := &felix{without: without}
	got := f.clusterSources()[0]()
	if len(got) != 1 || !strings.HasPrefix(got[0].Line, "felix goes on without Kubernetes: find the API server: ") {
		t.Errorf("%+v", got)
	}
}

func TestKernelIsAskedUntilItCan(t *testing.T) {
	asked, answer := 0, errors.New("no")
	ask := untilNil(func() error { asked++; return answer })
	for i, want := range []struct {
		answer error
		asked  int
	}{{answer, 1}, {answer, 2}, {nil, 3}, {nil, 3}} {
		answer = want.answer
		if err := ask(); !errors.Is(err, want.answer) || asked != want.asked {
			t.Errorf("call %d: %v, asked %d times, want %v, %d times", i, err, asked, want.answer, want.asked)
		}
	}
}

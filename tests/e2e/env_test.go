package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"tortie/tests/e2e/cluster"
	"tortie/tests/e2e/kube"
	"tortie/tests/e2e/machine"
	"tortie/tests/lab/agentwire"
)

// keep is for whoever works on the tests: a cluster that is there is used, and
// stays.
var keep = flag.Bool("keep", false, "use the cluster that bin/e2e up has started, if there is one, and leave it")

// kept is which one that is.
var kept = flag.String("name", "e2e", "with -keep: the name that bin/e2e up was given")

// env is the cluster under test.
type env struct {
	*cluster.Cluster
	client kubernetes.Interface
	// tunnels carry packets between nodes.
	tunnels bool
	// natIPv6 is whether the IPv6 pool is natOutgoing, as the IPv4 one always is.
	natIPv6 bool
}

// families are the IP versions that there are: false is IPv4, true IPv6.
func (e *env) families() (v6 []bool) {
	for _, version := range []bool{false, true} {
		if e.Config().Families.Have(version) {
			v6 = append(v6, version)
		}
	}
	return v6
}

// start brings a cluster up; it is taken down when the test ends. It is apart from the
// one that a developer may have up, unless that one is asked for.
func start(t *testing.T, name string) *env {
	t.Helper()
	return startOf(t, name, cluster.Config{Nodes: 3, Families: cluster.DualStack})
}

// startOf does so with as many nodes, and the IP versions, that are asked for.
func startOf(t *testing.T, name string, cfg cluster.Config) *env {
	t.Helper()
	if *keep {
		name = *kept
	}
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := cluster.Dir(name)
	say := func(format string, args ...any) { t.Logf(format, args...) }
	c, err := cluster.Find(dir, say)
	if err == nil && !*keep {
		if err := c.Down(); err != nil {
			t.Fatal(err)
		}
		c = nil
	}
	if c == nil || err != nil {
		cfg.Dir, cfg.Source, cfg.ProxyMode = dir, source, "nftables"
		if cfg.Kubernetes, err = kube.Build(t.Context(), say); err != nil {
			t.Fatal(err)
		}
		c, err = cluster.Up(t.Context(), cfg, say)
		if c != nil && !*keep {
			t.Cleanup(func() {
				if err := c.Down(); err != nil {
					t.Error(err)
				}
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	e := &env{Cluster: c}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.Dial, config.QPS, config.Burst = c.Machine(cluster.ControlPlane).Dial, 500, 1000
	if e.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return e
}

// kubectl runs kubectl, which has to succeed.
func (e *env) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply applies a manifest of testdata, or one that is given.
func (e *env) apply(t *testing.T, manifest string) {
	t.Helper()
	if !strings.Contains(manifest, "\n") {
		manifest = filepath.Join("tests/e2e/testdata", manifest)
		e.kubectl(t, "apply", "-f", manifest)
		return
	}
	e.pipe(t, manifest, "apply", "-f", "-")
}

// pipe gives kubectl an input.
func (e *env) pipe(t *testing.T, input string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := e.KubectlCommand(t.Context(), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, &out)
	}
	return out.String()
}

// calicoctl runs calicoctl as the README does.
func (e *env) calicoctl(t *testing.T, args ...string) string {
	t.Helper()
	return e.kubectl(t, append([]string{"exec", "-n", "kube-system", "ds/calico-node", "-c", "felix", "--", "calicoctl"}, args...)...)
}

// applyResources has calicoctl apply what it reads.
func (e *env) applyResources(t *testing.T, resources string) {
	t.Helper()
	e.pipe(t, resources, "exec", "-i", "-n", "kube-system", "ds/calico-node", "-c", "felix", "--", "calicoctl", "apply", "-f", "-")
}

// eventually tries until it works or the limit is over.
func eventually(t *testing.T, limit time.Duration, try func() error) {
	t.Helper()
	if err := cluster.Until(t.Context(), limit, try); err != nil {
		t.Fatalf("not within %v: %v", limit, err)
	}
}

// pod is a pod that runs.
type pod struct {
	name, node string
	v4, v6     netip.Addr
	restarts   int32
}

func (p pod) addr(v6 bool) netip.Addr {
	if v6 {
		return p.v6
	}
	return p.v4
}

// ready waits until as many pods of a selector are ready, and no others are left.
func (e *env) ready(t *testing.T, namespace, selector string, count int, limit time.Duration) []pod {
	t.Helper()
	var pods []pod
	eventually(t, limit, func() (err error) {
		pods, err = e.pods(t.Context(), namespace, selector)
		if err == nil && len(pods) != count {
			err = fmt.Errorf("%d pods %s are ready, want %d", len(pods), selector, count)
		}
		return err
	})
	return pods
}

// pods are those of a selector; that one of them isn't ready is an error.
func (e *env) pods(ctx context.Context, namespace, selector string) ([]pod, error) {
	list, err := e.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var pods []pod
	for _, p := range list.Items {
		if !isReady(p) {
			return nil, fmt.Errorf("pod %s on %s isn't ready: %s", p.Name, p.Spec.NodeName, p.Status.Phase)
		}
		made := pod{name: p.Name, node: p.Spec.NodeName}
		for _, ip := range p.Status.PodIPs {
			if a := netip.MustParseAddr(ip.IP); a.Is4() {
				made.v4 = a
			} else {
				made.v6 = a
			}
		}
		for _, c := range p.Status.ContainerStatuses {
			made.restarts += c.RestartCount
		}
		pods = append(pods, made)
	}
	slices.SortFunc(pods, func(a, b pod) int { return strings.Compare(a.node+a.name, b.node+b.name) })
	return pods, nil
}

func isReady(p corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// askPod has a pod's agent do something.
func (e *env) askPod(ctx context.Context, p pod, agent string, req agentwire.Request) (agentwire.Response, error) {
	return cluster.AskPod(ctx, e.Machine(p.node), agent, req)
}

// hosts are the machines that pods reach, with what they are.
func (e *env) hosts() map[string]cluster.Host {
	all := map[string]cluster.Host{cluster.Outside: cluster.OutsideHost()}
	for n := 1; n <= e.Config().Nodes; n++ {
		h := cluster.NodeHost(n)
		all[h.Name] = h
	}
	return all
}

func hostAddr(h cluster.Host, v6 bool) netip.Addr {
	if v6 {
		return h.V6.Addr()
	}
	return h.V4.Addr()
}

// nodes are the machines of the nodes.
func (e *env) eachNode(t *testing.T, do func(m *machine.Machine) error) {
	t.Helper()
	for _, m := range e.Nodes() {
		if err := do(m); err != nil {
			t.Fatal(err)
		}
	}
}

// explain prints what a person would want to see after a failure.
func (e *env) explain(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	show := func(title, text string, err error) {
		if err != nil {
			text += err.Error()
		}
		t.Logf("── %s\n%s", title, strings.TrimSpace(text))
	}
	for _, args := range [][]string{
		{"get", "nodes", "-o", "wide"},
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp"},
		{"logs", "-n", "kube-system", "-l", "k8s-app=calico-kube-controllers", "--prefix", "--tail=15"},
	} {
		out, err := e.Kubectl(ctx, args...)
		show("kubectl "+strings.Join(args, " "), tail(out, 40), err)
	}
	for _, m := range e.Nodes() {
		if !m.Alive() {
			show(m.Spec.Name, "is off", nil)
			continue
		}
		for _, args := range [][]string{{"ip", "route"}, {"ip", "-6", "route"}, {"/opt/tortie/bin/calicoctl", "node", "status"}} {
			out, err := m.Run(ctx, args...)
			show(m.Spec.Name+": "+strings.Join(args, " "), tail(out, 60), err)
		}
		for _, container := range []string{"install-cni", "felix", "bgpd"} {
			logs, _ := filepath.Glob(m.Path("/var/log/pods/kube-system_calico-node-*/" + container + "/*.log"))
			for _, log := range logs {
				text, err := os.ReadFile(log)
				show(m.Spec.Name+": "+container, tail(string(text), 25), err)
			}
		}
	}
	out, err := e.Machine(cluster.Router).Run(ctx, "birdc", "-s", "/run/bird/bird.ctl", "show", "protocols")
	show("router: birdc show protocols", out, err)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

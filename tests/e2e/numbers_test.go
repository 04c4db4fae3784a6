package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tortie/tests/e2e/machine"
)

// network is one way of giving pods a network, to be compared.
type network struct {
	name string
	host bool // the node's own
	// conflist is the CNI configuration of a node, from the range of its pods; empty
	// for ours. plugins are the programs that it needs, by name.
	conflist func(podCIDR string) string
	plugins  map[string]string
}

// networks in the order of the table; nothing is the plugin that does nothing. They
// take turns, for the machine's speed drifts.
func networks(nothing string) []network {
	const installed = "/usr/lib/cni/"
	return []network{
		{name: "tortie"},
		{name: "ptp + host-local", plugins: map[string]string{"ptp": installed + "ptp", "host-local": installed + "host-local"}, conflist: ptpConflist},
		{name: "a plugin that does nothing", plugins: map[string]string{"nothing": nothing}, conflist: func(string) string {
			return `{"cniVersion":"0.4.0","name":"nothing","plugins":[{"type":"nothing"}]}`
		}},
		{name: hostNetwork, host: true},
	}
}

const hostNetwork = "hostNetwork"

func ptpConflist(podCIDR string) string {
	return fmt.Sprintf(`{"cniVersion":"0.4.0","name":"ptp","plugins":[
 {"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","subnet":"%s","routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}`, podCIDR)
}

const (
	// burst is how many pods start at once, rounds how often.
	burst, rounds = 45, 5
	// singles is how many pods start one after another in each round.
	singles = 3
)

// numbers measures how fast pods start with each network, and what the parts of
// ours cost. Nothing here fails on a slow day; the ratios are for reading.
func numbers(t *testing.T, e *env) {
	e.kubectl(t, "delete", "-f", "tests/e2e/testdata/agents.yaml", "--ignore-not-found")
	e.kubectl(t, "delete", "-f", "tests/e2e/testdata/services.yaml", "--ignore-not-found")
	e.ready(t, "default", "", 0, time.Minute)
	e.kubectl(t, "create", "namespace", "numbers")
	nothing := filepath.Join(t.TempDir(), "nothing")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", nothing, "tortie/tests/e2e/nothing")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin that does nothing: %v: %s", err, out)
	}
	all := networks(nothing)
	rest := e.cost(t, func() { pause(t, 20*time.Second) })
	single, rate := map[string][]float64{}, map[string][]float64{}
	var churned map[string]part
	for round := range rounds {
		for _, n := range all {
			e.use(t, n)
			for i := range singles {
				single[n.name] = append(single[n.name], e.startOne(t, n, fmt.Sprintf("one-%d-%d", round, i)))
			}
			e.cleared(t)
			measure := func() { rate[n.name] = append(rate[n.name], e.startMany(t, n)) }
			if n.name != all[0].name || round > 0 {
				measure()
			} else {
				churned = e.cost(t, measure)
			}
			e.cleared(t)
		}
	}
	e.use(t, network{})
	e.kubectl(t, "delete", "namespace", "numbers")
	report(t, all, single, rate)
	reportCost(t, rest, churned)
}

// cleared removes what is left of the pods before. kubelet would do so up to a minute
// later, with one more call of the plugin for each, and the next network would pay.
func (e *env) cleared(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e.eachNode(t, func(m *machine.Machine) error {
		conn, err := grpc.NewClient("unix://"+m.Path("/run/containerd/containerd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		runtime := cri.NewRuntimeServiceClient(conn)
		left, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
			LabelSelector: map[string]string{"io.kubernetes.pod.namespace": "numbers"},
		}})
		if err != nil {
			return err
		}
		for _, sandbox := range left.Items {
			if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil {
				return err
			}
		}
		return nil
	})
}

// use makes a network that of new pods. No pod of another one must be left: its
// removal would be the wrong plugin's.
func (e *env) use(t *testing.T, n network) {
	t.Helper()
	const file = "/etc/cni/net.d/05-compared.conflist"
	for _, m := range e.Nodes() {
		if err := os.Remove(m.Path(file)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if n.conflist == nil {
			continue
		}
		for name, from := range n.plugins {
			text, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(m.Path("/opt/cni/bin/"+name), text, 0o755); err != nil { //nolint:gosec // a program
				t.Fatal(err)
			}
		}
		node, err := e.client.CoreV1().Nodes().Get(t.Context(), m.Spec.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.Path(file), []byte(n.conflist(node.Spec.PodCIDR)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pause(t, 2*time.Second) // containerd follows the folder
}

func (e *env) numbersPod(n network, name string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "numbers"}},
		Spec: corev1.PodSpec{
			HostNetwork: n.host, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "pause", Image: "tortie-e2e/agent:1", Command: []string{"/pause"}}},
		},
	}
}

// startOne is how many seconds one pod takes from its creation until the API
// server says that it runs.
func (e *env) startOne(t *testing.T, n network, name string) float64 {
	t.Helper()
	took := e.startPods(t, n, []string{name})
	return took.Seconds()
}

// startMany is how many pods a second start when many are made at once.
func (e *env) startMany(t *testing.T, n network) float64 {
	t.Helper()
	var names []string
	for i := range burst {
		names = append(names, fmt.Sprintf("many-%d", i))
	}
	return burst / e.startPods(t, n, names).Seconds()
}

// startPods makes pods, waits until all run, and removes them.
func (e *env) startPods(t *testing.T, n network, names []string) time.Duration {
	t.Helper()
	pods := e.client.CoreV1().Pods("numbers")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "app=numbers"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	began := time.Now()
	for _, name := range names {
		if _, err := pods.Create(ctx, e.numbersPod(n, name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	running := map[string]bool{}
	for len(running) < len(names) {
		event, more := <-w.ResultChan()
		if !more || event.Type == watch.Error {
			t.Fatalf("watch of pods ended: %d of %d ran", len(running), len(names))
		}
		if p, ok := event.Object.(*corev1.Pod); ok && isReady(*p) {
			running[p.Name] = true
		}
	}
	took := time.Since(began)
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=numbers"}); err != nil {
		t.Fatal(err)
	}
	e.ready(t, "numbers", "app=numbers", 0, 3*time.Minute)
	return took
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func spread(values []float64) string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(values), slices.Min(values), slices.Max(values))
}

func report(t *testing.T, all []network, single, rate map[string][]float64) {
	t.Helper()
	w := table.NewWriter()
	w.AppendHeader(table.Row{"network", "one pod, s", fmt.Sprintf("%d at once, pods/s", burst), "rate ÷ hostNetwork's"})
	for _, n := range all {
		w.AppendRow(table.Row{n.name, spread(single[n.name]), spread(rate[n.name]), spread(shares(rate[n.name], rate[hostNetwork]))})
	}
	t.Logf("starting pods on three nodes: median (least–most) of %d rounds\n%s", rounds, w.Render())
}

// shares are the rates as parts of those of the same round.
func shares(rates, of []float64) []float64 {
	out := slices.Clone(rates)
	for round := range out {
		out[round] /= of[round]
	}
	return out
}

// part is what one program costs, summed over the nodes.
type part struct {
	processes int
	rss       int           // KiB
	cpu       time.Duration // spent while it was measured
	took      time.Duration
}

// cost measures what the parts use while something is done.
func (e *env) cost(t *testing.T, do func()) map[string]part {
	t.Helper()
	began, before := time.Now(), e.usage(t)
	do()
	after := e.usage(t)
	for name, p := range after {
		p.cpu -= before[name].cpu
		p.took = time.Since(began)
		after[name] = p
	}
	return after
}

// clockTick is the unit of CPU times in /proc.
const clockTick = 10 * time.Millisecond

// usage sums what the parts have used so far.
func (e *env) usage(t *testing.T) map[string]part {
	t.Helper()
	all := map[string]part{}
	e.eachNode(t, func(m *machine.Machine) error {
		out, err := m.Run(t.Context(), "sh", "-c", "for p in /proc/[0-9]*; do echo \"$(cat $p/comm) $(sed 's/.*) //' $p/stat | cut -d' ' -f12,13) $(awk '/VmRSS/ {print $2}' $p/status)\"; done 2>/dev/null")
		for line := range strings.SplitSeq(out, "\n") {
			f := strings.Fields(line)
			if len(f) != 4 || !slices.Contains([]string{"felix", "bgpd", "kube-controller", "kubelet", "containerd", "kube-proxy"}, f[0]) {
				continue
			}
			user, _ := strconv.Atoi(f[1])
			system, _ := strconv.Atoi(f[2])
			rss, _ := strconv.Atoi(f[3])
			p := all[f[0]]
			all[f[0]] = part{processes: p.processes + 1, rss: p.rss + rss, cpu: p.cpu + time.Duration(user+system)*clockTick}
		}
		return err
	})
	return all
}

func reportCost(t *testing.T, rest, churned map[string]part) {
	t.Helper()
	w := table.NewWriter()
	w.AppendHeader(table.Row{"program", "processes", "MiB each, at rest", "CPU each, at rest", "MiB each, busy", "CPU ms a pod"})
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		r, c := rest[name], churned[name]
		each := time.Duration(max(1, r.processes))
		w.AppendRow(table.Row{
			name, r.processes, r.rss / 1024 / max(1, r.processes), fmt.Sprintf("%.2f %%", 100*(r.cpu/each).Seconds()/r.took.Seconds()),
			c.rss / 1024 / max(1, c.processes), fmt.Sprintf("%.1f", float64(c.cpu.Milliseconds())/burst),
		})
	}
	t.Logf("what the programs cost; busy: while %d pods start and end\n%s", burst, w.Render())
}

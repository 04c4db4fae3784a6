package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tortie/tests/e2e/cluster"
)

// holder is somebody who has addresses by the plugin calico-ipam, and nothing else: as
// after an ADD that ended half-way.
type holder struct {
	id, args string
	v4       netip.Addr
	text     string // its addresses, as calicoctl prints them
}

// podArgs are the CNI_ARGS of a pod of the namespace default.
func podArgs(name string) string { return "K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + name }

// holderNetns is a network namespace of node1 for holders.
const holderNetns = "holders"

// hold gives addresses to a container of node1 that doesn't exist.
func (e *env) hold(t *testing.T, name, args string) holder {
	t.Helper()
	id := name + strconv.FormatInt(time.Now().UnixNano(), 36) // an ID that was there before is answered as before
	cmd := e.Machine("node1").Command(t.Context(), "env", "CNI_COMMAND=ADD", "CNI_CONTAINERID="+id, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_NETNS=/var/run/netns/"+holderNetns, "CNI_ARGS=IgnoreUnknown=1;"+args, "/opt/cni/bin/calico-ipam")
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"bridge","ipam":{"type":"calico-ipam","assign_ipv6":"true"}}`)
	out, err := cmd.Output()
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err != nil || json.Unmarshal(out, &result) != nil || len(result.IPs) != 2 {
		t.Fatalf("calico-ipam ADD: %v: %s", err, out)
	}
	return holder{id: id, args: args, v4: result.IPs[0].Address.Addr(), text: fmt.Sprintf("%s, %s", result.IPs[0].Address.Addr(), result.IPs[1].Address.Addr())}
}

// ipam runs calicoctl beside the control plane, where both etcd and Kubernetes can be
// asked, and returns what it printed and its exit status.
func (e *env) ipam(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	ca, cert, key := e.EtcdFiles(false)
	command := append([]string{
		"env", "ETCD_ENDPOINTS=" + e.EtcdEndpoint(), "ETCD_CA_CERT_FILE=" + ca, "ETCD_CERT_FILE=" + cert, "ETCD_KEY_FILE=" + key,
		filepath.Join(e.Config().Source, "bin", "calicoctl"), "ipam",
	}, args...)
	var text bytes.Buffer
	cmd := e.Command(t.Context(), command...)
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return text.String(), cmd.ProcessState.ExitCode()
}

// holds reports whether an address is in use, by what calicoctl says.
func (e *env) holds(t *testing.T, h holder) bool {
	t.Helper()
	out, status := e.ipam(t, "show", "--ip="+h.v4.String())
	if status != 0 {
		t.Fatalf("calicoctl ipam show --ip=%s: %s", h.v4, out)
	}
	return strings.Contains(out, "is in use")
}

// leakGrace has kube-controllers wait that long; 0 switches the collector off.
func (e *env) leakGrace(t *testing.T, d time.Duration) {
	t.Helper()
	e.applyResources(t, fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: {name: default}\nspec: {controllers: {node: {leakGracePeriod: %s}}}\n", d))
}

// leaks: what is nobody's is released, by kube-controllers and by calicoctl, and nothing
// else ever, whatever Kubernetes's API server does meanwhile.
func leaks(t *testing.T, e *env) {
	pods := e.agents(t)
	e.settle(t, pods)
	e.leakGrace(t, 0)
	defer e.leakGrace(t, 15*time.Minute)
	node1 := e.Machine("node1")
	if _, err := node1.Run(t.Context(), "ip", "netns", "add", holderNetns); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := node1.Run(t.Context(), "ip", "netns", "del", holderNetns); err != nil {
			t.Error(err)
		}
	}()
	before := e.held(t)
	kept := e.keepers(t)

	gone := e.hold(t, "gone", podArgs("gone"))
	e.dryRun(t, gone, kept)
	e.collect(t, gone, kept)
	e.fsckAndUndo(t, kept)
	e.collectByItself(t, kept)
	e.apiServerDuringCollection(t, kept)
	e.all(t, kept)
	e.calicoctl(t, "delete", "workloadendpoint", "node1-k8s-behind-eth0", "-n", "default")
	e.kubectl(t, "delete", "pod", "alive")
	for _, h := range kept {
		e.letGo(t, h)
	}
	eventually(t, time.Minute, func() error {
		if now := e.held(t); now != before {
			return fmt.Errorf("%d addresses are taken, want %d as before", now, before)
		}
		return nil
	})
	e.matrix(t, pods)
}

// keepers are holders that must keep what they have, each for a reason of its own.
func (e *env) keepers(t *testing.T) []holder {
	t.Helper()
	e.apply(t, `apiVersion: v1
kind: Pod
metadata: {name: alive}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: pause, image: "tortie-e2e/agent:1", command: [/pause]}]
`)
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/alive", "--timeout=60s")
	kept := []holder{
		e.hold(t, "alive", podArgs("alive")),   // its pod is alive, and the endpoint doesn't have these addresses
		e.hold(t, "behind", podArgs("behind")), // its pod is gone, and an endpoint has one of them
		e.hold(t, "nopod", "K8S_POD_UID=x"),    // it is no pod
	}
	e.applyResources(t, fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node1-k8s-behind-eth0, namespace: default}
spec: {orchestrator: k8s, node: node1, pod: behind, endpoint: eth0, interfaceName: cali00behind, ipNetworks: [%s/32]}
`, kept[1].v4))
	return kept
}

// letGo takes back what hold gave.
func (e *env) letGo(t *testing.T, h holder) {
	t.Helper()
	cmd := e.Machine("node1").Command(t.Context(), "env", "CNI_COMMAND=DEL", "CNI_CONTAINERID="+h.id, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_ARGS=IgnoreUnknown=1;"+h.args, "/opt/cni/bin/calico-ipam")
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"bridge","ipam":{"type":"calico-ipam"}}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("calico-ipam DEL: %v: %s", err, out)
	}
}

// all checks that exactly these have what they were given.
func (e *env) all(t *testing.T, kept []holder, gone ...holder) {
	t.Helper()
	for _, h := range kept {
		if !e.holds(t, h) {
			t.Errorf("%s (%s) was released", h.text, h.args)
		}
	}
	for _, h := range gone {
		if e.holds(t, h) {
			t.Errorf("%s (%s) is still in use", h.text, h.args)
		}
	}
}

// dryRun: it says what would be released and what is kept, and why, and does nothing.
// Without Kubernetes, or with one that doesn't answer, nothing is nobody's.
func (e *env) dryRun(t *testing.T, gone holder, kept []holder) {
	out, status := e.ipam(t, "gc", "--dry-run")
	for _, want := range []string{
		gone.text + ": given out to pod default/gone on node node1, and no endpoint, node or service has it\n  would be released: the pod is gone, and no endpoint has them\n",
		kept[2].text + ": given out to handle k8s-pod-network." + kept[2].id + " on node node1, and no endpoint, node or service has it\n  kept: who has it is no pod",
		"2 addresses would be released, ",
	} {
		if !strings.Contains(out, want) || status != 0 {
			t.Errorf("calicoctl ipam gc --dry-run (exit status %d) lacks %q:\n%s", status, want, out)
		}
	}
	if alive := lineWith(out, []string{"pod default/alive"}); alive != "" && !strings.Contains(out, "kept: the pod exists") {
		t.Errorf("what a living pod has isn't kept:\n%s", out)
	}
	if out, _ := e.ipam(t, "gc", "--dry-run", "--kubeconfig="+filepath.Join(t.TempDir(), "absent")); !strings.Contains(out, "absent") {
		t.Errorf("a kubeconfig that isn't there: %s", out)
	}
	out = e.calicoctl(t, "ipam", "gc", "--dry-run") // in a pod, without a kubeconfig
	if !strings.Contains(out, "0 addresses would be released") || !strings.Contains(out, "kept: whether the pod exists is for Kubernetes to say: give --kubeconfig") {
		t.Errorf("without Kubernetes:\n%s", out)
	}
	e.withoutAPI(t, func() {
		if out, status := e.ipam(t, "gc", "--wait=1s", "--undo-file="+filepath.Join(t.TempDir(), "undo.json")); status == 0 || !strings.Contains(out, "ask Kubernetes") {
			t.Errorf("with the API server away: exit status %d: %s", status, out)
		}
	})
	e.all(t, append(kept, gone))
}

// withoutAPI does something while the API server is away.
func (e *env) withoutAPI(t *testing.T, do func()) {
	t.Helper()
	cp := e.Machine(cluster.ControlPlane)
	if err := cp.StopService(t.Context(), cluster.ServiceAPI, true); err != nil {
		t.Fatal(err)
	}
	do()
	if err := cp.RestartService(t.Context(), cluster.ServiceAPI, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error { _, err := e.Kubectl(t.Context(), "get", "--raw", "/readyz"); return err })
}

// collect: calicoctl ipam gc releases what is nobody's, and can be undone.
func (e *env) collect(t *testing.T, gone holder, kept []holder) {
	undo := filepath.Join(t.TempDir(), "undo.json")
	out, status := e.ipam(t, "gc", "--wait=2s", "--undo-file="+undo)
	if status != 0 || !strings.Contains(out, "1 of 1 problems mended.") {
		t.Errorf("calicoctl ipam gc: exit status %d:\n%s", status, out)
	}
	e.all(t, kept, gone)
	out, _ = e.ipam(t, "show", "--ip="+gone.v4.String(), "--history")
	if line := lineWith(out, []string{"default/gone", "the pod is gone"}); line == "" {
		t.Errorf("the history doesn't say who had it and why it was released:\n%s", out)
	}
	if out, status := e.ipam(t, "fsck", "--undo", undo); status != 0 || !strings.Contains(out, "1 of 1 changes undone.") {
		t.Errorf("undo: exit status %d:\n%s", status, out)
	}
	e.all(t, append(kept, gone))
	// A second gc has to find it again, since it has been given out again.
	if out, status := e.ipam(t, "gc", "--wait=1s", "--undo-file="+undo+"2"); status != 0 {
		t.Errorf("calicoctl ipam gc: exit status %d:\n%s", status, out)
	}
	e.all(t, kept, gone)
}

// fsckAndUndo: a pod whose address was released under it gets it back; undone and done
// again, it is the same.
func (e *env) fsckAndUndo(t *testing.T, kept []holder) {
	pods := e.ready(t, "default", "app=agent", 6, time.Minute)
	victim := holder{v4: pods[0].v4, text: pods[0].v4.String()}
	if out, status := e.ipam(t, "release", "--ip="+victim.text); status == 0 || !strings.Contains(out, "is in use by") {
		t.Errorf("the address of a living pod is released without --force: %s", out)
	}
	if out, status := e.ipam(t, "release", "--ip="+victim.text, "--force"); status != 0 {
		t.Fatal(out)
	}
	for round := range 2 {
		undo := filepath.Join(t.TempDir(), "undo"+strconv.Itoa(round)+".json")
		out, _ := e.ipam(t, "fsck", "--repair", "--wait=1s", "--undo-file="+undo)
		if !strings.Contains(out, "endpoint without an allocated address: ") || !e.holds(t, victim) {
			t.Errorf("fsck --repair doesn't give the pod its address:\n%s", out)
		}
		e.all(t, kept)
		if round == 1 {
			return
		}
		if out, status := e.ipam(t, "fsck", "--undo", undo); status != 0 || e.holds(t, victim) {
			t.Errorf("undo: exit status %d:\n%s", status, out)
		}
	}
}

// collectByItself: kube-controllers releases what is nobody's after the grace period and
// not before, and shows it in its metrics.
func (e *env) collectByItself(t *testing.T, kept []holder) {
	const grace = 15 * time.Second
	e.leakGrace(t, grace)
	gone := e.hold(t, "alone", podArgs("alone"))
	began := time.Now()
	eventually(t, 4*grace, func() error {
		if e.holds(t, gone) {
			return fmt.Errorf("%s is still in use", gone.text)
		}
		return nil
	})
	if after := time.Since(began); after < grace-2*time.Second {
		t.Errorf("released after %v, before the end of the grace period", after)
	} else {
		t.Logf("released after %v of at least %v", after.Round(100*time.Millisecond), grace)
	}
	e.all(t, kept)
	eventually(t, 10*time.Second, func() error {
		metrics := e.controllerMetrics(t)
		for _, want := range []string{
			`ipam_allocations_gc_reclamations{ippool="default-ipv4-ippool",node="node1"} 1`, `ipam_gc_released_total 2`,
			`ipam_allocations_gc_candidates{ippool="default-ipv4-ippool",node="node1"} 0`, `ipam_ippool_size{ippool="default-ipv4-ippool"} 65536`,
		} {
			if !strings.Contains(metrics, want+"\n") {
				return fmt.Errorf("metrics lack %q:\n%s", want, linesWith(metrics, "ipam_"))
			}
		}
		return nil
	})
}

// controllerMetrics are those of the kube-controllers that leads.
func (e *env) controllerMetrics(t *testing.T) string {
	t.Helper()
	name, _, _ := strings.Cut(e.leader(t), "_")
	node := e.kubectl(t, "get", "pod", "-n", "kube-system", name, "-o", "jsonpath={.spec.nodeName}")
	out, err := e.Machine(node).Run(t.Context(), "curl", "-sf", "http://127.0.0.1:9094/metrics")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func linesWith(text, part string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.Contains(line, part) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// apiServerDuringCollection: while the API server is stopped, then frozen so that it
// answers late, nothing is released that it alone could vouch for; afterwards what is
// nobody's is, and nothing else.
func (e *env) apiServerDuringCollection(t *testing.T, kept []holder) {
	const grace = 10 * time.Second
	e.leakGrace(t, grace)
	gone := e.hold(t, "outage", podArgs("outage"))
	e.withoutAPI(t, func() {
		pause(t, 2*grace)
		e.all(t, append(kept, gone))
	})
	eventually(t, 2*time.Minute, func() error {
		if e.holds(t, gone) {
			return fmt.Errorf("%s is still in use though the API server is back", gone.text)
		}
		return nil
	})
	late := e.hold(t, "late", podArgs("late"))
	cp := e.Machine(cluster.ControlPlane)
	services, err := cp.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	signal := func(name string) {
		if _, err := cp.Run(t.Context(), "kill", "-"+name, strconv.Itoa(services[cluster.ServiceAPI])); err != nil {
			t.Fatal(err)
		}
	}
	signal("STOP")
	pause(t, 2*grace)
	e.all(t, append(kept, late))
	signal("CONT")
	eventually(t, 2*time.Minute, func() error {
		if e.holds(t, late) {
			return fmt.Errorf("%s is still in use though the API server answers", late.text)
		}
		return nil
	})
	e.all(t, kept, gone, late)
}

// fullPool: when a pool is full, the pod that got nothing says why, and everybody who
// should know has been warned.
func fullPool(t *testing.T, e *env) {
	pods := e.agents(t)
	e.applyResources(t, "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: tiny}\nspec: {cidr: 10.70.0.0/29, blockSize: 30}\n")
	defer func() { e.calicoctl(t, "delete", "ippool", "tiny") }()
	e.apply(t, `apiVersion: apps/v1
kind: Deployment
metadata: {name: full}
spec:
  replicas: 9
  selector: {matchLabels: {app: full}}
  template:
    metadata: {labels: {app: full}, annotations: {cni.projectcalico.org/ipv4pools: '["tiny"]'}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: pause, image: "tortie-e2e/agent:1", command: [/pause]}]
`)
	defer func() {
		e.kubectl(t, "delete", "deploy", "full", "--cascade=foreground", "--timeout=60s")
		eventually(t, 30*time.Second, func() error {
			if out, _ := e.ipam(t, "show", "--show-blocks"); lineWith(out, []string{"10.70.0.0/29", " 0 (0%)"}) == "" {
				return fmt.Errorf("addresses of the pool are still in use:\n%s", out)
			}
			return nil
		})
	}()
	for what, find := range map[string]struct {
		args  []string
		parts []string
	}{
		"the pod's Event": {[]string{"get", "events", "--field-selector", "reason=FailedCreatePodSandBox"}, []string{
			"no free address: tiny (10.70.0.0/29): the node has ", "not among the requested pools tiny", "of at most 20 IPv4 blocks", "Add a pool (kind: IPPool, calicoctl apply)",
		}},
		"a Node's Event": {[]string{"get", "events", "--field-selector", "reason=AddressesRunOut,involvedObject.kind=Node"}, []string{
			"IP pool tiny (10.70.0.0/29): nodes have 2 of its 2 blocks: add a pool",
		}},
		"kube-controllers' log": {[]string{"logs", "-n", "kube-system", "-l", "k8s-app=calico-kube-controllers", "--tail=-1"}, []string{
			"an IP pool is nearly full", "pool=tiny cidr=10.70.0.0/29 blocks=2 of=2",
		}},
	} {
		eventually(t, time.Minute, func() error {
			out, err := e.Kubectl(t.Context(), find.args...)
			if err == nil && lineWith(out, find.parts) == "" {
				err = fmt.Errorf("%s: no line with all of %q:\n%s", what, find.parts, tail(out, 5))
			}
			return err
		})
	}
	if metrics := e.controllerMetrics(t); !strings.Contains(metrics, `ipam_ippool_nearly_full{ippool="tiny"} 1`) {
		t.Errorf("metrics:\n%s", linesWith(metrics, "tiny"))
	}
	if running := e.kubectl(t, "get", "pods", "-l", "app=full", "--field-selector", "status.phase=Running", "-o", "name"); strings.Count(running, "\n") != 8 {
		t.Errorf("of 9 pods for 8 addresses these run:\n%s", running)
	}
	e.matrix(t, pods)
}

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/tests/e2e/cluster"
	"tortie/tests/e2e/machine"
)

// mirrored: what Kubernetes says stands in the datastore, as upstream writes it.
func mirrored(t *testing.T, e *env) {
	pods := e.agents(t)
	p := pods[0]
	e.kubectl(t, "label", "pod", p.name, "--overwrite", "colour=red")
	e.kubectl(t, "label", "namespace", "default", "--overwrite", "team=cats")
	e.kubectl(t, "label", "node", p.node, "--overwrite", "rack=r7")
	e.apply(t, `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-red, namespace: default}
spec:
  podSelector: {matchLabels: {app: nobody}}
  ingress: [{from: [{podSelector: {matchLabels: {colour: red}}}]}]
`)
	for _, want := range []struct {
		get  []string
		text []string
	}{
		{[]string{"get", "workloadendpoints", "-o", "yaml"}, []string{
			"colour: red", "projectcalico.org/serviceaccount: default", "projectcalico.org/orchestrator: k8s",
			"- kns.default", "- ksa.default.default", "pod: " + p.name, "name: probe",
		}},
		{[]string{"get", "profile", "kns.default", "-o", "yaml"}, []string{"pcns.team: cats"}},
		{[]string{"get", "profile", "ksa.default.default", "-o", "yaml"}, []string{"pcsa."}},
		{[]string{"get", "node", p.node, "-o", "yaml"}, []string{"rack: r7", "kubernetes.io/hostname: " + p.node}},
		{[]string{"get", "networkpolicy", "knp.default.only-red", "-o", "yaml"}, []string{"colour == 'red'"}},
	} {
		eventually(t, 15*time.Second, func() error {
			out := e.calicoctl(t, want.get...)
			for _, text := range want.text {
				if !strings.Contains(out, text) {
					return fmt.Errorf("calicoctl %s lacks %q:\n%s", strings.Join(want.get, " "), text, out)
				}
			}
			return nil
		})
	}
	// A policy that is stored and not enforced is a trap, unless everybody is told.
	e.eachNode(t, func(m *machine.Machine) error {
		return cluster.Until(t.Context(), 30*time.Second, func() error {
			out, err := e.Kubectl(t.Context(), "describe", "node", m.Spec.Name)
			if err == nil && lineWith(out, []string{"PoliciesNotEnforced"}) == "" {
				err = fmt.Errorf("no Event of %s says that policies are not enforced", m.Spec.Name)
			}
			return err
		})
	})
	e.kubectl(t, "delete", "networkpolicy", "only-red")
	eventually(t, 15*time.Second, func() error {
		if out := e.calicoctl(t, "get", "networkpolicies", "-A"); strings.Contains(out, "only-red") {
			return fmt.Errorf("the policy is still there: %s", out)
		}
		return nil
	})
}

// held is how many addresses IPAM says are taken.
func (e *env) held(t *testing.T) (count int) {
	t.Helper()
	out := e.calicoctl(t, "ipam", "show")
	pools := 0
	for line := range strings.SplitSeq(out, "\n") {
		columns := strings.Split(line, "|")
		if len(columns) < 5 || strings.TrimSpace(columns[1]) != "IP Pool" {
			continue
		}
		used := 0
		if _, err := fmt.Sscanf(strings.TrimSpace(columns[4]), "%d", &used); err != nil {
			t.Fatalf("calicoctl ipam show: %v in %q", err, line)
		}
		count, pools = count+used, pools+1
	}
	if pools != 2 {
		t.Fatalf("calicoctl ipam show doesn't show the two pools:\n%s", out)
	}
	return count
}

// churn: 200 pods have 200 addresses of each family; none is left when they are
// gone.
func churn(t *testing.T, e *env) {
	const count = 200
	before, devices := e.held(t), e.devices(t)
	e.kubectl(t, "create", "namespace", "churn")
	e.apply(t, fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: churn}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: pause, image: "tortie-e2e/agent:1", command: [/pause]}]
`, count))
	began := time.Now()
	pods := e.ready(t, "churn", "app=many", count, 10*time.Minute)
	t.Logf("%d pods ready in %v", count, time.Since(began).Round(100*time.Millisecond))
	seen := map[netip.Addr]string{}
	for _, p := range pods {
		for _, a := range []netip.Addr{p.v4, p.v6} {
			if other, taken := seen[a]; taken || !a.IsValid() {
				t.Errorf("%s has %v, which is that of %q, too", p.name, a, other)
			}
			seen[a] = p.name
		}
	}
	if got := e.held(t); got != before+2*count {
		t.Errorf("%d addresses are taken, want %d", got, before+2*count)
	}
	began = time.Now()
	e.kubectl(t, "delete", "namespace", "churn", "--timeout=10m")
	t.Logf("deleted in %v", time.Since(began).Round(100*time.Millisecond))
	eventually(t, 30*time.Second, func() error {
		if got := e.held(t); got != before {
			return fmt.Errorf("%d addresses are taken, want %d as before", got, before)
		}
		if got := e.devices(t); got != devices {
			return fmt.Errorf("the nodes have %d pods' devices, want %d as before", got, devices)
		}
		return nil
	})
}

// devices counts the pods' devices on all nodes.
func (e *env) devices(t *testing.T) (count int) {
	t.Helper()
	e.eachNode(t, func(m *machine.Machine) error {
		out, err := m.Run(t.Context(), "ip", "-o", "link", "show", "type", "veth")
		count += strings.Count(out, ": cali")
		return err
	})
	return count
}

// rollingUpdate: every felix and bgpd is replaced while pods talk.
func rollingUpdate(t *testing.T, e *env) {
	pods := e.agents(t)
	e.settle(t, pods)
	s := e.stream(t, pods)
	e.kubectl(t, "rollout", "restart", "-n", "kube-system", "ds/calico-node")
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "ds/calico-node", "--timeout=180s")
	s.stop(t)
	e.matrix(t, pods)
}

// runtimeRestarts: the kubelet and containerd are killed and come back, under
// traffic; pods live on, and new ones come up.
func runtimeRestarts(t *testing.T, e *env) {
	pods := e.agents(t)
	e.settle(t, pods)
	s := e.stream(t, pods)
	e.eachNode(t, func(m *machine.Machine) error {
		for _, service := range []string{cluster.ServiceContainerd, cluster.ServiceKubelet} {
			if err := m.RestartService(t.Context(), service, true); err != nil {
				return err
			}
		}
		return nil
	})
	e.kubectl(t, "rollout", "restart", "deploy/coredns", "-n", "kube-system")
	e.kubectl(t, "rollout", "status", "deploy/coredns", "-n", "kube-system", "--timeout=120s")
	s.stop(t)
	after := e.agents(t)
	for i := range pods {
		if after[i] != pods[i] {
			t.Errorf("pod %+v became %+v", pods[i], after[i])
		}
	}
	e.matrix(t, pods)
}

// failover: the leader of kube-controllers is killed; the other one goes on.
func failover(t *testing.T, e *env) {
	pods := e.agents(t)
	old := e.leader(t)
	e.killContainer(t, strings.SplitN(old, "_", 2)[0], "calico-kube-controllers")
	e.kubectl(t, "label", "pod", pods[0].name, "--overwrite", "colour=green")
	began := time.Now()
	eventually(t, 45*time.Second, func() error {
		if now := e.leader(t); now == old {
			return fmt.Errorf("%s still holds the lease", now)
		}
		if out := e.calicoctl(t, "get", "workloadendpoints", "-o", "yaml"); !strings.Contains(out, "colour: green") {
			return fmt.Errorf("%s has the lease, and the new label is not known", e.leader(t))
		}
		return nil
	})
	t.Logf("%s has taken over from %s, killed, within %v", e.leader(t), old, time.Since(began).Round(100*time.Millisecond))
	// One that ends in order hands over at once.
	old = e.leader(t)
	e.kubectl(t, "delete", "pod", "-n", "kube-system", strings.SplitN(old, "_", 2)[0])
	began = time.Now()
	eventually(t, 10*time.Second, func() error {
		if now := e.leader(t); now == old || now == "" {
			return fmt.Errorf("%q holds the lease", now)
		}
		return nil
	})
	t.Logf("%s has taken over from %s, deleted, within %v", e.leader(t), old, time.Since(began).Round(100*time.Millisecond))
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "deploy/calico-kube-controllers", "--timeout=120s")
}

// leader is who holds the lease of kube-controllers.
func (e *env) leader(t *testing.T) string {
	t.Helper()
	lease, err := e.client.CoordinationV1().Leases("kube-system").Get(t.Context(), "tortie-kube-controllers", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// killContainer kills a container's process with SIGKILL.
func (e *env) killContainer(t *testing.T, pod, container string) {
	t.Helper()
	p, err := e.client.CoreV1().Pods("kube-system").Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == container {
			id := strings.TrimPrefix(c.ContainerID, "containerd://")
			if _, err := e.Machine(p.Spec.NodeName).Run(t.Context(), "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("pod %s has no container %s", pod, container)
}

// away is how long servers are away.
const away = time.Minute

// apiServerAway: pods talk on, and everything goes on afterwards.
func apiServerAway(t *testing.T, e *env) {
	pods := e.agents(t)
	e.settle(t, pods)
	cp := e.Machine(cluster.ControlPlane)
	s := e.stream(t, pods)
	if err := cp.StopService(t.Context(), cluster.ServiceAPI, true); err != nil {
		t.Fatal(err)
	}
	pause(t, away)
	if err := cp.RestartService(t.Context(), cluster.ServiceAPI, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error { _, err := e.Kubectl(t.Context(), "get", "--raw", "/readyz"); return err })
	s.stop(t)
	e.kubectl(t, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
	after := e.ready(t, "default", "app=agent", 6, time.Minute)
	e.matrix(t, after)
	// After so long an absence kubelet waits up to a minute before it asks for pods again.
	e.makePod(t, "after-api")
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/after-api", "--timeout=150s")
	e.kubectl(t, "delete", "pod", "after-api")
}

// etcdAway: pods talk on; a pod that is made meanwhile starts when it is back, one
// that is deleted is gone at once.
func etcdAway(t *testing.T, e *env) {
	pods := e.agents(t)
	e.settle(t, pods)
	before := e.held(t)
	e.newPod(t, "before-etcd")
	cp := e.Machine(cluster.ControlPlane)
	s := e.stream(t, pods)
	if err := cp.StopService(t.Context(), cluster.ServiceEtcd, true); err != nil {
		t.Fatal(err)
	}
	e.kubectl(t, "delete", "pod", "before-etcd", "--timeout=30s")
	e.makePod(t, "during-etcd")
	pause(t, away)
	if err := cp.RestartService(t.Context(), cluster.ServiceEtcd, false); err != nil {
		t.Fatal(err)
	}
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/during-etcd", "--timeout=120s")
	s.stop(t)
	e.matrix(t, pods)
	e.kubectl(t, "delete", "pod", "during-etcd")
	eventually(t, 30*time.Second, func() error {
		if got := e.held(t); got != before {
			return fmt.Errorf("%d addresses are taken, want %d as before", got, before)
		}
		return nil
	})
}

// pause is the length of an outage, which is what these steps are about.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

func (e *env) makePod(t *testing.T, name string) {
	t.Helper()
	e.apply(t, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: pause, image: "tortie-e2e/agent:1", command: [/pause]}]
`, name))
}

func (e *env) newPod(t *testing.T, name string) {
	t.Helper()
	e.makePod(t, name)
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
}

// nodeLost: a node without power is deleted from Kubernetes: what was its goes; it
// comes back as a new one.
func nodeLost(t *testing.T, e *env) {
	e.agents(t)
	lost := e.Machine("node3")
	if err := lost.Down(); err != nil {
		t.Fatal(err)
	}
	e.kubectl(t, "wait", "--for=condition=Ready=Unknown", "node/node3", "--timeout=90s")
	// The rest goes on without it.
	e.newPod(t, "without-node3")
	e.kubectl(t, "delete", "pod", "without-node3")
	e.kubectl(t, "delete", "node", "node3")
	began := time.Now()
	eventually(t, 2*time.Minute, func() error {
		if out := e.calicoctl(t, "get", "nodes"); strings.Contains(out, "node3") {
			return fmt.Errorf("node3 is still a Node:\n%s", out)
		}
		if out := e.calicoctl(t, "ipam", "show", "--show-blocks"); strings.Contains(out, "node3") {
			return fmt.Errorf("node3 still has blocks:\n%s", out)
		}
		out, err := e.Machine("node1").Run(t.Context(), "ip", "route", "show", "proto", "81")
		if err == nil && strings.Contains(out, cluster.NodeHost(3).V4.Addr().String()) {
			err = fmt.Errorf("node1 still has routes to node3: %s", out)
		}
		return err
	})
	t.Logf("all of node3 was gone after %v", time.Since(began).Round(100*time.Millisecond))
	if _, err := e.StartNode(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := e.LoadImagesWhenUp(t.Context(), "node3"); err != nil {
		t.Fatal(err)
	}
	e.kubectl(t, "wait", "--for=create", "node/node3", "--timeout=60s")
	e.kubectl(t, "wait", "--for=condition=Ready", "node/node3", "--timeout=60s")
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "ds/calico-node", "--timeout=120s")
	e.kubectl(t, "rollout", "restart", "deploy/agent")
	e.kubectl(t, "rollout", "status", "deploy/agent", "--timeout=120s")
	pods := e.ready(t, "default", "app=agent", 6, time.Minute)
	e.settle(t, pods)
	e.matrix(t, pods)
}

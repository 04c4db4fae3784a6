package e2e

import (
	"strings"
	"testing"
	"time"

	"tortie/tests/e2e/cluster"
)

// TestTrial is the README's first way, word for word, in its variant with tunnels:
// an etcd of its own, and a network that knows nothing of pods.
func TestTrial(t *testing.T) {
	e := start(t, "test-trial")
	e.tunnels = true
	t.Cleanup(func() {
		if t.Failed() {
			e.explain(t)
		}
	})
	began := time.Now()
	e.kubectl(t, "apply", "-k", "manifests/overlays/trial-etcd-vxlan")
	e.kubectl(t, "-n", "kube-system", "rollout", "status", "daemonset/calico-node", "--timeout=180s")
	e.kubectl(t, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
	t.Logf("installed in %v", time.Since(began).Round(100*time.Millisecond))
	pods := e.agents(t)
	e.settle(t, pods)
	e.matrix(t, pods)
	e.localhost(t, pods)
	for _, n := range e.Nodes() {
		out, err := n.Run(t.Context(), "ip", "route", "show", "dev", "vxlan.calico")
		if err != nil || strings.Count(out, "/26 ") < len(e.Nodes())-1 {
			t.Errorf("%s does not send to the other nodes through the tunnel: %v\n%s", n.Spec.Name, err, out)
		}
	}
	if out, err := e.Machine(cluster.Router).Run(t.Context(), "birdc", "-s", "/run/bird/bird.ctl", "show", "route"); err != nil || strings.Contains(out, "10.244.") {
		t.Errorf("the router knows of pods: %v\n%s", err, out)
	}
	s := e.stream(t, pods)
	e.kubectl(t, "rollout", "restart", "-n", "kube-system", "daemonset/calico-node")
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "daemonset/calico-node", "--timeout=180s")
	s.stop(t)
}

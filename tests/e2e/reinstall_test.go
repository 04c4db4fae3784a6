package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/tests/e2e/machine"
)

// reinstall takes everything away as manifests/DESIGN.md says, looks at what is
// left on the nodes, and installs again: pods that ran all the while are there
// again as they were.
func reinstall(t *testing.T, e *env) {
	pods := e.agents(t)
	e.apply(t, "services.yaml")
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/local", "pod/hostnet", "--timeout=60s")
	e.nothingMended(t)
	overlay := e.overlay(t, "external-etcd", e.EtcdEndpoint())
	e.kubectl(t, "delete", "-k", overlay, "--timeout=120s")
	e.kubectl(t, "apply", "-k", "manifests/uninstall")
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "ds/calico-uninstall", "--timeout=120s")
	e.kubectl(t, "delete", "-k", "manifests/uninstall", "--timeout=60s")
	for _, m := range e.Nodes() {
		for _, left := range e.leftovers(t, m) {
			t.Errorf("%s: %s is left", m.Spec.Name, left)
		}
	}
	e.install(t)
	if again := e.ready(t, "default", "app=agent", 6, time.Minute); fmt.Sprint(again) != fmt.Sprint(pods) {
		t.Errorf("pods\n%v became\n%v", pods, again)
	}
	e.settle(t, pods)
	e.matrix(t, pods)
	services(t, e) // host ports, too, of a pod that ran all the while
}

// nothingMended: nobody has changed what felix keeps in the kernel, so it must not take
// anything there for changed.
func (e *env) nothingMended(t *testing.T) {
	t.Helper()
	log := e.kubectl(t, "logs", "-n", "kube-system", "-l", "k8s-app=calico-node", "-c", "felix", "--tail=-1", "--prefix")
	for line := range strings.SplitSeq(log, "\n") {
		if strings.Contains(line, "mended") {
			t.Errorf("felix: %s", line)
		}
	}
}

// leftovers is what a node still has of ours, but for the devices of pods that run
// and the routes to them.
func (e *env) leftovers(t *testing.T, m *machine.Machine) (left []string) {
	t.Helper()
	for _, path := range []string{"/etc/cni/net.d/*", "/opt/cni/bin/*", "/var/lib/calico", "/run/calico"} {
		found, err := filepath.Glob(m.Path(path))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			left = append(left, strings.TrimPrefix(f, m.Path("/")))
		}
	}
	running, err := e.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]bool{}
	for _, p := range running.Items {
		for _, ip := range p.Status.PodIPs {
			own[ip.IP] = true
		}
	}
	for _, args := range [][]string{{"ip", "route"}, {"ip", "-6", "route"}} {
		for _, protocol := range []string{"80", "81"} {
			out, err := m.Run(t.Context(), append(args, "show", "proto", protocol)...)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
				if f := strings.Fields(line); len(f) > 0 && !own[f[0]] {
					left = append(left, line)
				}
			}
		}
	}
	if out, err := m.Run(t.Context(), "nft", "list", "tables"); err != nil || strings.Contains(out, "tortie") {
		left = append(left, "nft: "+out)
	}
	return left
}

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/tests/e2e/cluster"
	"tortie/tests/e2e/machine"
	"tortie/tests/lab/agentwire"
)

// errors makes an error out of what was wrong.
func errors(wrong []string) error { return fmt.Errorf("%s", strings.Join(wrong, "; ")) }

// services checks every kind of service from pods, nodes and outside.
func services(t *testing.T, e *env) {
	pods := e.agents(t)
	e.apply(t, "services.yaml")
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/local", "pod/hostnet", "--timeout=60s")
	eventually(t, 20*time.Second, func() error {
		wrong := e.serviceProblems(t, pods)
		if len(wrong) > 0 {
			return errors(wrong)
		}
		return nil
	})
	e.names(t, pods)
}

// serviceProblems is what is wrong with the services.
func (e *env) serviceProblems(t *testing.T, pods []pod) (wrong []string) {
	t.Helper()
	local := e.onePod(t, "local")
	for _, v6 := range e.families() {
		cluster4 := e.clusterIP(t, "agent", v6)
		for _, p := range pods {
			// Whoever answers sees the pod itself, unless it is the pod itself.
			all := both("service agent", netip.AddrPortFrom(cluster4, 80), "", netip.Addr{})
			all = append(all, both("host port", netip.AddrPortFrom(hostAddr(cluster.NodeHost(1), v6), 8946), "local", p.addr(v6))...)
			all = append(all, both("pod in the node's network", netip.AddrPortFrom(hostAddr(cluster.NodeHost(2), v6), 7950), "hostnet", p.addr(v6))...)
			wrong = append(wrong, probe(p.name, e.fromPod(t, p), all)...)
		}
		outside := hostAddr(cluster.OutsideHost(), v6)
		for n := 1; n <= e.Config().Nodes; n++ {
			node := hostAddr(cluster.NodeHost(n), v6)
			wrong = append(wrong, probe(cluster.NodeHost(n).Name, e.fromHost(t, cluster.NodeHost(n).Name),
				both("service agent", netip.AddrPortFrom(cluster4, 80), "", netip.Addr{}))...)
			by, seen := "-", netip.Addr{}
			if local.node == cluster.NodeHost(n).Name {
				by, seen = "local", outside // externalTrafficPolicy: Local keeps the source
			}
			all := both(fmt.Sprintf("node port of node%d", n), netip.AddrPortFrom(node, 30080), "", netip.Addr{})
			all = append(all, both(fmt.Sprintf("node port of node%d, policy Local", n), netip.AddrPortFrom(node, 30081), by, seen)...)
			wrong = append(wrong, probe(cluster.Outside, e.fromHost(t, cluster.Outside), all)...)
		}
		all := both("host port of node1", netip.AddrPortFrom(hostAddr(cluster.NodeHost(1), v6), 8946), "local", outside)
		wrong = append(wrong, probe(cluster.Outside, e.fromHost(t, cluster.Outside), all)...)
		wrong = append(wrong, e.sourceKept(t, pods, cluster4, v6)...)
	}
	if !e.Config().Families.Have(false) {
		return wrong
	}
	// From the node itself, a hostPort is a port like any other.
	loopback := both("host port of 127.0.0.1", netip.MustParseAddrPort("127.0.0.1:8946"), "local", netip.Addr{})
	wrong = append(wrong, probe(cluster.NodeHost(1).Name, e.fromHost(t, cluster.NodeHost(1).Name), loopback)...)
	return wrong
}

// sourceKept: a service's pod sees the pod that called, not the node.
func (e *env) sourceKept(t *testing.T, pods []pod, service netip.Addr, v6 bool) (wrong []string) {
	t.Helper()
	for _, p := range pods {
		var req agentwire.Request
		for range 12 {
			req.Probes = append(req.Probes, agentwire.Probe{Network: "tcp", Target: netip.AddrPortFrom(service, 80), Timeout: probeTimeout})
		}
		resp, err := e.askPod(t.Context(), p, p.name, req)
		if err != nil {
			return []string{err.Error()}
		}
		answered := map[string]bool{}
		for _, r := range resp.Results {
			answered[r.By] = true
			if r.By != p.name && r.Seen != p.addr(v6) {
				wrong = append(wrong, fmt.Sprintf("%s → service (%v): %s saw %v instead of %v %s", p.name, service, r.By, r.Seen, p.addr(v6), r.Err))
			}
		}
		if len(answered) < 2 {
			wrong = append(wrong, fmt.Sprintf("%s → service (%v): all of 12 connections went to %v", p.name, service, answered))
		}
	}
	return wrong
}

// names resolves them with CoreDNS, from pods on every node.
func (e *env) names(t *testing.T, pods []pod) {
	t.Helper()
	var own, service []netip.Addr
	for _, v6 := range e.families() {
		service = append(service, e.clusterIP(t, "agent", v6))
		for _, p := range pods {
			own = append(own, p.addr(v6))
		}
	}
	slices.SortFunc(own, netip.Addr.Compare)
	for _, p := range pods {
		for name, want := range map[string][]netip.Addr{
			"agent":                              service,
			"headless.default.svc.cluster.local": own,
		} {
			resp, err := e.askPod(t.Context(), p, p.name, agentwire.Request{Lookup: name})
			if err != nil {
				t.Errorf("%s looks %s up: %v", p.name, name, err)
				continue
			}
			slices.SortFunc(resp.Addresses, netip.Addr.Compare)
			if !slices.Equal(resp.Addresses, want) {
				t.Errorf("%s looks %s up: %v, want %v", p.name, name, resp.Addresses, want)
			}
		}
	}
}

func (e *env) clusterIP(t *testing.T, name string, v6 bool) netip.Addr {
	t.Helper()
	s, err := e.client.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a := netip.MustParseAddr(ip); a.Is6() == v6 {
			return a
		}
	}
	t.Fatalf("service %s has no address of that family: %v", name, s.Spec.ClusterIPs)
	return netip.Addr{}
}

func (e *env) onePod(t *testing.T, name string) pod {
	t.Helper()
	p, err := e.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod{name: p.Name, node: p.Spec.NodeName}
}

// announced: a host outside reaches services by addresses that the nodes announce
// to the router; with externalTrafficPolicy: Local only the node with the pod does,
// and the pod sees who called.
func announced(t *testing.T, e *env) {
	e.agents(t)
	e.apply(t, "services.yaml")
	e.kubectl(t, "wait", "--for=condition=Ready", "pod/local", "--timeout=60s")
	e.apply(t, "external.yaml")
	e.applyResources(t, `apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceExternalIPs: [{cidr: 203.0.113.0/24}]}
`)
	anyNode, one := netip.MustParseAddr("203.0.113.11"), netip.MustParseAddr("203.0.113.10")
	eventually(t, 20*time.Second, func() error {
		all := both("external address", netip.AddrPortFrom(anyNode, 80), "", netip.Addr{})
		all = append(all, both("external address, policy Local", netip.AddrPortFrom(one, 80), "local", hostAddr(cluster.OutsideHost(), false))...)
		if wrong := probe(cluster.Outside, e.fromHost(t, cluster.Outside), all); len(wrong) > 0 {
			return errors(wrong)
		}
		return e.routerHears(t, one.String()+"/32", 1)
	})
	if err := e.routerHears(t, "203.0.113.0/24", 3); err != nil {
		t.Error(err)
	}
	e.kubectl(t, "delete", "-f", "tests/e2e/testdata/external.yaml")
	eventually(t, 20*time.Second, func() error { return e.routerHears(t, one.String()+"/32", 0) })
	e.calicoctl(t, "delete", "bgpconfiguration", "default")
}

// routerHears checks from how many nodes the router has a route.
func (e *env) routerHears(t *testing.T, prefix string, nodes int) error {
	t.Helper()
	out, err := e.Machine(cluster.Router).Run(t.Context(), "birdc", "-s", "/run/bird/bird.ctl", "show", "route", prefix)
	if got := strings.Count(out, "[AS"); err == nil && got != nodes {
		err = fmt.Errorf("the router hears of %s from %d nodes, want %d:\n%s", prefix, got, nodes, out)
	}
	if nodes == 0 && strings.Contains(out, "not found") {
		return nil
	}
	return err
}

// servicesWithIptables is services with kube-proxy in its other mode.
func servicesWithIptables(t *testing.T, e *env) {
	e.setProxyMode(t, "iptables")
	services(t, e)
	e.setProxyMode(t, "nftables")
	services(t, e)
}

func (e *env) setProxyMode(t *testing.T, mode string) {
	t.Helper()
	e.eachNode(t, func(m *machine.Machine) error {
		if err := m.StopService(t.Context(), cluster.ServiceProxy, false); err != nil {
			return err
		}
		if _, err := m.Run(t.Context(), "kube-proxy", "--config="+cluster.ProxyConfigFile, "--cleanup"); err != nil {
			return err
		}
		if err := os.WriteFile(m.Path(cluster.ProxyConfigFile), []byte(e.Config().Families.ProxyConfig(m.Spec.Name, mode)), 0o600); err != nil {
			return err
		}
		return m.RestartService(t.Context(), cluster.ServiceProxy, false)
	})
}

// staticPods: the API server has only an image of such a pod, under another UID.
func staticPods(t *testing.T, e *env) {
	const manifest = `apiVersion: v1
kind: Pod
metadata: {name: static, namespace: default, labels: {app: static}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: agent
      image: tortie-e2e/agent:1
      args: [serve, -name, static, -control, /run/e2e/static, -port, "7946"]
      volumeMounts: [{name: control, mountPath: /run/e2e}]
  volumes: [{name: control, hostPath: {path: /run/e2e, type: DirectoryOrCreate}}]
`
	const file = "/etc/kubernetes/manifests/static.yaml"
	node := e.Machine("node2")
	if err := os.WriteFile(node.Path(file), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	static := e.ready(t, "default", "app=static", 1, time.Minute)[0]
	pods := e.agents(t)
	e.settle(t, pods)
	for _, p := range pods {
		for _, v6 := range []bool{false, true} {
			check(t, p.name, e.fromPod(t, p), both("static pod", netip.AddrPortFrom(static.addr(v6), agentwire.Port), "static", p.addr(v6)))
		}
	}
	if err := os.Remove(node.Path(file)); err != nil {
		t.Fatal(err)
	}
	e.ready(t, "default", "app=static", 0, time.Minute)
}

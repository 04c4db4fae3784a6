package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tortie/tests/e2e/cluster"
	"tortie/tests/lab/agentwire"
)

// allowed are the pools, and the permits, of what the pods ask for.
const allowed = `apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {floatingIPs: Enabled, workloadSourceSpoofing: Any}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: gold}
spec: {cidr: 10.98.0.0/24, blockSize: 28}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: gold-v6}
spec: {cidr: "fd98::/112", blockSize: 124}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: floating}
spec: {cidr: 10.66.250.0/24, disabled: true}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: floating-v6}
spec: {cidr: "fd66:250::/112", disabled: true}
`

// goldenNamespace asks for its pods.
const goldenNamespace = `apiVersion: v1
kind: Namespace
metadata:
  name: golden
  annotations: {cni.projectcalico.org/ipv4pools: '["gold"]', cni.projectcalico.org/ipv6pools: '["gold-v6"]'}
`

// asked: what pods ask for by their annotations, and a namespace for its pods, is seen in
// the pod, on its node, or from outside.
func asked(t *testing.T, e *env) {
	pods := e.agents(t)
	e.settle(t, pods)
	e.applyResources(t, allowed)
	e.reconfigure(t, e.permissive(t))
	t.Run("pools", e.askedPools)
	t.Run("addresses", e.askedAddresses)
	t.Run("addresses of nobody", e.askedUnassigned)
	t.Run("floating addresses", func(t *testing.T) { e.askedFloating(t, pods) })
	t.Run("further sources", e.askedSources)
	t.Run("limits", e.askedLimits)
	t.Run("of the runtime alone", e.askedOfRuntime)
	if events := e.kubectl(t, "get", "events", "-A"); strings.Contains(events, "AnnotationsUnheeded") {
		t.Errorf("what pods asked for came too late:\n%s", events)
	}
	e.calicoctl(t, "delete", "felixconfiguration", "default")
	e.calicoctl(t, "delete", "ippool", "gold", "gold-v6", "floating", "floating-v6")
	e.reconfigure(t, e.overlay(t, "external-etcd", e.EtcdEndpoint()))
	e.matrix(t, pods)
}

// permissive is the overlay with a network configuration by which pods may ask for all.
func (e *env) permissive(t *testing.T) (overlay string) {
	t.Helper()
	overlay = e.overlay(t, "external-etcd", e.EtcdEndpoint())
	edit(t, filepath.Join(overlay, "../../components/dual-stack/10-calico.conflist"), func(s string) string {
		return strings.Replace(s, `"policy":`, `"feature_control": {"ip_addrs_no_ipam": true, "floating_ips": true}, "policy":`, 1)
	})
	return overlay
}

// reconfigure applies an overlay and has every node read it.
func (e *env) reconfigure(t *testing.T, overlay string) {
	t.Helper()
	e.kubectl(t, "apply", "-k", overlay)
	e.kubectl(t, "rollout", "restart", "-n", "kube-system", "ds/calico-node")
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "ds/calico-node", "--timeout=120s")
}

// asking is a pod of node1 with annotations; it goes when the test ends.
func (e *env) asking(t *testing.T, namespace, name string, annotations map[string]string) pod {
	t.Helper()
	text, err := json.Marshal(annotations)
	if err != nil {
		t.Fatal(err)
	}
	e.apply(t, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {asks: %[2]s}, annotations: %[3]s}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
    - name: agent
      image: tortie-e2e/agent:1
      args: [serve, -name, %[2]s, -control, /run/e2e/%[2]s, -port, "7946"]
      volumeMounts: [{name: control, mountPath: /run/e2e}]
  volumes:
    - {name: control, hostPath: {path: /run/e2e, type: DirectoryOrCreate}}
`, namespace, name, text))
	t.Cleanup(func() { e.remove(t, "pod", "-n", namespace, name) })
	return e.ready(t, namespace, "asks="+name, 1, time.Minute)[0]
}

// node1 runs a program on it, which has to succeed.
func (e *env) node1(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.Machine("node1").Run(t.Context(), args...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

// device is the node's end of a pod of node1; inside is how a program is run in the pod's
// namespace.
func (e *env) device(t *testing.T, p pod) (device string, inside []string) {
	t.Helper()
	var routes []struct{ Dev string }
	if err := json.Unmarshal([]byte(e.node1(t, "ip", "-j", "route", "show", p.v4.String())), &routes); err != nil || len(routes) != 1 {
		t.Fatalf("the route to %s: %v, %v", p.name, routes, err)
	}
	link := e.node1(t, "ip", "-o", "link", "show", "dev", routes[0].Dev)
	_, namespace, ok := strings.Cut(link, "link-netns ") // which -j leaves out
	if !ok {
		t.Fatalf("the device of %s has no end in a namespace with a name: %s", p.name, link)
	}
	return routes[0].Dev, []string{"ip", "netns", "exec", strings.Fields(namespace)[0]}
}

// gold reports whether a pod's addresses are of the pools gold and gold-v6.
func gold(p pod) bool {
	return netip.MustParsePrefix("10.98.0.0/24").Contains(p.v4) && netip.MustParsePrefix("fd98::/112").Contains(p.v6)
}

func (e *env) askedPools(t *testing.T) {
	asks := map[string]string{"cni.projectcalico.org/ipv4pools": `["gold"]`, "cni.projectcalico.org/ipv6pools": `["fd98::/112"]`}
	if p := e.asking(t, "default", "of-pools", asks); !gold(p) {
		t.Errorf("asks for pools, and has %s, %s", p.v4, p.v6)
	}
	e.apply(t, goldenNamespace)
	t.Cleanup(func() { e.remove(t, "namespace", "golden") })
	eventually(t, 30*time.Second, func() error { // until the namespace has its service account, without which it can have no pod
		_, err := e.Kubectl(t.Context(), "get", "serviceaccount", "-n", "golden", "default")
		return err
	})
	if p := e.asking(t, "golden", "of-namespace", nil); !gold(p) {
		t.Errorf("its namespace asks for pools, and it has %s, %s", p.v4, p.v6)
	}
}

func (e *env) remove(t *testing.T, args ...string) {
	t.Helper()
	if _, err := e.Kubectl(context.WithoutCancel(t.Context()), append([]string{"delete", "--timeout=60s"}, args...)...); err != nil {
		t.Error(err)
	}
}

func (e *env) askedAddresses(t *testing.T) {
	const mac = "0a:0b:0c:0d:0e:0f"
	p := e.asking(t, "default", "of-addresses", map[string]string{
		"cni.projectcalico.org/ipAddrs": `["10.98.0.77", "fd98::77"]`, "cni.projectcalico.org/hwAddr": mac,
	})
	_, inside := e.device(t, p)
	out := e.node1(t, append(inside, "ip", "addr", "show", "dev", "eth0")...)
	for _, want := range []string{"link/ether " + mac + " ", "inet 10.98.0.77/32 ", "inet6 fd98::77/128 "} {
		if !strings.Contains(out, want) {
			t.Errorf("the pod lacks %q:\n%s", want, out)
		}
	}
	for _, address := range []string{"10.98.0.77", "fd98::77"} {
		if out := e.calicoctl(t, "ipam", "show", "--ip="+address); !strings.Contains(out, "pod: of-addresses") {
			t.Errorf("who has %s:\n%s", address, out)
		}
	}
	e.answers(t, p)
}

func (e *env) askedUnassigned(t *testing.T) {
	p := e.asking(t, "default", "of-nobody", map[string]string{"cni.projectcalico.org/ipAddrsNoIpam": `["10.97.0.9", "fd97::9"]`})
	if p.v4.String() != "10.97.0.9" || p.v6.String() != "fd97::9" {
		t.Errorf("it has %s, %s", p.v4, p.v6)
	}
	e.answers(t, p)
}

// answers: node1 reaches a pod of its own, as soon as its agent listens.
func (e *env) answers(t *testing.T, p pod) {
	t.Helper()
	var all []expectation
	for _, v6 := range e.families() {
		all = append(all, both("the pod", netip.AddrPortFrom(p.addr(v6), agentwire.Port), p.name, hostAddr(cluster.NodeHost(1), v6))...)
	}
	eventually(t, 20*time.Second, func() error {
		if wrong := probe("node1", e.fromHost(t, "node1"), all); len(wrong) > 0 {
			return errors(wrong)
		}
		return nil
	})
}

func (e *env) askedFloating(t *testing.T, pods []pod) {
	e.asking(t, "default", "of-floating", map[string]string{"cni.projectcalico.org/floatingIPs": `["10.66.250.9", "fd66:250::9"]`})
	for i, address := range []string{"10.66.250.9", "fd66:250::9"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(address), agentwire.Port)
		eventually(t, 20*time.Second, func() error { // until the router has heard of it
			seen := hostAddr(cluster.OutsideHost(), i == 1)
			wrong := probe(cluster.Outside, e.fromHost(t, cluster.Outside), both("the floating address", to, "of-floating", seen))
			for _, p := range pods {
				wrong = append(wrong, probe(p.name, e.fromPod(t, p), both("the floating address", to, "of-floating", p.addr(i == 1)))...)
			}
			if len(wrong) > 0 {
				return errors(wrong)
			}
			return nil
		})
	}
}

// askedSources counts what comes from the pod to its node from addresses that aren't its.
func (e *env) askedSources(t *testing.T) {
	p := e.asking(t, "default", "of-sources", map[string]string{"cni.projectcalico.org/allowedSourcePrefixes": `["192.0.2.200/32"]`})
	const table = "e2e-sources"
	e.node1(t, "nft", "add table inet "+table+"; add chain inet "+table+" in { type filter hook input priority 0; }; "+
		"add rule inet "+table+" in ip saddr 192.0.2.200 counter comment allowed; add rule inet "+table+" in ip saddr 192.0.2.201 counter comment stranger")
	defer e.node1(t, "nft", "delete", "table", "inet", table)
	_, inside := e.device(t, p)
	for _, source := range []string{"192.0.2.200", "192.0.2.201"} {
		e.node1(t, append(inside, "ip", "addr", "add", source+"/32", "dev", "lo")...)
		// Nobody answers: the node has no way to these addresses.
		_, _ = e.Machine("node1").Run(t.Context(), append(inside, "ping", "-c1", "-W1", "-I", source, hostAddr(cluster.NodeHost(1), false).String())...)
	}
	out := e.node1(t, "nft", "list", "table", "inet", table)
	if lineWith(out, []string{"counter packets 1 ", "allowed"}) == "" || lineWith(out, []string{"counter packets 0 ", "stranger"}) == "" {
		t.Errorf("what came from the address that was asked for, and from another:\n%s", out)
	}
}

func (e *env) askedLimits(t *testing.T) {
	p := e.asking(t, "default", "of-limits", map[string]string{
		"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "4M",
		"qos.projectcalico.org/ingressPacketRate": "200", "qos.projectcalico.org/egressPacketRate": "100",
	})
	device, _ := e.device(t, p)
	qdiscs := e.node1(t, "tc", "qdisc", "show")
	if lineWith(qdiscs, []string{"tbf 80: dev " + device + " ", "rate 8Mbit"}) == "" || lineWith(qdiscs, []string{"tbf 80: dev bwcali", "rate 4Mbit"}) == "" {
		t.Errorf("no token buckets:\n%s", qdiscs)
	}
	rate := func(chain, want string) error {
		out, err := e.Machine("node1").Run(t.Context(), "nft", "list", "chain", "inet", "tortie", chain+device)
		if err == nil && !strings.Contains(out, "limit rate over "+want+"/second drop") {
			err = fmt.Errorf("no limit of %s packets a second:\n%s", want, out)
		}
		return err
	}
	for chain, want := range map[string]string{"limit-to-": "200", "limit-from-": "100"} {
		if err := rate(chain, want); err != nil {
			t.Error(err)
		}
	}
	e.kubectl(t, "annotate", "pod", p.name, "--overwrite", "qos.projectcalico.org/egressPacketRate=50")
	eventually(t, 20*time.Second, func() error { return rate("limit-from-", "50") })
}

// askedOfRuntime: felix may not follow pods, so it is containerd that tells it, by the
// capability io.kubernetes.cri.pod-annotations.
func (e *env) askedOfRuntime(t *testing.T) {
	e.kubectl(t, "patch", "clusterrole", "calico-node", "--type=json", "-p", `[{"op":"replace","path":"/rules/0/verbs","value":["get"]}]`)
	e.kubectl(t, "delete", "pod", "-n", "kube-system", e.nodePod(t, "node1"))
	eventually(t, time.Minute, func() error {
		log, err := e.Kubectl(t.Context(), "logs", "-n", "kube-system", e.nodePod(t, "node1"), "-c", "felix")
		if err == nil && lineWith(log, []string{"KubernetesAccess", "pods"}) == "" {
			err = fmt.Errorf("felix still follows pods:\n%s", log)
		}
		return err
	})
	if p := e.asking(t, "default", "of-runtime", map[string]string{"cni.projectcalico.org/ipAddrs": `["10.98.0.78", "fd98::78"]`}); p.v4.String() != "10.98.0.78" || p.v6.String() != "fd98::78" {
		t.Errorf("it has %s, %s", p.v4, p.v6)
	}
}

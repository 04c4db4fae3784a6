package e2e

import (
	"fmt"
	"strings"
	"testing"

	"tortie/tests/e2e/cluster"
)

// TestIPv6Alone: machines, pods and services have IPv6 addresses and no others, and the
// trial's etcd is reached by one. BGP's router ID can't be an IPv4 address of the node.
func TestIPv6Alone(t *testing.T) {
	oneFamily(t, "test-ipv6", cluster.IPv6Only, func(e *env) { e.installOverlay(t, e.overlay(t, "trial-etcd", "")) },
		"No IPv4 peers found.")
}

// TestIPv4Alone: they have IPv4 addresses alone; the manifests are as they are shipped.
func TestIPv4Alone(t *testing.T) {
	oneFamily(t, "test-ipv4", cluster.IPv4Only, func(e *env) {
		e.etcdSecret(t, false)
		e.installOverlay(t, e.overlay(t, "external-etcd", e.EtcdEndpoint()))
	}, "No IPv6 peers found.")
}

// oneFamily tries every path and every service on a cluster of two nodes that has one IP
// version.
func oneFamily(t *testing.T, name string, families cluster.Families, install func(e *env), noPeers string) {
	e := startOf(t, name, cluster.Config{Nodes: 2, Families: families})
	t.Cleanup(func() {
		if t.Failed() {
			e.explain(t)
		}
	})
	install(e)
	e.applyResources(t, e.peerOfFamily())
	e.installDNS(t)
	pods := e.agents(t)
	e.hasOneFamily(t, pods)
	e.settle(t, pods)
	e.matrix(t, pods)
	e.localhost(t, pods)
	services(t, e)
	e.statusWithoutPeers(t, noPeers)
	if families.Have(true) {
		e.calicoctl(t, "patch", "ippool", "default-ipv6-ippool", "-p", `{"spec":{"natOutgoing":true}}`)
		e.natIPv6 = true
		e.settle(t, pods)
	}
	s := e.stream(t, pods)
	e.kubectl(t, "rollout", "restart", "-n", "kube-system", "daemonset/calico-node")
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "daemonset/calico-node", "--timeout=180s")
	s.stop(t)
	mirrored(t, e)
}

// peerOfFamily is the router where the two nodes are, by the cluster's IP version.
func (e *env) peerOfFamily() string {
	for peer := range strings.SplitSeq(peers, "---\n") {
		if e.Config().Families.Have(true) == strings.Contains(peer, "router-a-v6") && strings.Contains(peer, "router-a-") {
			return peer
		}
	}
	return ""
}

// hasOneFamily: nothing that a node or a pod has on its link is of the other IP version.
func (e *env) hasOneFamily(t *testing.T, pods []pod) {
	t.Helper()
	v6 := e.families()[0]
	other := "-4"
	if !v6 {
		other = "-6"
	}
	for _, p := range pods {
		if !p.addr(v6).IsValid() || p.addr(!v6).IsValid() {
			t.Errorf("%s has %s, %s", p.name, p.v4, p.v6)
		}
	}
	for _, m := range e.Nodes() {
		out, err := m.Run(t.Context(), "ip", other, "route", "show", "table", "main")
		for line := range strings.SplitSeq(out, "\n") {
			if line != "" && !strings.HasPrefix(line, "fe80::/64 ") {
				err = fmt.Errorf("it has the route %q", line)
			}
		}
		if err != nil {
			t.Errorf("%s: %v", m.Spec.Name, err)
		}
	}
}

// statusWithoutPeers: every node is content, and has peers of one IP version alone.
func (e *env) statusWithoutPeers(t *testing.T, noPeers string) {
	t.Helper()
	for _, m := range e.Nodes() {
		out, err := m.Run(t.Context(), "/opt/tortie/bin/calicoctl", "node", "status")
		if err != nil || !strings.Contains(out, noPeers) || strings.Count(out, "| up ") != 2 || strings.Contains(out, "Problems") {
			t.Errorf("%s: calicoctl node status: %v\n%s", m.Spec.Name, err, out)
		}
	}
}

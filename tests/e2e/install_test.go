package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tortie/tests/e2e/cluster"
)

// peers are the router's addresses, by the label that kube-controllers brings from
// the nodes.
const peers = `apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: router-a-v4}
spec: {peerIP: 10.30.1.1, asNumber: 64999, nodeSelector: topology.kubernetes.io/zone == 'a'}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: router-a-v6}
spec: {peerIP: "fd30:0:0:1::1", asNumber: 64999, nodeSelector: topology.kubernetes.io/zone == 'a'}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: router-b-v4}
spec: {peerIP: 10.30.2.1, asNumber: 64999, nodeSelector: topology.kubernetes.io/zone == 'b'}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: router-b-v6}
spec: {peerIP: "fd30:0:0:2::1", asNumber: 64999, nodeSelector: topology.kubernetes.io/zone == 'b'}
`

// overlay is a copy of the manifests with what a user fills in, as the README says.
func (e *env) overlay(t *testing.T, name, endpoints string) string {
	t.Helper()
	dir := filepath.Join(e.Config().Dir, "manifests")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(e.Config().Source, "manifests"))); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlays", name)
	if endpoints != "" {
		edit(t, filepath.Join(overlay, "etcd.env"), func(string) string { return "etcd_endpoints=" + endpoints + "\n" })
	}
	const v4, v6 = "CALICO_IPV4POOL_CIDR=10.244.0.0/16\n", "CALICO_IPV6POOL_CIDR=fd30:0:0:200::/56\n"
	switch e.Config().Families {
	case cluster.IPv6Only:
		edit(t, filepath.Join(overlay, "settings.env"), func(s string) string { return strings.Replace(s, v4, v6, 1) })
		component(t, overlay, "ipv6-only")
	case cluster.DualStack:
		edit(t, filepath.Join(overlay, "settings.env"), func(s string) string { return s + v6 })
		component(t, overlay, "dual-stack")
	}
	return overlay
}

// component adds one to an overlay.
func component(t *testing.T, overlay, name string) {
	t.Helper()
	edit(t, filepath.Join(overlay, "kustomization.yaml"), func(s string) string {
		return strings.Replace(s, "components:\n", "components:\n  - ../../components/"+name+"\n", 1)
	})
}

func edit(t *testing.T, path string, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := change(string(text))
	if changed == string(text) {
		t.Fatalf("%s: nothing to change", path)
	}
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// etcdSecret is the Secret with the client's certificate, that of a stranger if so.
func (e *env) etcdSecret(t *testing.T, stranger bool) {
	t.Helper()
	ca, cert, key := e.EtcdFiles(stranger)
	e.kubectl(t, "delete", "secret", "-n", "kube-system", "calico-etcd-secrets", "--ignore-not-found")
	e.kubectl(t, "create", "secret", "generic", "-n", "kube-system", "calico-etcd-secrets",
		"--from-file=etcd-ca="+ca, "--from-file=etcd-cert="+cert, "--from-file=etcd-key="+key)
}

// install installs the product as the README says and waits until it is there.
func (e *env) install(t *testing.T) {
	t.Helper()
	e.etcdSecret(t, false)
	e.installOverlay(t, e.overlay(t, "external-etcd", e.EtcdEndpoint()))
	e.applyResources(t, peers)
	e.installDNS(t)
}

// installOverlay applies one and waits until all of it is there.
func (e *env) installOverlay(t *testing.T, overlay string) {
	t.Helper()
	began := time.Now()
	e.kubectl(t, "apply", "-k", overlay)
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "ds/calico-node", "--timeout=120s")
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "deploy/calico-kube-controllers", "--timeout=120s")
	e.kubectl(t, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
	t.Logf("installed in %v", time.Since(began).Round(100*time.Millisecond))
}

// installDNS installs CoreDNS.
func (e *env) installDNS(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("testdata/coredns.yaml")
	if err != nil {
		t.Fatal(err)
	}
	e.apply(t, strings.Replace(string(text), cluster.DualStack.DNSAddress(), e.Config().Families.DNSAddress(), 1))
	e.kubectl(t, "rollout", "status", "-n", "kube-system", "deploy/coredns", "--timeout=60s")
}

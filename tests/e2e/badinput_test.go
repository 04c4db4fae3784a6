package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mistake is one that users make, with what must be said about it.
type mistake struct {
	name string
	// overlay and settings change the manifests; break and mend do something else.
	endpoints string
	settings  string
	breakIt   func(t *testing.T, e *env)
	mend      func(t *testing.T, e *env)
	// container has the line in its log, reason is the Event's.
	container, reason string
	// says are parts of the line: what is wrong, and what to do.
	says []string
}

// mistakes are those of the manifests' design page.
func mistakes(e *env) []mistake {
	const foreign = "/etc/cni/net.d/05-other.conflist"
	return []mistake{
		{
			name: "wrong etcd certificate", container: "felix", reason: "DatastoreUnavailable",
			breakIt: func(t *testing.T, e *env) { e.etcdSecret(t, true) },
			says:    []string{e.EtcdEndpoint(), "certificate"},
		},
		{
			name: "wrong etcd endpoint", container: "felix", reason: "DatastoreUnavailable",
			endpoints: "https://10.30.1.10:9", says: []string{"https://10.30.1.10:9", "refused"},
		},
		{
			name: "missing RBAC verb", container: "felix", reason: "KubernetesAccess",
			breakIt: func(t *testing.T, e *env) {
				e.kubectl(t, "patch", "clusterrole", "calico-node", "--type=json", "-p", `[{"op":"replace","path":"/rules/0/verbs","value":["list"]}]`)
			},
			says: []string{"watch", "pods", "ClusterRole calico-node"},
		},
		{
			name: "pool outside the cluster's pod CIDR", container: "felix", reason: "PodCIDROutsidePools",
			breakIt: func(t *testing.T, e *env) {
				e.applyResources(t, "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: elsewhere}\nspec: {cidr: 172.29.0.0/16}\n")
				e.calicoctl(t, "delete", "ippool", "default-ipv4-ippool")
			},
			mend: func(t *testing.T, e *env) { e.calicoctl(t, "delete", "ippool", "elsewhere") },
			says: []string{"10.244.", "IP pool"},
		},
		{
			name: "another CNI's configuration", container: "install-cni", reason: "CNINotInstalled",
			breakIt: func(t *testing.T, e *env) {
				if err := os.WriteFile(e.Machine("node1").Path(foreign), []byte(`{"cniVersion":"0.4.0","name":"other","type":"bridge"}`), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			mend: func(t *testing.T, e *env) {
				if err := os.Remove(e.Machine("node1").Path(foreign)); err != nil {
					t.Fatal(err)
				}
			},
			says: []string{"05-other.conflist", "remove it"},
		},
		{
			name: "no usable address", container: "felix", reason: "NodeNotRegistered",
			settings: "IP_AUTODETECTION_METHOD=interface=wlan9\n", says: []string{"interface=wlan9"},
		},
		{
			name: "unknown backend", container: "bgpd", reason: "UnknownBackend",
			breakIt: func(t *testing.T, e *env) {
				e.kubectl(t, "patch", "configmap", "-n", "kube-system", "calico-config", "-p", `{"data":{"calico_backend":"quagga"}}`)
			},
			says: []string{"CALICO_NETWORKING_BACKEND", "quagga", "bird"},
		},
	}
}

// badInput makes each mistake on a cluster that works, and mends it: each is said in
// one line in the log, in an Event and by calicoctl node status; pods that run don't
// notice.
func badInput(t *testing.T, e *env) {
	pods := e.agents(t)
	for _, m := range mistakes(e) {
		t.Run(m.name, func(t *testing.T) { e.mistake(t, m, pods) })
	}
}

func (e *env) mistake(t *testing.T, m mistake, pods []pod) {
	e.settle(t, pods)
	s := e.stream(t, pods)
	if m.endpoints != "" || m.settings != "" {
		endpoints := m.endpoints
		if endpoints == "" {
			endpoints = e.EtcdEndpoint()
		}
		overlay := e.overlay(t, "external-etcd", endpoints)
		edit(t, filepath.Join(overlay, "settings.env"), func(s string) string { return s + "#\n" + m.settings })
		e.kubectl(t, "apply", "-k", overlay)
	}
	if m.breakIt != nil {
		m.breakIt(t, e)
	}
	// The new pod on node1; the others wait for it, as one at a time is updated.
	e.kubectl(t, "delete", "pod", "-n", "kube-system", "-l", "k8s-app=calico-node", "--field-selector", "spec.nodeName=node1")
	eventually(t, 90*time.Second, func() error { return e.said(t, m) })
	if m.mend != nil {
		m.mend(t, e)
	}
	e.etcdSecret(t, false)
	e.kubectl(t, "apply", "-k", e.overlay(t, "external-etcd", e.EtcdEndpoint()))
	// What was changed is read when a pod starts, as the README says.
	e.kubectl(t, "rollout", "restart", "-n", "kube-system", "ds/calico-node")
	e.install(t)
	s.stop(t)
	e.settle(t, pods)
	eventually(t, time.Minute, func() error {
		out, err := e.Machine("node1").Run(t.Context(), "/opt/tortie/bin/calicoctl", "node", "status")
		if strings.Contains(out, "Problems") {
			return fmt.Errorf("the problem is still there:\n%s", out)
		}
		return err
	})
}

// said looks for the line in the three places.
func (e *env) said(t *testing.T, m mistake) error {
	t.Helper()
	log := ""
	for _, previous := range []bool{false, true} {
		out, _ := e.Kubectl(t.Context(), "logs", "-n", "kube-system", e.nodePod(t, "node1"), "-c", m.container, fmt.Sprintf("--previous=%t", previous))
		log += out
	}
	events, err := e.Kubectl(t.Context(), "describe", "pod", "-n", "kube-system", e.nodePod(t, "node1"))
	if err != nil {
		return err
	}
	ofNode, err := e.Kubectl(t.Context(), "describe", "node", "node1")
	if err != nil {
		return err
	}
	status, _ := e.Machine("node1").Run(t.Context(), "/opt/tortie/bin/calicoctl", "node", "status")
	for where, text := range map[string]string{
		"the log of " + m.container: log, "kubectl describe pod": events, "kubectl describe node": ofNode, "calicoctl node status": status,
	} {
		isEvent := strings.HasPrefix(where, "kubectl")
		if line := lineWith(text, m.says); line == "" || isEvent && !strings.Contains(line, m.reason) {
			return fmt.Errorf("%s: no line with all of %q and %s:\n%s", where, m.says, m.reason, tail(text, 25))
		}
	}
	return nil
}

// lineWith is the first line of a text that has all parts.
func lineWith(text string, parts []string) string {
	for line := range strings.SplitSeq(text, "\n") {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			return line
		}
	}
	return ""
}

// nodePod is the name of calico-node's pod on a node.
func (e *env) nodePod(t *testing.T, node string) string {
	t.Helper()
	name := ""
	eventually(t, 30*time.Second, func() error {
		out, err := e.Kubectl(t.Context(), "get", "pods", "-n", "kube-system", "-l", "k8s-app=calico-node",
			"--field-selector", "spec.nodeName="+node, "--sort-by", ".metadata.creationTimestamp", "-o", "jsonpath={.items[-1:].metadata.name}")
		if err == nil && out == "" {
			err = fmt.Errorf("no pod of calico-node on %s", node)
		}
		name = out
		return err
	})
	return name
}

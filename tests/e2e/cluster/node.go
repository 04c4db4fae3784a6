package cluster

import (
	"fmt"
	"strings"

	"tortie/tests/e2e/machine"
)

// maxNodes bounds how many nodes there may be.
const maxNodes = 9

// The services of a node.
const (
	ServiceContainerd = "containerd"
	ServiceKubelet    = "kubelet"
	ServiceProxy      = "kube-proxy"
)

// containerdConfig: restrict_oom_score_adj is for machines that withhold
// CAP_SYS_RESOURCE from root.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs","io.containerd.snapshotter.v1.zfs","io.containerd.snapshotter.v1.devmapper","io.containerd.snapshotter.v1.aufs","io.containerd.internal.v1.opt","io.containerd.internal.v1.tracing","io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + PauseImage + `"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`

func kubeletConfig(h Host, cgroup string, f Families) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /%s
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
staticPodPath: /etc/kubernetes/manifests
address: %s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %s/ca.crt}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [%s]
resolvConf: /etc/resolv.conf
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: "1%%", imagefs.available: "1%%", nodefs.inodesFree: "1%%"}
maxPods: 250
nodeStatusUpdateFrequency: 4s
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
registerNode: true
`, cgroup, f.address(h), pkiOnMachine, f.DNSAddress())
}

// ProxyConfig is kube-proxy's configuration, for a node and a mode: nftables or iptables.
func (f Families) ProxyConfig(node, mode string) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
clusterCIDR: %s
hostnameOverride: %s
clientConnection: {kubeconfig: %s/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0}
`, mode, f.podCIDRs(), node, pkiOnMachine)
}

// ProxyConfigFile is where a node has it.
const ProxyConfigFile = "/etc/kubernetes/proxy.yaml"

func nodeServices(h Host, f Families) []machine.Service {
	return []machine.Service{
		{Name: ServiceContainerd, Args: []string{"containerd", "--config", "/etc/containerd/config.toml"}},
		{Name: ServiceKubelet, Args: []string{
			"kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=" + pkiOnMachine + "/" + h.Name + ".kubeconfig",
			"--node-ip=" + f.list(h.V4.Addr().String(), h.V6.Addr().String()), "--hostname-override=" + h.Name,
			"--node-labels=topology.kubernetes.io/zone=" + h.Segment,
			"--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki", "--v=2",
		}},
		{Name: ServiceProxy, Args: []string{"kube-proxy", "--config=" + ProxyConfigFile, "--v=2"}},
	}
}

// nodeFiles are the files of a node.
func (c *Cluster) nodeFiles(h Host, cgroup string) (map[string]string, error) {
	all, err := c.pkiFiles()
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"/etc/containerd/config.toml":  containerdConfig,
		"/etc/kubernetes/kubelet.yaml": kubeletConfig(h, cgroup, c.cfg.Families),
		ProxyConfigFile:                c.cfg.Families.ProxyConfig(h.Name, c.cfg.ProxyMode),
		"/etc/hostname":                h.Name + "\n",
		"/etc/hosts":                   fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", c.cfg.Families.address(h), h.Name),
		"/etc/resolv.conf":             "nameserver " + c.cfg.Families.DNSAddress() + "\n",
		"/etc/machine-id":              fmt.Sprintf("%032x\n", h.V4.Addr().As4()),
	}
	// A node has its own identity and the authority, and nothing of etcd's.
	for path, text := range all {
		name := strings.TrimPrefix(path, pkiOnMachine+"/")
		if name == "ca.crt" || name == h.Name+".kubeconfig" || name == "proxy.kubeconfig" {
			files[path] = text
		}
	}
	return files, nil
}

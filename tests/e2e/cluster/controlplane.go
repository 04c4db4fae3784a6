package cluster

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"tortie/tests/e2e/machine"
	"tortie/tests/pki"
)

// Where the machines see what belongs to the cluster.
const (
	pkiOnMachine  = "/etc/kubernetes/pki"
	etcdOnMachine = "/etc/etcd-pki"
)

// EtcdEndpoint is where the etcd of the pod network listens, with TLS.
func (c *Cluster) EtcdEndpoint() string {
	return "https://" + net.JoinHostPort(c.cfg.Families.address(controlPlaneHost()), "2381")
}

// makePKI makes all certificates, tokens and kubeconfigs.
func (c *Cluster) makePKI() error {
	dir := c.layout.pki()
	ca, err := pki.NewAuthority(dir, "ca")
	if err != nil {
		return err
	}
	cp := controlPlaneHost()
	for _, id := range []pki.Identity{
		{File: "apiserver", Name: "kube-apiserver", Hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			"localhost", "127.0.0.1", c.cfg.Families.apiAddress(), cp.V4.Addr().String(), cp.V6.Addr().String(),
		}},
		{File: "kubelet-client", Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
		{File: "admin", Name: "kubernetes-admin", Groups: []string{"system:masters"}},
	} {
		if _, _, err := ca.Issue(id); err != nil {
			return err
		}
	}
	if _, _, err := pki.Key(dir, "sa"); err != nil {
		return err
	}
	if err := c.makeEtcdPKI(); err != nil {
		return err
	}
	return c.makeKubeconfigs(ca)
}

// makeEtcdPKI is an authority of etcd's own: who may speak to Kubernetes may not
// speak to etcd.
func (c *Cluster) makeEtcdPKI() error {
	ca, err := pki.NewAuthority(filepath.Join(c.layout.pki(), "etcd"), "etcd-ca")
	if err != nil {
		return err
	}
	cp := controlPlaneHost()
	for _, id := range []pki.Identity{
		{File: "etcd-server", Name: "etcd", Hosts: []string{"localhost", "127.0.0.1", cp.V4.Addr().String(), cp.V6.Addr().String()}},
		{File: "etcd-client", Name: "calico"},
	} {
		if _, _, err := ca.Issue(id); err != nil {
			return err
		}
	}
	stranger, err := pki.NewAuthority(filepath.Join(c.layout.pki(), "stranger"), "etcd-ca")
	if err != nil {
		return err
	}
	_, _, err = stranger.Issue(pki.Identity{File: "etcd-client", Name: "calico"})
	return err
}

// EtcdFiles are the client's files for etcd: authority, certificate, key; those of
// a stranger that etcd refuses, if so.
func (c *Cluster) EtcdFiles(stranger bool) (ca, cert, key string) {
	dir := filepath.Join(c.layout.pki(), "etcd")
	if stranger {
		dir = filepath.Join(c.layout.pki(), "stranger")
	}
	return filepath.Join(dir, "etcd-ca.crt"), filepath.Join(dir, "etcd-client.crt"), filepath.Join(dir, "etcd-client.key")
}

func (c *Cluster) makeKubeconfigs(ca *pki.Authority) error {
	dir := c.layout.pki()
	admin, err := base64Files(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key"))
	if err != nil {
		return err
	}
	users := map[string]string{
		"admin": fmt.Sprintf("client-certificate-data: %s, client-key-data: %s", admin[0], admin[1]),
	}
	tokens := []string{
		"tok-kcm,system:kube-controller-manager,kcm", "tok-sched,system:kube-scheduler,sched", "tok-proxy,system:kube-proxy,proxy",
	}
	for _, name := range []string{"kcm", "sched", "proxy"} {
		users[name] = "token: tok-" + name
	}
	for n := 1; n <= maxNodes; n++ {
		name := NodeHost(n).Name
		users[name] = "token: tok-" + name
		tokens = append(tokens, fmt.Sprintf("tok-%s,system:node:%s,%s,\"system:nodes\"", name, name, name))
	}
	if err := os.WriteFile(filepath.Join(dir, "tokens.csv"), []byte(strings.Join(tokens, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	authority, err := base64Files(ca.CertFile())
	if err != nil {
		return err
	}
	for name, user := range users {
		text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s", certificate-authority-data: %s}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
users: [{name: u, user: {%s}}]
`, net.JoinHostPort(c.cfg.Families.address(controlPlaneHost()), "6443"), authority[0], user)
		if err := os.WriteFile(filepath.Join(dir, name+".kubeconfig"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func base64Files(paths ...string) ([]string, error) {
	all := make([]string, len(paths))
	for i, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		all[i] = base64.StdEncoding.EncodeToString(text)
	}
	return all, nil
}

// pkiFiles are the files of the cluster's PKI, by where machines see them.
func (c *Cluster) pkiFiles() (map[string]string, error) {
	files := map[string]string{}
	for from, to := range map[string]string{c.layout.pki(): pkiOnMachine, filepath.Join(c.layout.pki(), "etcd"): etcdOnMachine} {
		entries, err := os.ReadDir(from)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			text, err := os.ReadFile(filepath.Join(from, e.Name()))
			if err != nil {
				return nil, err
			}
			files[filepath.Join(to, e.Name())] = string(text)
		}
	}
	return files, nil
}

// The services of the control plane.
const (
	ServiceKubeEtcd   = "etcd-kubernetes"
	ServiceEtcd       = "etcd"
	ServiceAPI        = "kube-apiserver"
	ServiceController = "kube-controller-manager"
	ServiceScheduler  = "kube-scheduler"
)

// controlPlaneServices are two etcds, so that the pod network's can be away alone,
// and Kubernetes.
func controlPlaneServices(f Families) []machine.Service {
	p := func(file string) string { return filepath.Join(pkiOnMachine, file) }
	address := f.address(controlPlaneHost())
	etcd := func(name string, client, peer int, address string) machine.Service {
		e := func(file string) string { return filepath.Join(etcdOnMachine, file) }
		url := "https://" + net.JoinHostPort(address, strconv.Itoa(client))
		return machine.Service{Name: name, Args: []string{
			"etcd", "--name=" + name, "--data-dir=/var/lib/" + name,
			"--listen-client-urls=" + url, "--advertise-client-urls=" + url,
			fmt.Sprintf("--listen-peer-urls=http://127.0.0.1:%d", peer), fmt.Sprintf("--initial-advertise-peer-urls=http://127.0.0.1:%d", peer),
			fmt.Sprintf("--initial-cluster=%s=http://127.0.0.1:%d", name, peer),
			"--client-cert-auth", "--trusted-ca-file=" + e("etcd-ca.crt"), "--cert-file=" + e("etcd-server.crt"), "--key-file=" + e("etcd-server.key"),
		}}
	}
	return []machine.Service{
		etcd(ServiceKubeEtcd, 2379, 2380, "127.0.0.1"),
		etcd(ServiceEtcd, 2381, 2382, address),
		{Name: ServiceAPI, Args: []string{
			"kube-apiserver", "--etcd-servers=https://127.0.0.1:2379",
			"--etcd-cafile=" + etcdOnMachine + "/etcd-ca.crt", "--etcd-certfile=" + etcdOnMachine + "/etcd-client.crt", "--etcd-keyfile=" + etcdOnMachine + "/etcd-client.key",
			"--bind-address=" + f.first("0.0.0.0", "::"), "--advertise-address=" + address, "--secure-port=6443",
			"--tls-cert-file=" + p("apiserver.crt"), "--tls-private-key-file=" + p("apiserver.key"),
			"--client-ca-file=" + p("ca.crt"), "--token-auth-file=" + p("tokens.csv"),
			"--kubelet-client-certificate=" + p("kubelet-client.crt"), "--kubelet-client-key=" + p("kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + p("sa.pub"),
			"--service-account-signing-key-file=" + p("sa.key"), "--api-audiences=https://kubernetes.default.svc",
			"--service-cluster-ip-range=" + f.serviceCIDRs(), "--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--event-ttl=3h",
		}},
		{Name: ServiceController, Args: []string{
			"kube-controller-manager", "--kubeconfig=" + p("kcm.kubeconfig"), "--leader-elect=false",
			"--service-account-private-key-file=" + p("sa.key"), "--root-ca-file=" + p("ca.crt"),
			"--use-service-account-credentials=true", "--allocate-node-cidrs=true", "--cluster-cidr=" + f.podCIDRs(),
			"--service-cluster-ip-range=" + f.serviceCIDRs(), "--cluster-signing-cert-file=" + p("ca.crt"), "--cluster-signing-key-file=" + p("ca.key"),
			"--node-monitor-grace-period=20s",
		}},
		{Name: ServiceScheduler, Args: []string{"kube-scheduler", "--kubeconfig=" + p("sched.kubeconfig"), "--leader-elect=false"}},
	}
}

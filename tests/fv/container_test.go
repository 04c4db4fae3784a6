package fv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"tortie/internal/datastore/etcd/etcdtest"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// TestContainersOfTheManifestWork runs felix and bgpd by runc, confined as the
// DaemonSet says: its capabilities and mounts, a read-only root, a read-only
// /proc/sys. Were anything missing there, a pod could not be added, a tunnel not be
// made, or bgpd not listen.
func TestContainersOfTheManifestWork(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.NftNAT)
	w := newContainers(t)
	felix := w.start("felix", map[string]string{
		"IP6": "autodetect", "CALICO_IPV4POOL_CIDR": "10.65.0.0/16", "CALICO_IPV6POOL_CIDR": "fd65::/64",
		"CALICO_IPV4POOL_VXLAN": "Always", "CALICO_IPV6POOL_VXLAN": "CrossSubnet",
	})
	bgpd := w.start("bgpd", nil)
	felix.until("http://localhost:9099/readiness", "ready")
	bgpd.until("http://localhost:9097/readiness", "ready") // it has its port 179
	w.isUp("vxlan.calico")
	w.isUp("vxlan-v6.calico")

	pod, path := w.pod()
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(w.cni("ADD", path), &result); err != nil || len(result.IPs) != 2 {
		t.Fatalf("ADD: %v, %+v\n%s", err, result, &felix.log)
	}
	for _, gateway := range []string{"10.9.0.1", "fd09::1"} {
		ping(t, pod, gateway)
	}
	w.cni("DEL", path)

	// An IPAM plugin of others, with nothing but its defaults.
	w.run("env", "CGO_ENABLED=0", "go", "build", "-modfile=../tools.mod", "-o", filepath.Join(w.volumes["cni-bin-dir"], "host-local"), "github.com/containernetworking/plugins/plugins/ipam/host-local")
	_, path = w.podAt("2")
	conf := `{"cniVersion": "1.1.0", "name": "others", "type": "calico", "ipam": {"type": "host-local", "subnet": "192.0.2.0/24"}}`
	record := filepath.Join(w.volumes["var-lib-cni"], "networks", "others", "192.0.2.2")
	if err := json.Unmarshal(w.call("ADD", path, conf), &result); err != nil || len(result.IPs) != 1 || result.IPs[0].Address.Addr().String() != "192.0.2.2" {
		t.Fatalf("ADD with host-local: %v, %+v\n%s", err, result, &felix.log)
	}
	if _, err := os.Stat(record); err != nil {
		t.Error(err)
	}
	w.call("DEL", path, conf)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(record); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after DEL there is %s", record)
		}
	}
}

// containers is a node, its etcd and the folders of its that are mounted.
type containers struct {
	*testing.T
	node      *kernel.Netns
	dir, root string
	etcd      string
	pods      map[string]corev1.Container
	volumes   map[string]string // paths on the node
}

func newContainers(t *testing.T) *containers {
	w := &containers{T: t, node: kerneltest.NewNetns(t), dir: t.TempDir(), pods: map[string]corev1.Container{}, volumes: map[string]string{}}
	w.root = filepath.Join(w.dir, "images", "node")
	h := kerneltest.Open(t, w.node)
	link, err := h.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "wire"})
	w.must(err)
	w.must(h.SetUp(link.Index))
	w.must(h.SetUp(link.PeerIndex))
	for _, route := range []struct{ address, dst, gateway string }{{"10.9.0.1/24", "0.0.0.0/0", "10.9.0.9"}, {"fd09::1/64", "::/0", "fd09::9"}} {
		w.must(h.AddAddress(link.Index, netip.MustParsePrefix(route.address)))
		w.must(h.AddRoute(kernel.Route{Dst: netip.MustParsePrefix(route.dst), Protocol: kernel.ProtocolBoot, Link: link.Index, Gateway: netip.MustParseAddr(route.gateway)}))
	}
	w.forward(strings.TrimPrefix(etcdtest.Start(t, etcdtest.Options{}).Endpoint(), "http://"))
	w.run("go", "run", "../../manifests/images", "-bin", "../../bin", "-unpack", filepath.Join(w.dir, "images"), "-version", "test", "-created", "0")
	w.readManifest()
	return w
}

func (w *containers) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// isUp waits until the node has a device.
func (w *containers) isUp(device string) {
	w.Helper()
	h := kerneltest.Open(w.T, w.node)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		up, err := h.IsUp(device)
		if up {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%s is not up: %v", device, err)
		}
	}
}

func (w *containers) run(name string, args ...string) {
	w.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		w.Fatalf("%s: %v: %s", name, err, out)
	}
}

// forward lets the node reach the etcd of the test, at an address of its own.
func (w *containers) forward(to string) {
	var l net.Listener
	w.must(w.node.Do(func() (err error) { l, err = net.Listen("tcp", "10.9.0.1:0"); return err }))
	w.Cleanup(func() { _ = l.Close() })
	w.etcd = "http://" + l.Addr().String()
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer from.Close()
				c, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer c.Close()
				go func() { _, _ = io.Copy(c, from); _ = c.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(from, c)
			}()
		}
	}()
}

// readManifest takes the DaemonSet's containers. Its folders of the node are folders
// of the test, but for those that are the kernel's.
func (w *containers) readManifest() {
	raw, err := os.ReadFile("../../manifests/calico-etcd.yaml")
	w.must(err)
	var d appsv1.DaemonSet
	for _, document := range bytes.Split(raw, []byte("\n---\n")) {
		if bytes.Contains(document, []byte("\nkind: DaemonSet\n")) {
			w.must(yaml.UnmarshalStrict(document, &d))
		}
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		w.pods[c.Name] = c
	}
	for _, v := range d.Spec.Template.Spec.Volumes {
		switch {
		case v.HostPath == nil: // the certificates
		case v.Name == "netns" || v.Name == "proc-sys-net":
			w.volumes[v.Name] = v.HostPath.Path
		default:
			w.volumes[v.Name] = filepath.Join(w.dir, v.Name)
			w.must(os.Mkdir(w.volumes[v.Name], 0o755))
		}
	}
}

// container is one that runs.
type container struct {
	*containers
	log bytes.Buffer
	end chan struct{}
}

// start runs a container of the manifest as containerd would.
func (w *containers) start(name string, env map[string]string) *container {
	c, ok := w.pods[name]
	if !ok {
		w.Fatalf("the manifest has no container %s", name)
	}
	bundle := filepath.Join(w.dir, "bundle-"+name)
	w.must(os.Mkdir(bundle, 0o755))
	w.run("runc", "spec", "--bundle", bundle)
	path := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(path)
	w.must(err)
	var spec map[string]any
	w.must(json.Unmarshal(raw, &spec))
	w.confine(spec, c, env)
	raw, err = json.Marshal(spec)
	w.must(err)
	w.must(os.WriteFile(path, raw, 0o600))

	id := fmt.Sprintf("tortie-fv-%d-%s", os.Getpid(), name)
	state := filepath.Join(w.dir, "runc")
	out := &container{containers: w, end: make(chan struct{})}
	cmd := exec.Command("runc", "--root", state, "run", "--bundle", bundle, id)
	cmd.Stdout, cmd.Stderr = &out.log, &out.log
	w.must(cmd.Start())
	go func() { defer close(out.end); _ = cmd.Wait() }()
	w.Cleanup(func() {
		_ = exec.Command("runc", "--root", state, "kill", id, "KILL").Run()
		<-out.end
		_ = exec.Command("runc", "--root", state, "delete", "--force", id).Run()
	})
	return out
}

// confine makes runc's own example of a container the one of the manifest. The
// example hides and write-protects what containerd's does.
func (w *containers) confine(spec map[string]any, c corev1.Container, env map[string]string) {
	if !*c.SecurityContext.ReadOnlyRootFilesystem || *c.SecurityContext.AllowPrivilegeEscalation || !slices.Equal(c.SecurityContext.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		w.Fatalf("container %s is not confined", c.Name)
	}
	caps := []string{}
	for _, name := range c.SecurityContext.Capabilities.Add {
		caps = append(caps, "CAP_"+string(name))
	}
	vars := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NODENAME=node1", "IP=autodetect", "ETCD_ENDPOINTS=" + w.etcd}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			vars = append(vars, e.Name+"="+e.Value)
		}
	}
	for name, value := range env {
		vars = append(vars, name+"="+value)
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"], process["env"] = false, c.Command, vars
	process["capabilities"] = map[string]any{"bounding": caps, "effective": caps, "permitted": caps}
	spec["root"] = map[string]any{"path": w.root, "readonly": true}
	mounts := spec["mounts"].([]any)
	for _, m := range c.VolumeMounts {
		source, ok := w.volumes[m.Name]
		if !ok {
			continue
		}
		options := []string{"rbind", "rprivate", "rw"}
		if m.ReadOnly {
			options[2] = "ro"
		}
		if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationHostToContainer {
			options[1] = "rslave"
		}
		mounts = append(mounts, map[string]any{"destination": m.MountPath, "type": "bind", "source": source, "options": options})
	}
	spec["mounts"] = mounts
	linux := spec["linux"].(map[string]any)
	for _, ns := range linux["namespaces"].([]any) {
		if ns := ns.(map[string]any); ns["type"] == "network" {
			ns["path"] = w.node.Path()
		}
	}
	linux["cgroupsPath"] = fmt.Sprintf("/tortie-fv-%d-%s", os.Getpid(), c.Name)
}

// until asks a probe until it answers as wanted.
func (c *container) until(url, want string) {
	c.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		answer := ""
		c.must(c.node.Do(func() error {
			answer = get(url)
			return nil
		}))
		if answer == want {
			return
		}
		select {
		case <-c.end:
			c.Fatalf("it ended:\n%s", &c.log)
		default:
		}
		if time.Now().After(end) {
			c.Fatalf("%s answers %q:\n%s", url, answer, &c.log)
		}
	}
}

// get asks by a process that the calling thread starts, so in its namespace.
func get(url string) string {
	out, err := exec.Command("curl", "-s", "--max-time", "5", url).Output()
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// pod makes a network namespace where a runtime makes them: after felix started.
func (w *containers) pod() (ns *kernel.Netns, path string) { return w.podAt("") }

// podAt is pod with another end of its name.
func (w *containers) podAt(end string) (ns *kernel.Netns, path string) {
	ns, err := kernel.CreateNetns()
	w.must(err)
	w.Cleanup(func() { _ = ns.Close() })
	w.must(os.MkdirAll("/var/run/netns", 0o755))
	path = fmt.Sprintf("/var/run/netns/tortie-fv-%d%s", os.Getpid(), end)
	w.must(os.WriteFile(path, nil, 0o444))
	w.Cleanup(func() { _ = errors.Join(syscall.Unmount(path, syscall.MNT_DETACH), os.Remove(path)) })
	w.must(syscall.Mount(ns.Path(), path, "", syscall.MS_BIND, ""))
	return ns, path
}

// cni calls the plugin as a runtime does.
func (w *containers) cni(command, netns string) []byte {
	w.Helper()
	return w.call(command, netns, `{"cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "calico", "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}}`)
}

func (w *containers) call(command, netns, conf string) []byte {
	w.Helper()
	cmd := exec.Command("../../bin/calico")
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p", "CALICO_CNI_SOCKET=" + filepath.Join(w.volumes["var-run-calico"], "felix-cni.sock"),
	}
	out, err := cmd.Output()
	if err != nil {
		w.Fatalf("CNI %s: %v: %s", command, err, out)
	}
	return out
}

// ping goes from a pod to its node.
func ping(t *testing.T, from *kernel.Netns, to string) {
	t.Helper()
	if err := from.Do(func() error {
		out, err := exec.Command("ping", "-c", "1", "-W", "5", to).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Errorf("ping %s: %v", to, err)
	}
}

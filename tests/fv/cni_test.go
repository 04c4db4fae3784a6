package fv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"tortie/internal/polltest"
	"tortie/tests/lab"
)

// debianPlugins is where Debian's containernetworking-plugins puts the reference
// plugins.
const debianPlugins = "/usr/lib/cni"

// onNode runs plugins for libcni as the runtime of a node does: in the node's network
// and mount namespaces.
type onNode struct {
	version.PluginDecoder
	l    *lab.Lab
	node string
}

// ExecPlugin runs one plugin. What it prints is its result, or its error.
func (n *onNode) ExecPlugin(_ context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	args := []string{"env"}
	for _, pair := range environ {
		if strings.HasPrefix(pair, "CNI_") {
			args = append(args, pair)
		}
	}
	var out, errs bytes.Buffer
	err := n.l.Exec(n.node, append(args, path), lab.Stdio{In: bytes.NewReader(stdin), Out: &out, Err: &errs})
	if err == nil {
		return out.Bytes(), nil
	}
	told := &types.Error{}
	if json.Unmarshal(out.Bytes(), told) != nil || told.Msg == "" {
		return nil, fmt.Errorf("%s: %w: %s%s", path, err, &out, &errs)
	}
	return nil, told
}

// FindInPath finds a plugin by its type.
func (n *onNode) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// runtime is libcni on a node of a lab.
type runtime struct {
	*testing.T
	l   *lab.Lab
	cni *libcni.CNIConfig
}

func newRuntime(t *testing.T, l *lab.Lab, pluginDirs ...string) runtime {
	t.Helper()
	programs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	dirs := append([]string{programs}, pluginDirs...)
	return runtime{t, l, libcni.NewCNIConfigWithCacheDir(dirs, t.TempDir(), &onNode{l: l, node: "node1"})}
}

// list is a network of some plugins.
func (r runtime) list(name, cniVersion string, plugins ...string) *libcni.NetworkConfigList {
	r.Helper()
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, `{"name": %q, "cniVersion": %q, "plugins": [%s]}`, name, cniVersion, strings.Join(plugins, ", ")))
	if err != nil {
		r.Fatal(err)
	}
	return list
}

// sandbox is a container without its processes, and what a runtime says of it.
type sandbox struct {
	*lab.Pod
	rt *libcni.RuntimeConf
}

// sandbox makes a container without a network; it ends with the test.
func (r runtime) sandbox(name string) sandbox {
	r.Helper()
	pod, err := r.l.Sandbox(lab.PodSpec{Name: name, Node: "node1"})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = r.l.RemoveSandbox(pod) })
	return sandbox{pod, &libcni.RuntimeConf{
		ContainerID: pod.ContainerID, NetNS: pod.Pause.Netns(), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", pod.Namespace}, {"K8S_POD_NAME", pod.Name}},
	}}
}

// add is ADD, whose result must be in the version of the list.
func (r runtime) add(list *libcni.NetworkConfigList, c sandbox) *types100.Result {
	r.Helper()
	result, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
	if err != nil {
		r.Fatalf("ADD of %s: %v", c.Name, err)
	}
	if result.Version() != list.CNIVersion {
		r.Errorf("ADD of %s: the result is of version %s, want %s", c.Name, result.Version(), list.CNIVersion)
	}
	newest, err := types100.GetResult(result)
	if err != nil {
		r.Fatal(err)
	}
	return newest
}

func (r runtime) del(list *libcni.NetworkConfigList, c sandbox) {
	r.Helper()
	if err := r.cni.DelNetworkList(r.Context(), list, c.rt); err != nil {
		r.Errorf("DEL of %s: %v", c.Name, err)
	}
}

// check is CHECK; nothing wanted means that it must be content, else it must say all
// of it.
func (r runtime) check(list *libcni.NetworkConfigList, c sandbox, want ...string) {
	r.Helper()
	err := r.cni.CheckNetworkList(r.Context(), list, c.rt)
	if err == nil && len(want) == 0 {
		return
	}
	if err == nil || len(want) == 0 {
		r.Errorf("CHECK of %s: %v, want %q", c.Name, err, want)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			r.Errorf("CHECK of %s: %q does not say %q", c.Name, err, w)
		}
	}
}

// wantCode demands an error of CNI that says something.
func (r runtime) wantCode(err error, code uint, says string) {
	r.Helper()
	told := &types.Error{}
	if !errors.As(err, &told) || told.Code != code || !strings.Contains(told.Msg, says) || strings.Contains(told.Msg, "\n") {
		r.Errorf("error %v, want one line of code %d that says %q", err, code, says)
	}
}

// inPod runs a command in the container's network namespace.
func (r runtime) inPod(c sandbox, command string) string {
	r.Helper()
	return r.onNode("nsenter --net=" + c.Pause.Netns() + " " + command)
}

// onNode runs a command on the node.
func (r runtime) onNode(command string) string {
	r.Helper()
	var out bytes.Buffer
	if err := r.l.Exec("node1", strings.Fields(command), lab.Stdio{Out: &out, Err: &out}); err != nil {
		r.Fatalf("%s: %v: %s", command, err, &out)
	}
	return out.String()
}

// until waits for what comes by itself.
func (r runtime) until(what string, met func() bool) {
	r.Helper()
	polltest.Until(r.T, 30*time.Second, what, func() (bool, string) { return met(), "not yet" })
}

func (r runtime) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// apply hands a manifest to calicoctl.
func (r runtime) apply(manifest string) {
	r.Helper()
	var out bytes.Buffer
	if err := r.l.Exec("node1", []string{"calicoctl", "apply", "-f", "-"}, lab.Stdio{In: strings.NewReader(manifest), Out: &out, Err: &out}); err != nil {
		r.Fatalf("calicoctl apply: %v: %s", err, &out)
	}
}

// askingPlugin lets pods ask by annotation for floating addresses and other sources.
const askingPlugin = `{"type": "calico", "mtu": 1400, "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}, "policy": {"type": "k8s"},
	"feature_control": {"floating_ips": true}, "capabilities": {"io.kubernetes.cri.pod-annotations": true}}`

const calicoPlugin = `{"type": "calico", "mtu": 1400, "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}, "policy": {"type": "k8s"}}`

// TestConformance goes through CNI's commands with libcni itself, as containerd and
// CRI-O do, in every version of the specification that has them.
func TestConformance(t *testing.T) {
	l := up(t, "cni", 1)
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			r := newRuntime(t, l)
			list := r.list("net-"+strings.ReplaceAll(v, ".", "-"), v, calicoPlugin)
			t.Run("ADD twice, DEL thrice", func(t *testing.T) { runtime{t, l, r.cni}.lifeOfAContainer(list) })
			t.Run("CHECK", func(t *testing.T) {
				runtime{t, l, r.cni}.checks(r.list(list.Name, v, askingPlugin))
			})
			t.Run("GC", func(t *testing.T) { runtime{t, l, r.cni}.collects(list) })
			t.Run("STATUS", func(t *testing.T) { runtime{t, l, r.cni}.statusOfAFullPool(v) })
			waitStoreSound(t, l, 0)
		})
	}
	newest := runtime{t, l, newRuntime(t, l).cni}
	t.Run("cniVersions", func(t *testing.T) { runtime{t, l, newest.cni}.highestVersion() })
	t.Run("STATUS without a pool", func(t *testing.T) { runtime{t, l, newest.cni}.statusWithoutPool() })
	t.Run("STATUS with felix down", func(t *testing.T) { runtime{t, l, newest.cni}.statusWithoutFelix() })
	t.Run("STATUS with an etcd that hangs", func(t *testing.T) { runtime{t, l, newest.cni}.statusWithSilentEtcd() })
	t.Run("STATUS with etcd down", func(t *testing.T) { runtime{t, l, newest.cni}.statusWithoutEtcd() })
}

// lifeOfAContainer adds a container twice and deletes it three times, the last time
// without its namespace.
func (r runtime) lifeOfAContainer(list *libcni.NetworkConfigList) {
	c := r.sandbox("life")
	first, second := r.add(list, c), r.add(list, c)
	if diff := cmp.Diff(first, second); diff != "" {
		r.Errorf("a repeated ADD answers otherwise (-first +second):\n%s", diff)
	}
	if len(first.IPs) != 2 || len(first.Interfaces) != 2 || len(first.Routes) != 2 || first.Interfaces[1].Sandbox != c.rt.NetNS {
		r.Errorf("result %v", first)
	}
	for _, ip := range first.IPs {
		if !strings.Contains(r.inPod(c, "ip addr show dev eth0"), ip.Address.String()) {
			r.Errorf("the container has no address %s", &ip.Address)
		}
	}
	r.del(list, c)
	r.del(list, c)
	c.rt.NetNS = ""
	r.del(list, c)
	never := r.sandbox("never")
	r.del(list, never)
}

// tampering is what somebody does to a container's network, and what CHECK must call it.
type tampering struct {
	name string
	// do gets the container, its device on the node and its IPv4 address.
	do   func(r runtime, c sandbox, device, addr string)
	want []string
	// mended: felix puts it right at once, perhaps before CHECK looks, but the same no more
	// than once a second: it is done again until CHECK has seen it.
	mended bool
	// lasting: a repeated ADD does not undo it, DEL and a new ADD do.
	lasting bool
}

// tamperings are undone by a repeated ADD, but for those that say otherwise.
func tamperings() []tampering {
	inPod := func(command string) func(runtime, sandbox, string, string) {
		return func(r runtime, c sandbox, device, addr string) {
			r.inPod(c, strings.NewReplacer("DEVICE", device, "ADDR", addr).Replace(command))
		}
	}
	onNode := func(command string) func(runtime, sandbox, string, string) {
		return func(r runtime, _ sandbox, device, addr string) {
			r.onNode(strings.NewReplacer("DEVICE", device, "ADDR", addr).Replace(command))
		}
	}
	const rules = "the rules for "
	return []tampering{
		{name: "InterfaceGone", do: inPod("ip link del eth0"), want: []string{"the node's device cali", "is missing", "the pod's interface eth0 is missing"}},
		{name: "InterfaceRenamed", do: func(r runtime, c sandbox, _, _ string) {
			r.inPod(c, "ip link set eth0 down")
			r.inPod(c, "ip link set eth0 name eth7")
		}, want: []string{"the pod's interface eth0 is missing"}},
		{name: "InterfaceDown", do: inPod("ip link set eth0 down"), want: []string{"eth0 is down"}},
		{name: "AddressGone", do: inPod("ip addr del ADDR/32 dev eth0"), want: []string{"eth0 does not have the address ADDR"}},
		{name: "IPv6AddressGone", do: inPod("ip -6 addr flush dev eth0 scope global"), want: []string{"eth0 does not have the address fd"}},
		{name: "DefaultRouteGone", do: inPod("ip route del default"), want: []string{"the route default via 169.254.1.1 dev eth0 is missing"}},
		{name: "IPv6DefaultRouteGone", do: inPod("ip -6 route del default"), want: []string{"the route default via fe80::ecee:eeff:feee:eeee dev eth0 is missing"}},
		{name: "GatewayRouteGone", do: func(r runtime, c sandbox, _, _ string) {
			r.inPod(c, "ip route del default")
			r.inPod(c, "ip route del 169.254.1.1")
		}, want: []string{"the route 169.254.1.1/32 dev eth0 is missing", "the route default via 169.254.1.1 dev eth0 is missing"}},
		{name: "NeighbourOfAnother", do: inPod("ip neigh replace 169.254.1.1 lladdr 02:00:00:00:00:01 nud permanent dev eth0"), want: []string{"the permanent neighbour 169.254.1.1 is missing or has another MAC address"}},
		{name: "HigherMTU", do: inPod("ip link set eth0 mtu 1500"), want: []string{"eth0 has MTU 1500, more than the 1400 of its other end"}},
		{name: "OtherMAC", do: inPod("ip link set eth0 address 02:00:00:00:00:02"), want: []string{"eth0 has MAC address 02:00:00:00:00:02 instead of"}},
		{name: "NodesDeviceDown", do: onNode("ip link set DEVICE down"), want: []string{"the node's device cali", "is down", "route to ADDR is missing"}, mended: true},
		{name: "NodesDevicesMTU", do: onNode("ip link set DEVICE mtu 1300"), want: []string{"the node's device cali", "has MTU 1300 instead of 1400"}, mended: true},
		{name: "EndpointGone", do: func(r runtime, c sandbox, _, _ string) {
			r.onNode("calicoctl delete workloadendpoint node1-k8s-" + strings.ReplaceAll(c.Name, "-", "--") + "-eth0")
		}, want: []string{"WorkloadEndpoint", "is missing"}},
		{name: "HostRouteGone", do: onNode("ip route replace blackhole ADDR proto 80"), want: []string{"the node's route to ADDR is"}, mended: true},
		{name: "SourceRulesGone", do: onNode("nft flush chain inet tortie pod-sources"), want: []string{rules + "what pods may send are not as they should be: rules of chain pod-sources"}, mended: true},
		{name: "AllowedSourcesGone", do: onNode("nft flush set inet tortie allowed-sources-ipv4"), want: []string{rules + "what pods may send are not as they should be: elements of set allowed-sources-ipv4"}, mended: true},
		{name: "FloatingAddressGone", do: onNode("nft flush map inet tortie floating-ipv4"), want: []string{rules + "floating addresses are not as they should be: elements of map floating-ipv4"}, mended: true},
		{name: "RulesGone", do: onNode("nft flush table inet tortie"), want: []string{rules + "what pods may send", rules + "floating addresses", rules + "natOutgoing"}, mended: true},
		{name: "AddressReleased", do: onNode("calicoctl ipam release --ip=ADDR --force"), want: []string{"address ADDR is not assigned to handle net-"}, lasting: true},
	}
}

// checks demands that CHECK names each difference, and that the ADD after it mends it.
// The version before CHECK has none: libcni says so. The pod has all that stands behind one.
func (r runtime) checks(list *libcni.NetworkConfigList) {
	r.apply("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {floatingIPs: Enabled, workloadSourceSpoofing: Any}\n")
	c := r.sandbox("checked")
	c.rt.CapabilityArgs = map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{
		"cni.projectcalico.org/floatingIPs": `["10.65.250.9"]`, "cni.projectcalico.org/allowedSourcePrefixes": `["192.0.2.0/24"]`,
	}}
	r.until("ADD to be permitted what it asks for", func() bool {
		_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
		return err == nil
	})
	result := r.add(list, c)
	defer r.del(list, c)
	if list.CNIVersion == "0.3.1" {
		r.check(list, c, "does not support the CHECK command")
		return
	}
	r.check(list, c)
	device := result.Interfaces[0].Name
	for _, tamper := range tamperings() {
		addr := result.IPs[0].Address.IP.String()
		r.Run(tamper.name, func(t *testing.T) {
			r := runtime{t, r.l, r.cni}
			var want []string
			for _, w := range tamper.want {
				want = append(want, strings.ReplaceAll(w, "ADDR", addr))
			}
			if tamper.mended {
				r.until("CHECK says "+strings.Join(want, ", "), func() bool {
					tamper.do(r, c, device, addr)
					return saysAll(r.cni.CheckNetworkList(r.Context(), list, c.rt), want)
				})
			} else {
				tamper.do(r, c, device, addr)
				r.check(list, c, want...)
			}
			if tamper.lasting {
				r.del(list, c)
			}
			result = r.add(list, c)
			r.check(list, c)
		})
	}
}

func saysAll(err error, want []string) bool {
	return err != nil && !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(err.Error(), w) })
}

// collects demands that GC releases what is not listed, and nothing else.
func (r runtime) collects(list *libcni.NetworkConfigList) {
	kept, gone := r.sandbox("kept"), r.sandbox("gone")
	collector := r.cni
	if list.CNIVersion == "1.1.0" {
		// A runtime that remembers nothing: for what it remembers, libcni sends DEL first.
		// Before 1.1.0 that is all it does.
		collector = newRuntime(r.T, r.l).cni
	}
	r.add(list, kept)
	lost := r.add(list, gone).IPs[0].Address.IP.String()
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: kept.ContainerID, IfName: "eth0"}}}
	if err := collector.GCNetworkList(r.Context(), list, args); err != nil {
		r.Errorf("GC: %v", err)
	}
	if route := r.onNode("ip route show " + lost); route != "" {
		r.Errorf("after GC the node has %s", route)
	}
	if list.CNIVersion != "0.3.1" {
		r.check(list, kept)
	}
	if err := collector.GCNetworkList(r.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
		r.Errorf("GC with an empty list: %v", err)
	}
	if names := r.onNode("ip -o link show"); strings.Contains(names, "cali") {
		r.Errorf("after GC with an empty list the node has\n%s", names)
	}
	r.add(list, gone)
	if err := r.cni.GCNetworkList(r.Context(), list, &libcni.GCArgs{}); err != nil { // which the library writes as null
		r.Errorf("GC of a runtime that has none: %v", err)
	}
	if names := r.onNode("ip -o link show"); strings.Contains(names, "cali") {
		r.Errorf("after GC of a runtime that has none the node has\n%s", names)
	}
}

// statusOfAFullPool fills a pool: ADD says 11, and STATUS 50 until an address is free.
// Versions before 1.1.0 have no STATUS: libcni asks nobody.
func (r runtime) statusOfAFullPool(v string) {
	r.apply("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: small}\nspec: {cidr: 10.99.0.0/30, blockSize: 30, ipipMode: Never, vxlanMode: Never}\n")
	defer r.onNode("calicoctl delete ippool small")
	list := r.list("full", v, `{"type": "calico", "ipam": {"type": "calico-ipam", "ipv4_pools": ["small"]}, "policy": {"type": "k8s"}}`)
	r.until("STATUS is content", func() bool { return r.cni.GetStatusNetworkList(r.Context(), list) == nil })
	var containers []sandbox
	for i := range 4 {
		containers = append(containers, r.sandbox(fmt.Sprintf("full-%d", i)))
		r.add(list, containers[i])
		defer r.del(list, containers[i])
	}
	late := r.sandbox("full-late")
	_, err := r.cni.AddNetworkList(r.Context(), list, late.rt)
	r.wantCode(err, 11, "no free address")
	status := r.cni.GetStatusNetworkList(r.Context(), list)
	if v != "1.1.0" {
		if status != nil {
			r.Errorf("STATUS: %v", status)
		}
	} else {
		r.wantCode(status, 50, "no free address")
		r.del(list, containers[0])
		r.until("STATUS sees the free address", func() bool { return r.cni.GetStatusNetworkList(r.Context(), list) == nil })
		r.add(list, late)
	}
	r.del(list, late)
}

// statusWithoutPool: none of those that the configuration names, none for one IP version,
// and none at all.
func (r runtime) statusWithoutPool() {
	list := r.list("net1", "1.1.0", calicoPlugin)
	r.must(r.cni.GetStatusNetworkList(r.Context(), list))
	named := r.list("net1", "1.1.0", `{"type": "calico", "ipam": {"type": "calico-ipam", "ipv4_pools": ["none-such", "10.99.0.0/24"]}}`)
	r.wantCode(r.cni.GetStatusNetworkList(r.Context(), named), 50, "of the IP pools that the network configuration names, none-such, 10.99.0.0/24, none is there and enabled for workloads; see calicoctl get ippools")
	c := r.sandbox("poolless")
	_, err := r.cni.AddNetworkList(r.Context(), named, c.rt)
	r.wantCode(err, 7, `key "ipam.ipv4_pools": there is no IP pool none-such, 10.99.0.0/24`)
	for _, pool := range []struct{ name, says string }{{"pool-v6", "IPv6"}, {"pool-v4", "IPv4"}} {
		r.onNode(`calicoctl patch ippool ` + pool.name + ` -p {"spec":{"disabled":true}}`)
		defer r.onNode(`calicoctl patch ippool ` + pool.name + ` -p {"spec":{"disabled":false}}`)
		r.until("STATUS says that there is none of "+pool.says, func() bool {
			err = r.cni.GetStatusNetworkList(r.Context(), list)
			return err != nil && strings.Contains(err.Error(), pool.says)
		})
		r.wantCode(err, 50, "there is no enabled IP pool for workloads with "+pool.says+" addresses; create one with: calicoctl create -f")
	}
	_, err = r.cni.AddNetworkList(r.Context(), list, c.rt)
	r.wantCode(err, 11, "no usable IP pool")
	for _, pool := range []string{"pool-v4", "pool-v6"} {
		r.onNode(`calicoctl patch ippool ` + pool + ` -p {"spec":{"disabled":false}}`)
	}
	r.until("STATUS is content", func() bool { return r.cni.GetStatusNetworkList(r.Context(), list) == nil })
	r.add(list, c)
	r.del(list, c)
}

// highestVersion: a list that names several versions is served in the newest.
func (r runtime) highestVersion() {
	list, err := libcni.NetworkConfFromBytes([]byte(`{"name": "several", "cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "plugins": [` + calicoPlugin + `]}`))
	if err != nil {
		r.Fatal(err)
	}
	c := r.sandbox("several")
	if r.add(list, c); list.CNIVersion != "1.1.0" {
		r.Errorf("version %s", list.CNIVersion)
	}
	r.check(list, c)
	r.del(list, c)
}

func (r runtime) statusWithoutFelix() {
	list := r.list("net1", "1.1.0", calicoPlugin)
	r.must(r.l.KillDaemon("felix", "node1", syscall.SIGKILL))
	var err error
	r.until("felix is gone", func() bool {
		err = r.cni.GetStatusNetworkList(r.Context(), list)
		return err == nil || !strings.Contains(err.Error(), "without an answer") // a connection that died with it
	})
	r.wantCode(err, 50, "felix is not running on this node")
	r.must(r.l.StartDaemon("felix", "node1"))
	r.must(r.l.WaitReady(r.Context()))
}

// statusWithSilentEtcd: connections are there, answers are not.
func (r runtime) statusWithSilentEtcd() {
	list := r.list("net1", "1.1.0", calicoPlugin)
	etcd := r.l.Daemon("etcd", "etcd")
	r.must(etcd.Signal(syscall.SIGSTOP))
	err := r.cni.GetStatusNetworkList(r.Context(), list)
	r.must(etcd.Signal(syscall.SIGCONT))
	r.wantCode(err, 50, "datastore")
	r.until("STATUS is content", func() bool { return r.cni.GetStatusNetworkList(r.Context(), list) == nil })
}

func (r runtime) statusWithoutEtcd() {
	list := r.list("net1", "1.1.0", calicoPlugin)
	r.must(r.l.StopEtcd())
	var err error
	r.until("STATUS says that the datastore is away", func() bool {
		err = r.cni.GetStatusNetworkList(r.Context(), list)
		return err != nil
	})
	r.wantCode(err, 50, "datastore")
	r.must(r.l.StartEtcd(r.Context()))
	r.must(r.l.WaitReady(r.Context()))
	r.until("STATUS is content", func() bool { return r.cni.GetStatusNetworkList(r.Context(), list) == nil })
}

package daemon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/felix/dataplane"
	"tortie/felix/journal"
	"tortie/felix/problems"
	"tortie/felix/registration"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kubeapi"
	"tortie/internal/kubeapi/apitest"
	"tortie/internal/polltest"
)

// pluginBinary builds the CNI plugin once.
var pluginBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cni-plugin")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "calico")
	out, err := exec.Command("go", "build", "-o", path, "tortie/cni-plugin").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the CNI plugin: %w\n%s", err, out)
	}
	return path, os.Symlink("calico", filepath.Join(dir, "calico-ipam"))
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := pluginBinary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// node is a felix in a network namespace of its own, with a datastore in memory
// and the real CNI plugin.
type node struct {
	answered sync.Map // the results of ADDs by container, as a runtime keeps them for CHECK
	*testing.T
	reg    *api.Registry
	store  *memory.Store
	ns     *kernel.Netns
	kernel *kernel.Handle
	dir    string
	socket string
	felix  *felix
	stop   func()
	// kubernetes is the API server, if the node has one.
	kubernetes *apitest.Server
	plugins    string            // where other CNI plugins are
	rules      []dataplane.Rules // nft works on the namespace of its process
	lacking    atomic.Pointer[error]
	settings   registration.Settings
}

// lacks has the kernel lack something from now on; felix asks in the background.
func (n *node) lacks(what error) { n.lacking.Store(&what) }

func (n *node) missing() error {
	if what := n.lacking.Load(); what != nil {
		return *what
	}
	return nil
}

func newNode(t *testing.T) *node {
	t.Helper()
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6)
	reg := api.NewRegistry()
	n := &node{T: t, reg: reg, store: memory.New(reg), dir: t.TempDir(), ns: kerneltest.NewNetns(t)}
	n.kernel = kerneltest.Open(t, n.ns)
	n.socket = filepath.Join(n.dir, "felix.sock")
	for name, cidr := range map[string]string{"pool4": "10.65.0.0/16", "pool6": "fd00:65::/48"} {
		pool := v3.NewIPPool()
		pool.Name, pool.Spec.CIDR = name, cidr
		n.put(pool)
	}
	self := &api.Node{}
	self.Kind, self.APIVersion, self.Name = string(api.KindNode), api.GroupVersion, "node1"
	self.Spec.BGP = &api.NodeBGPSpec{IPv4Address: "10.10.1.1/24"}
	n.put(self)
	return n
}

func (n *node) put(obj api.Object) {
	n.Helper()
	if _, err := datastore.NewResources(n.store, n.reg, nil).Create(context.Background(), obj); err != nil {
		n.Fatal(err)
	}
}

// start starts felix, and waits until it serves ADD if ready.
func (n *node) start(ready bool) {
	n.Helper()
	log := slog.New(slog.NewTextHandler(n.Output(), nil))
	book, err := journal.Open(journal.Config{Dir: filepath.Join(n.dir, "journal"), Log: log})
	if err != nil {
		n.Fatal(err)
	}
	local := config.FromEnv([]string{"FELIX_CNISOCKET=" + n.socket, "FELIX_CNITIMEOUT=5", "FELIX_MTUFILE=" + filepath.Join(n.dir, "mtu")})
	cfg, _ := config.Resolve(local)
	n.felix = &felix{
		node: "node1", settings: n.settings, client: n.store, registry: n.reg, journal: book, log: log, kernel: n.kernel,
		rules:  func(func() config.Config, tracking, *slog.Logger) []dataplane.Rules { return n.rules },
		newUID: func() string { return "uid" }, missing: n.missing, show: func([]problems.Problem) {},
		level: &slog.LevelVar{}, config: newConfigFollower("node1", []config.Layer{local}, cfg, log),
	}
	if n.kubernetes != nil {
		client, err := kubeapi.New(n.kubernetes.Config(), role)
		if err != nil {
			n.Fatal(err)
		}
		n.felix.kubernetes = newKubernetes(client, Process{Environ: []string{"CALICO_K8S_NODE_REF=worker-1"}}, "node1", log)
	}
	if err := n.felix.build(); err != nil {
		n.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	f := n.felix
	go func() { ended <- f.run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			n.Error(err)
		}
		f.close()
		_ = book.Close()
	}
	if ready {
		n.await("felix is ready", func() bool { return f.ready() == nil })
	}
}

func (n *node) await(what string, condition func() bool) {
	n.Helper()
	polltest.Until(n, 15*time.Second, what, func() (bool, string) { return condition(), "it is not so" })
}

// pod is a container's network namespace.
type pod struct {
	*kernel.Handle
	id, path string
	args     string // CNI_ARGS
}

func (n *node) newPod(id string) pod {
	n.Helper()
	ns := kerneltest.NewNetns(n.T)
	return pod{Handle: kerneltest.Open(n, ns), id: id, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())}
}

const testConf = `{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}}`

// cni runs the plugin as a runtime does.
func (n *node) cni(command string, p pod, conf string) (stdout string, err error) {
	n.Helper()
	binary, err := pluginBinary()
	if err != nil {
		n.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.id, "CNI_NETNS=" + p.path, "CNI_IFNAME=eth0",
		"CNI_PATH=" + cmp.Or(n.plugins, "/opt/cni/bin"), "CNI_ARGS=" + p.args, "CALICO_CNI_SOCKET=" + n.socket, "CALICO_CNI_WAIT=100ms",
	}
	if answered, ok := n.answered.Load(p.id); ok && command == "CHECK" {
		conf = strings.TrimSuffix(strings.TrimSpace(conf), "}") + `, "prevResult": ` + answered.(string) + "}"
	}
	cmd.Stdin = strings.NewReader(conf)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	if errOut.Len() > 0 {
		n.Errorf("%s wrote to standard error: %s", command, &errOut)
	}
	if command == "ADD" && err == nil {
		n.answered.Store(p.id, out.String())
	}
	return out.String(), err
}

func (n *node) ok(command string, p pod) string {
	n.Helper()
	out, err := n.cni(command, p, testConf)
	if err != nil {
		n.Fatalf("%s %s: %v\n%s", command, p.id, err, out)
	}
	return out
}

type cniError struct {
	CNIVersion string
	Code       int
	Msg        string
	Details    string
}

func (n *node) fails(command string, p pod) cniError {
	n.Helper()
	out, err := n.cni(command, p, testConf)
	var exit *exec.ExitError
	var failed cniError
	if !errors.As(err, &exit) || json.Unmarshal([]byte(out), &failed) != nil || failed.Msg == "" {
		n.Fatalf("%s: %v, output %q; want a CNI error", command, err, out)
	}
	return failed
}

// routes are the destinations felix routes to a device.
func (n *node) routes() []string {
	n.Helper()
	all, err := n.kernel.Routes(context.Background(), kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
	if err != nil {
		n.Fatal(err)
	}
	var dsts []string
	for _, r := range all {
		if r.Link != 0 && r.Type == kernel.RouteUnicast {
			dsts = append(dsts, r.Dst.String())
		}
	}
	slices.Sort(dsts)
	return dsts
}

func (n *node) devices() int {
	n.Helper()
	devices, err := n.felix.pods.Devices(context.Background())
	if err != nil {
		n.Fatal(err)
	}
	return len(devices)
}

func (n *node) stored(kind api.Kind) int {
	n.Helper()
	s, err := n.store.List(context.Background(), datastore.Range{Kind: kind})
	if err != nil {
		n.Fatal(err)
	}
	return len(s.Entries)
}

func TestPluginFelixAndKernelTogether(t *testing.T) {
	n := newNode(t)
	n.start(true)
	defer func() { n.stop() }()
	n.ok("STATUS", pod{})
	p := n.newPod("container-1")
	out := n.ok("ADD", p)

	var result struct {
		CNIVersion string
		Interfaces []struct {
			Name, Mac, Sandbox string
			Mtu                int
		}
		IPs []struct {
			Address   string
			Interface int
		}
		Routes []struct{ Dst, GW string }
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatal(err)
	}
	if result.CNIVersion != "1.1.0" || len(result.Interfaces) != 2 || len(result.IPs) != 2 || len(result.Routes) != 2 {
		t.Fatalf("result %s", out)
	}
	// The routes are in the kernel when ADD returns.
	var want []string
	for _, ip := range result.IPs {
		want = append(want, ip.Address)
	}
	slices.Sort(want)
	if got := n.routes(); !slices.Equal(got, want) {
		t.Errorf("routes %v, want %v", got, want)
	}
	link, err := p.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if link.MAC.String() != result.Interfaces[1].Mac || link.MTU != result.Interfaces[1].Mtu || !link.Up {
		t.Errorf("the pod's interface %+v, result %s", link, out)
	}
	addrs, err := p.Addresses(link.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if !slices.ContainsFunc(addrs, func(a kernel.Address) bool { return a.Prefix == netip.MustParsePrefix(w) }) {
			t.Errorf("the pod lacks %s: %v", w, addrs)
		}
	}
	if again := n.ok("ADD", p); again != out {
		t.Errorf("a repeated ADD answers\n%s\nafter\n%s", again, out)
	}
	if out := n.ok("CHECK", p); out != "" {
		t.Errorf("CHECK wrote %q", out)
	}
	if err := n.kernel.DeleteRoute(n.anyRoute(want[0])); err != nil {
		t.Fatal(err)
	}

	n.ok("DEL", p)
	if got := n.routes(); len(got) != 0 || n.devices() != 0 {
		t.Errorf("after DEL: routes %v, %d devices", got, n.devices())
	}
	n.ok("DEL", p)
	n.await("the address is released", func() bool {
		return n.stored(api.KindIPAMHandle) == 0 && n.stored(api.KindWorkloadEndpoint) == 0
	})
	if failed := n.fails("CHECK", p); failed.Code != 3 {
		t.Errorf("CHECK after DEL: %+v", failed)
	}
}

func (n *node) anyRoute(dst string) kernel.Route {
	n.Helper()
	all, err := n.kernel.Routes(context.Background(), kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
	if err != nil {
		n.Fatal(err)
	}
	for _, r := range all {
		if r.Dst.String() == dst {
			return r
		}
	}
	n.Fatalf("no route to %s", dst)
	return kernel.Route{}
}

func TestRestartKeepsPodsAndFinishesReleases(t *testing.T) {
	n := newNode(t)
	n.start(true)
	kept, gone := n.newPod("kept"), n.newPod("gone")
	result := n.ok("ADD", kept)
	n.ok("ADD", gone)
	before := n.routes()
	n.stop()
	if got := n.routes(); !slices.Equal(got, before) {
		t.Errorf("routes after felix ended: %v, before %v", got, before)
	}

	// The datastore is away when felix comes back.
	n.store.SetUnavailable(true)
	n.start(false)
	if failed := n.fails("ADD", n.newPod("early")); failed.Code != 11 || failed.CNIVersion != "1.1.0" {
		t.Errorf("ADD without a datastore: %+v", failed)
	}
	if failed := n.fails("STATUS", pod{}); failed.Code != 50 {
		t.Errorf("STATUS without a datastore: %+v", failed)
	}
	n.ok("DEL", gone)
	if n.devices() != 1 || len(n.routes()) != 2 {
		t.Errorf("after DEL: %d devices, routes %v", n.devices(), n.routes())
	}
	n.stop()

	n.store.SetUnavailable(false)
	n.start(true)
	defer func() { n.stop() }()
	n.await("the release is done", func() bool { return n.stored(api.KindWorkloadEndpoint) == 1 && n.stored(api.KindIPAMHandle) == 1 })
	if again := n.ok("ADD", kept); again != result {
		t.Errorf("a repeated ADD after two restarts answers\n%s\nafter\n%s", again, result)
	}
	n.ok("CHECK", kept)
}

func TestManyPodsAtOnce(t *testing.T) {
	n := newNode(t)
	n.start(true)
	defer func() { n.stop() }()
	pods := make([]pod, 12)
	for i := range pods {
		pods[i] = n.newPod(fmt.Sprintf("c%d", i))
	}
	each := func(command string) {
		var wg sync.WaitGroup
		for _, p := range pods {
			wg.Go(func() {
				if out, err := n.cni(command, p, testConf); err != nil {
					t.Errorf("%s: %v: %s", command, err, out)
				}
			})
		}
		wg.Wait()
	}
	each("ADD")
	if got := len(n.routes()); got != 2*len(pods) {
		t.Errorf("%d routes, want %d", got, 2*len(pods))
	}
	each("DEL")
	if got := n.routes(); len(got) != 0 {
		t.Errorf("routes %v", got)
	}
	n.await("all is released", func() bool { return n.stored(api.KindIPAMHandle) == 0 })
}

// TestConfigurationTakesEffectOnARunningFelix: in the kernel, without a restart, and
// without a pod noticing.
func TestConfigurationTakesEffectOnARunningFelix(t *testing.T) {
	kerneltest.Require(t, kerneltest.Vxlan)
	n := newNode(t)
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR, pool.Spec.VXLANMode = "tunneled", "10.66.0.0/16", v3.VXLANModeAlways
	n.put(pool)
	n.start(true)
	defer func() { n.stop() }()
	n.ok("ADD", n.newPod("c1"))
	routes := n.routes()
	device := func() (string, kernel.Vxlan) {
		l, err := n.kernel.LinkByName("vxlan.calico")
		if err != nil {
			return "none", kernel.Vxlan{}
		}
		v, err := n.kernel.Vxlan(l.Index)
		if err != nil {
			return "none", v
		}
		return fmt.Sprintf("MTU %d", l.MTU), v
	}
	is := func(mtu string, vni uint32, port uint16) {
		t.Helper()
		n.await(fmt.Sprintf("%s, VNI %d, port %d", mtu, vni, port), func() bool {
			got, v := device()
			return got == mtu && v.VNI == vni && v.Port == port
		})
	}
	is("MTU 1450", 4096, 4789)
	resource := v3.NewFelixConfiguration()
	resource.Name = "default"
	n.put(resource)
	set := func(change func(*v3.FelixConfigurationSpec)) {
		t.Helper()
		key := api.Key{Kind: api.KindFelixConfiguration, Name: "default"}
		entry, err := n.store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		change(&entry.Object.(*v3.FelixConfiguration).Spec)
		if _, err := datastore.NewResources(n.store, n.reg, nil).Update(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
	}
	number := func(i int) *int { return &i }
	set(func(s *v3.FelixConfigurationSpec) { s.VXLANVNI, s.VXLANPort = number(7), number(4790) })
	is("MTU 1450", 7, 4790)
	set(func(s *v3.FelixConfigurationSpec) { s.VXLANMTU = number(1400) })
	is("MTU 1400", 7, 4790)
	n.await("new pods have the MTU, too", func() bool { return n.felix.underlay.MTU() == 1400 })
	off, on := false, true
	set(func(s *v3.FelixConfigurationSpec) { s.VXLANEnabled = &off })
	// The device itself stays until nobody sends into it any more.
	n.await("the node has no part in VXLAN", func() bool { return n.felix.underlay.MTU() == 1500 })
	set(func(s *v3.FelixConfigurationSpec) { s.VXLANEnabled, s.VXLANVNI = nil, nil })
	is("MTU 1400", 4096, 4790)

	_, port, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	set(func(s *v3.FelixConfigurationSpec) {
		chosen, _ := strconv.Atoi(port)
		s.HealthEnabled, s.HealthPort, s.HealthHost = &on, &chosen, ptr("127.0.0.1")
	})
	n.await("probes are answered", func() bool { return strings.TrimSpace(served("127.0.0.1:"+port+"/readiness")) == "ready" })
	set(func(s *v3.FelixConfigurationSpec) { s.HealthEnabled = &off })
	n.await("probes are answered no more", func() bool { return served("127.0.0.1:"+port+"/readiness") == "" })
	if got := n.routes(); !slices.Equal(got, routes) {
		t.Errorf("routes of pods %v, want %v", got, routes)
	}
}

// uplink makes the node's own device, with the default route.
func (n *node) uplink(address string) {
	n.Helper()
	eth, err := n.kernel.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "wire0"})
	for _, err := range []error{err, n.kernel.SetUp(eth.PeerIndex), n.kernel.AddAddress(eth.Index, netip.MustParsePrefix(address)), n.kernel.AddRoute(kernel.Route{
		Dst: netip.MustParsePrefix("0.0.0.0/0"), Protocol: kernel.ProtocolStatic, Link: eth.Index, Gateway: netip.MustParseAddr("10.10.1.254"),
	})} {
		if err != nil {
			n.Fatal(err)
		}
	}
}

// TestNodeWithTheAddressOfAnotherIsToldEverywhere: it does not register, and who asks it
// for a pod learns why, too. When the other is gone it works.
func TestNodeWithTheAddressOfAnotherIsToldEverywhere(t *testing.T) {
	n := newNode(t)
	n.uplink("10.10.1.1/24")
	self, other := api.Key{Kind: api.KindNode, Name: "node1"}, api.Key{Kind: api.KindNode, Name: "node2"}
	entry, err := n.store.Get(t.Context(), self)
	if err != nil {
		t.Fatal(err)
	}
	twin := entry.Object.DeepCopyObject().(*api.Node)
	twin.Name, twin.ResourceVersion, twin.UID = other.Name, "", ""
	n.put(twin)
	if _, err := n.store.Txn(t.Context(), datastore.DeleteAny(self)); err != nil {
		t.Fatal(err)
	}
	n.start(false)
	defer func() { n.stop() }()
	const says = "its address 10.10.1.1 is that of node node2 already; give one of them another address, or delete the node that is gone: calicoctl delete node node2"
	n.await("felix has heard of the datastore", func() bool { return n.felix.state.InSync() })
	n.await("the board has it", func() bool {
		found := n.felix.registrationProblem()
		return len(found) == 1 && strings.Contains(found[0].Line, says)
	})
	if failed := n.fails("ADD", n.newPod("c1")); failed.Code != 11 || !strings.Contains(failed.Msg, says) {
		t.Errorf("ADD: %+v", failed)
	}
	if failed := n.fails("STATUS", pod{}); failed.Code != 50 || !strings.Contains(failed.Msg, says) {
		t.Errorf("STATUS: %+v", failed)
	}
	if err := n.felix.ready(); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("ready: %v", err)
	}
	if _, err := n.store.Txn(t.Context(), datastore.DeleteAny(other)); err != nil {
		t.Fatal(err)
	}
	n.await("felix is ready", func() bool { return n.felix.ready() == nil })
	n.ok("ADD", n.newPod("c2"))
}

// TestNodeThatMovesToTheAddressOfAnotherGetsNoPods, though it is registered under its former
// one: others' packets for them go to the other. Pods that it has stay, and when the other
// is gone it works at once.
func TestNodeThatMovesToTheAddressOfAnotherGetsNoPods(t *testing.T) {
	n := newNode(t)
	n.uplink("10.10.1.7/24")
	n.start(true)
	n.ok("ADD", n.newPod("before"))
	n.stop()
	other := &api.Node{}
	other.Name, other.Spec.BGP = "node2", &api.NodeBGPSpec{IPv4Address: "10.10.1.7/24"}
	n.put(other)
	var err error
	if n.settings, err = registration.FromEnv(func(name string) string { return map[string]string{"IP": "autodetect"}[name] }); err != nil {
		t.Fatal(err)
	}
	n.start(true)
	defer func() { n.stop() }()
	const says = "its address 10.10.1.7 is that of node node2 already; give one of them another address, or delete the node that is gone: calicoctl delete node node2"
	n.await("felix finds it", func() bool { return n.felix.barred() != nil })
	lines := 0
	for _, source := range n.felix.sources() {
		for _, p := range source() {
			if strings.Contains(p.Line, "10.10.1.7") || strings.Contains(p.Line, "node2") {
				lines++
			}
		}
	}
	if lines != 1 {
		t.Errorf("it is said in %d lines", lines)
	}
	if failed := n.fails("ADD", n.newPod("c1")); failed.Code != 11 || !strings.Contains(failed.Msg, says) {
		t.Errorf("ADD: %+v", failed)
	}
	if failed := n.fails("STATUS", pod{}); failed.Code != 50 || !strings.Contains(failed.Msg, says) {
		t.Errorf("STATUS: %+v", failed)
	}
	if _, err := n.store.Txn(t.Context(), datastore.DeleteAny(api.Key{Kind: api.KindNode, Name: "node2"})); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.await("felix is registered", func() bool { return n.felix.registrar.Problem() == nil })
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	n.ok("ADD", n.newPod("c2"))
}

func ptr[T any](v T) *T { return &v }

// firstLook notes whether ADD was served when rules were first made to stand.
type firstLook struct {
	served        func() bool
	pools, before atomic.Bool
	once          sync.Once
}

func (l *firstLook) Set(s calc.State) { l.pools.Store(len(s.Pools) > 0) }
func (l *firstLook) QueueResync()     {}

func (l *firstLook) Check(context.Context) ([]string, error) { return nil, nil }

func (l *firstLook) Apply(context.Context) error {
	l.once.Do(func() { l.before.Store(l.pools.Load() && !l.served()) })
	return nil
}

// TestRulesStandBeforeTheFirstADD: no pod is ever without those for what it may send.
func TestRulesStandBeforeTheFirstADD(t *testing.T) {
	n := newNode(t)
	look := &firstLook{}
	look.served = func() bool { return n.felix.server.Ready() == nil }
	n.rules = []dataplane.Rules{look}
	n.start(true)
	defer n.stop()
	if !look.before.Load() {
		t.Error("ADD was served before, or the rules were not those of the datastore")
	}
}

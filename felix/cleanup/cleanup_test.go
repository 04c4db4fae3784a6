package cleanup

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/knftables"

	"tortie/felix/ipip"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/lockfile"
)

// node is a network namespace and a folder, with what Tortie and others have there.
type node struct {
	*testing.T
	ns   *kernel.Netns
	h    *kernel.Handle
	root string
	said []string
}

const podDevice, asideDevice = "cali0123456789a", "calx7"

func newNode(t *testing.T) *node {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.Nftables)
	n := &node{T: t, ns: kerneltest.NewNetns(t), root: t.TempDir()}
	n.h = kerneltest.Open(t, n.ns)
	for i, name := range []string{"eth0", podDevice, asideDevice, "cilium_host"} {
		n.must(n.veth(name, fmt.Sprint("peer", i)))
	}
	n.must(n.h.AddAddress(n.link("eth0"), netip.MustParsePrefix("192.0.2.1/24")))
	n.route("198.51.100.0/24", kernel.ProtocolStatic, "eth0", "192.0.2.9")
	n.route("10.65.2.0/26", kernel.ProtocolBGP, "eth0", "192.0.2.2")
	n.severalNextHops()
	n.route("10.65.1.2/32", kernel.ProtocolFelix, podDevice, "")
	n.must(n.h.AddRoute(kernel.Route{Dst: netip.MustParsePrefix("10.65.1.0/26"), Protocol: kernel.ProtocolFelix, Type: kernel.RouteBlackhole}))
	n.must(n.h.AddRoute(kernel.Route{Dst: netip.MustParsePrefix("fd65::/122"), Protocol: kernel.ProtocolFelix, Type: kernel.RouteBlackhole}))
	for _, table := range []string{"tortie", "another"} {
		nft := n.nft(table)
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Add(&knftables.Chain{Name: "c"})
		n.in(func() error { return nft.Run(t.Context(), tx) })
	}
	for _, file := range []string{"var/run/calico/felix-cni.sock", "var/lib/calico/felix/journal/x", "var/lib/calico-etcd/member/wal", "var/lib/kubelet/pods"} {
		n.must(os.MkdirAll(filepath.Dir(filepath.Join(n.root, file)), 0o755))
		n.must(os.WriteFile(filepath.Join(n.root, file), nil, 0o600))
	}
	return n
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *node) in(fn func() error) { n.Helper(); n.must(n.ns.Do(fn)) }

func (n *node) nft(table string) (nft knftables.Interface) {
	n.Helper()
	n.in(func() (err error) { nft, err = knftables.New(knftables.InetFamily, table); return err })
	return nft
}

func (n *node) veth(name, peer string) error {
	link, err := n.h.CreateVeth(kernel.VethSpec{Host: name, Peer: peer})
	if err == nil {
		err = n.h.SetUp(link.Index)
	}
	if err == nil {
		err = n.h.SetUp(link.PeerIndex)
	}
	return err
}

func (n *node) link(name string) int {
	n.Helper()
	l, err := n.h.LinkByName(name)
	n.must(err)
	return l.Index
}

func (n *node) route(dst string, protocol kernel.Protocol, device, gateway string) {
	n.Helper()
	r := kernel.Route{Dst: netip.MustParsePrefix(dst), Protocol: protocol, Link: n.link(device), Scope: kernel.ScopeLink}
	if gateway != "" {
		r.Gateway, r.Scope = netip.MustParseAddr(gateway), kernel.ScopeUniverse
	}
	n.must(n.h.AddRoute(r))
}

// severalNextHops is a route of bgpd's to a group of next hops, beside an object of
// another program's; a kernel without such objects has none.
func (n *node) severalNextHops() {
	n.Helper()
	if _, err := n.h.NextHopObjects(n.Context(), 0); errors.Is(err, kernel.ErrNotSupported) {
		return
	}
	hop := func(id int, protocol kernel.Protocol, gateway string) kernel.Change {
		return kernel.NextHopChange{Op: kernel.Add, Object: kernel.NextHopObject{
			ID: id, Protocol: protocol, NextHop: kernel.NextHop{Link: n.link("eth0"), Gateway: netip.MustParseAddr(gateway)},
		}}
	}
	n.must(errors.Join(n.h.Apply(
		hop(1, kernel.ProtocolStatic, "192.0.2.9"), hop(2, kernel.ProtocolBGP, "192.0.2.2"), hop(3, kernel.ProtocolBGP, "192.0.2.3"),
		kernel.NextHopChange{Op: kernel.Add, Object: kernel.NextHopObject{ID: 4, Protocol: kernel.ProtocolBGP, Group: []kernel.GroupMember{{ID: 2}, {ID: 3}}}},
		kernel.RouteChange{Op: kernel.Add, Route: kernel.Route{Dst: netip.MustParsePrefix("10.65.3.0/26"), Protocol: kernel.ProtocolBGP, NextHopID: 4}},
	)...))
}

// objects are the numbers of the next-hop objects that are left.
func (n *node) objects() (ids []int) {
	n.Helper()
	left, err := n.h.NextHopObjects(n.Context(), 0)
	if !errors.Is(err, kernel.ErrNotSupported) {
		n.must(err)
	}
	for _, o := range left {
		ids = append(ids, o.ID)
	}
	return ids
}

// clean runs the cleanup as the program does, inside the node's namespace.
func (n *node) clean(pods bool) error {
	nft := n.nft(Table)
	return n.ns.Do(func() error {
		return Run(n.Context(), Config{
			Kernel: n.h, NFT: nft, Root: n.root, Pods: pods,
			Say: func(format string, args ...any) { n.said = append(n.said, fmt.Sprintf(format, args...)) },
		})
	})
}

// left is what is there of devices, routes that aren't the kernel's own, tables and
// folders.
func (n *node) left() []string {
	n.Helper()
	var out []string
	links, err := n.h.Links()
	n.must(err)
	for _, l := range links {
		if !strings.HasPrefix(l.Name, "peer") && l.Name != "lo" {
			out = append(out, l.Name)
		}
	}
	routes, err := n.h.Routes(n.Context(), kernel.RouteFilter{})
	n.must(err)
	for _, r := range routes {
		if r.Protocol != kernel.ProtocolKernel {
			out = append(out, r.Dst.String())
		}
	}
	for _, table := range []string{"tortie", "another"} {
		nft := n.nft(table)
		if n.ns.Do(func() error { _, err := nft.List(n.Context(), "chains"); return err }) == nil {
			out = append(out, table)
		}
	}
	files, err := filepath.Glob(filepath.Join(n.root, "var/*/*"))
	n.must(err)
	for _, f := range files {
		out = append(out, filepath.Base(f))
	}
	slices.Sort(out)
	return out
}

func TestCleanupLeavesWhatIsOthersAndWhatPodsUse(t *testing.T) {
	for _, tc := range []struct {
		name string
		pods bool
		want []string
	}{
		{"pods keep their devices and the routes to them", false, []string{"10.65.1.2/32", "198.51.100.0/24", "another", podDevice, "cilium_host", "eth0", "kubelet"}},
		{"or lose them when that is asked for", true, []string{"198.51.100.0/24", "another", "cilium_host", "eth0", "kubelet"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			for range 2 { // what is gone is a success
				n.must(n.clean(tc.pods))
				if got := n.left(); !slices.Equal(got, tc.want) {
					t.Errorf("left %v, want %v", got, tc.want)
				}
				if ids := n.objects(); len(ids) > 0 && !slices.Equal(ids, []int{1}) {
					t.Errorf("next-hop objects left: %v, want another's, 1", ids)
				}
			}
			for _, want := range []string{"route to 10.65.2.0/26: removed", "device calx7: removed", "nftables table inet tortie: removed"} {
				if !slices.Contains(n.said, want) {
					t.Errorf("not said: %q", want)
				}
			}
		})
	}
}

func TestCleanupRefusesWhileTheTrialsEtcdRuns(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(n.root, trialEtcd)
	n.must(os.MkdirAll(filepath.Dir(path), 0o755))
	db, err := os.Create(path)
	n.must(err)
	defer db.Close()
	n.must(syscall.Flock(int(db.Fd()), syscall.LOCK_EX)) // as etcd has it
	before := n.left()
	if err := n.clean(true); err == nil || !strings.Contains(err.Error(), "etcd still runs") || !strings.Contains(err.Error(), "kubectl delete -k") {
		t.Errorf("error %v", err)
	}
	if got := n.left(); !slices.Equal(got, before) {
		t.Errorf("left %v, want %v", got, before)
	}
	n.must(db.Close())
	n.must(n.clean(true))
}

func TestAFolderWithAFileSystemOfItsOwnIsEmptied(t *testing.T) {
	n := newNode(t)
	dir := filepath.Join(n.root, "var/lib/calico")
	n.must(syscall.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	n.must(os.WriteFile(filepath.Join(dir, "nodename"), nil, 0o600))
	n.must(n.clean(false))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v %v is left", entries, err)
	}
}

func TestCleanupRefusesWhileADaemonRuns(t *testing.T) {
	for _, program := range []string{"felix", "bgpd"} {
		n := newNode(t)
		release, err := lockfile.Acquire(filepath.Join(n.root, "var/run/calico", program+".lock"), program)
		n.must(err)
		before := n.left()
		err = n.clean(true)
		if err == nil || !strings.HasPrefix(err.Error(), "clean up: another "+program+" (pid ") || !slices.Equal(n.left(), before) {
			t.Errorf("%s runs: %v", program, err)
		}
		release()
		n.must(n.clean(true))
	}
}

// TestCleanNodeIsNotTouched: not for a moment is there a folder that someone could find.
func TestCleanNodeIsNotTouched(t *testing.T) {
	n := newNode(t)
	n.must(n.clean(true))
	run := filepath.Join(n.root, "var/run")
	long := time.Now().Add(-time.Hour)
	n.must(os.Chtimes(run, long, long))
	n.must(n.clean(true))
	info, err := os.Stat(run)
	n.must(err)
	if !info.ModTime().Equal(long) {
		t.Errorf("something was made or removed in %s", run)
	}
}

// TestWhatFailsKeepsNothingElse: a kernel that refuses one thing still loses the rest.
func TestWhatFailsKeepsNothingElse(t *testing.T) {
	n := newNode(t)
	err := n.ns.Do(func() error {
		return Run(n.Context(), Config{Kernel: stubborn{n.h}, Root: n.root, Say: func(string, ...any) {}})
	})
	if err == nil || !strings.Contains(err.Error(), "10.65.2.0/26") {
		t.Errorf("error %v", err)
	}
	if got := n.left(); slices.Contains(got, "calico") || slices.Contains(got, "10.65.1.0/26") || !slices.Contains(got, "10.65.2.0/26") {
		t.Errorf("left %v", got)
	}
}

// stubborn keeps one route.
type stubborn struct{ *kernel.Handle }

func (s stubborn) DeleteRoute(r kernel.Route) error {
	if r.Dst.String() == "10.65.2.0/26" {
		return fmt.Errorf("delete route %s: busy", r.Dst)
	}
	return s.Handle.DeleteRoute(r)
}

// TestPodsThatStayAreNotCutOffByTheirLimits: what shaped them goes, and they send past it.
func TestPodsThatStayAreNotCutOffByTheirLimits(t *testing.T) {
	kerneltest.Require(t, kerneltest.Shaping)
	n := newNode(t)
	shaper, err := n.h.CreateIfb("bwcali012345678", 0)
	n.must(err)
	n.must(n.h.Redirect(n.link(podDevice), shaper.Index))
	n.must(n.clean(false))
	to, _, err := n.h.RedirectOf(t.Context(), n.link(podDevice))
	if _, gone := n.h.LinkByName("bwcali012345678"); to != 0 || err != nil || !errors.Is(gone, kernel.ErrNotFound) {
		t.Errorf("what the pod sends is led to %d, %v; device: %v", to, err, gone)
	}
}

// TestTunnelOfIPIPIsTakenOutOfUse: the kernel keeps its own tunl0, which is nobody's then:
// without address and mark, and down.
func TestTunnelOfIPIPIsTakenOutOfUse(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPIP)
	n := newNode(t)
	tunnel := ipip.New(ipip.Config{Kernel: n.h, MTU: func() int { return 1480 }, Log: slog.New(slog.DiscardHandler)})
	tunnel.Set(netip.MustParseAddr("10.65.1.1"))
	n.must(tunnel.Apply(t.Context()))
	if l, err := n.h.LinkByName(ipip.Device); err != nil || !ipip.Owns(l) || !l.Up {
		t.Fatalf("the device was not made: %+v, %v", l, err)
	}
	n.must(n.clean(false))
	if l, err := n.h.LinkByName(ipip.Device); !errors.Is(err, kernel.ErrNotFound) {
		n.must(err)
		addrs, err := n.h.Addresses(l.Index)
		n.must(err)
		if ipip.Owns(l) || l.Up || len(addrs) > 0 {
			t.Errorf("left: %+v with %v", l, addrs)
		}
	}
	if !slices.ContainsFunc(n.said, func(s string) bool { return strings.Contains(s, ipip.Device) }) {
		t.Errorf("not said: %q", n.said)
	}
}

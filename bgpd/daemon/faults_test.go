package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/bgptest"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

// inside is what a child has inside, after garbage collection.
type inside struct {
	Asked      int // by which question
	Goroutines int
	Heap       uint64
}

// answerInside has a child write down what it has inside when it is asked by SIGUSR1.
func answerInside(path string, asked <-chan os.Signal) {
	n := 0
	for range asked {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		n++
		stacks := goroutines()
		text, err := json.Marshal(inside{Asked: n, Goroutines: len(stacks), Heap: m.HeapAlloc})
		err = errors.Join(err, os.WriteFile(path+stacksSuffix, []byte(strings.Join(stacks, "\n\n")), 0o600),
			os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// goroutines are the stacks of all but those that serve the test's own questions.
func goroutines() []string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	return slices.DeleteFunc(strings.Split(string(buf), "\n\n"), func(stack string) bool {
		return strings.Contains(stack, "google.golang.org/grpc")
	})
}

// insideOf asks a process what it has inside.
func (l *lab) insideOf(name string) (in inside) {
	l.t.Helper()
	path := filepath.Join(l.dir, name+".json"+insideSuffix)
	read := func() (in inside) {
		if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &in) != nil {
			l.t.Fatalf("%s: %s", path, text)
		}
		return in
	}
	before := read()
	if err := l.proc[name].Process.Signal(syscall.SIGUSR1); err != nil {
		l.t.Fatal(err)
	}
	l.until(name+" to say what it has inside", func() (bool, string) {
		in = read()
		return in.Asked > before.Asked, "no answer"
	})
	return in
}

// stacksSuffix makes the name of a child's goroutines of that of what it has inside.
const stacksSuffix = ".stacks"

// stacksOf are the goroutines of a process when it was last asked.
func (l *lab) stacksOf(name string) string {
	text, _ := os.ReadFile(filepath.Join(l.dir, name+".json"+insideSuffix+stacksSuffix))
	return string(text)
}

// demandFlat: a process has no more inside than before, but for what comes and goes.
func (l *lab) demandFlat(name string, before inside) {
	l.t.Helper()
	const few, some = 5, 8 << 20
	var now inside
	l.until(name+" to be as small as before", func() (bool, string) {
		now = l.insideOf(name)
		return now.Goroutines <= before.Goroutines+few && now.Heap <= before.Heap+before.Heap/4+some, fmt.Sprintf("%+v, was %+v\n%s", now, before, l.stacksOf(name))
	})
	l.t.Logf("%s: %+v, was %+v", name, now, before)
}

// TestLinkThatFlaps: node2's link goes down and up, faster than any hold time and, with
// BFD, with the loss of all its sessions. Each time its routes go and come back; in the end
// all is as before.
func TestLinkThatFlaps(t *testing.T) {
	const fast, slow = 8, 2
	l, _ := upGuardedLab(t)
	routes := func(name string) string {
		var all []string
		for _, family := range []string{"-4", "-6"} {
			all = append(all, strings.Split(l.run(name, "ip", family, "route", "show", "proto", "81"), "\n")...)
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	link := func(state string) { l.run("router", "ip", "link", "set", "to-node2", state) }
	has := func(name, prefix string, want bool) {
		t.Helper()
		l.until(fmt.Sprintf("%s to have %s: %t", name, prefix, want), func() (bool, string) {
			out := routes(name)
			return strings.Contains(out, prefix+" ") == want, out
		})
	}
	back := func() {
		t.Helper()
		for _, n := range nodes {
			l.established(n.name, 6)
		}
		l.established("router", 6)
		for _, p := range []string{"10.65.1.0/26", "fd65:1::/122", "10.65.3.0/26", "fd65:3::/122"} {
			has("node2", p, true)
		}
		for _, p := range []string{"10.65.2.0/26", "fd65:2::/122"} {
			has("node1", p, true)
			has("node3", p, true)
			has("router", p, true)
		}
	}
	flap := func() {
		t.Helper()
		for range fast {
			link("down")
			has("node2", "10.65.1.0/26", false)
			link("up")
			has("node2", "10.65.1.0/26", true)
		}
		for range slow {
			link("down")
			for _, p := range []string{"10.65.2.0/26", "fd65:2::/122"} {
				has("node1", p, false) // BFD
				has("router", p, false)
			}
			link("up")
			back()
		}
		l.allGuarded()
	}
	names := []string{"node1", "node2", "node3", "router"}
	before, sizes := map[string]string{}, map[string]inside{}
	flap()
	back()
	for _, name := range names {
		before[name], sizes[name] = routes(name), l.insideOf(name)
	}
	flap()
	back()
	for _, name := range names {
		l.until(name+"'s routes to be as before", func() (bool, string) {
			now := routes(name)
			return now == before[name], fmt.Sprintf("%s\nwere\n%s", now, before[name])
		})
		l.demandFlat(name, sizes[name])
	}
	l.reachable()
}

// TestNodesAddressChanges: sessions and routes follow the Node resource, also where the
// address is the router ID, and nothing stays behind of the address before.
func TestNodesAddressChanges(t *testing.T) {
	off := func(o api.Object) bool { _, peer := o.(*v3.BGPPeer); return peer }
	objects := slices.DeleteFunc(resources(), off)
	l := newLab(t)
	store := stored(t, objects)
	for _, n := range nodes {
		l.startNode(n.name, store)
	}
	for _, n := range nodes {
		l.established(n.name, 4)
	}
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122")
	// Else an address takes those of its subnet along.
	l.run("node2", "sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=1")
	for _, a := range []string{"10.1.1.22/24", "fd01::22/64"} {
		l.run("node2", "ip", "addr", "add", a, "dev", "eth0")
	}
	for _, o := range objects {
		if n, ok := o.(*api.Node); ok && n.Name == "node2" {
			n.Spec.BGP.IPv4Address, n.Spec.BGP.IPv6Address = "10.1.1.22/24", "fd01::22/64"
		}
	}
	store = stored(t, objects)
	for _, n := range nodes {
		l.store(n.name, store)
	}
	for _, n := range nodes {
		l.established(n.name, 4)
	}
	l.run("node2", "ip", "addr", "del", "10.1.1.12/24", "dev", "eth0")
	l.run("node2", "ip", "addr", "del", "fd01::12/64", "dev", "eth0")
	l.learned("node1", "10.65.2.0/26 via 10.1.1.22", "fd65:2::/122 via fd01::22")
	l.learned("node3", "10.65.2.0/26", "fd65:2::/122")
	l.learned("node2", "10.65.1.0/26", "fd65:1::/122", "10.65.3.0/26", "fd65:3::/122")
	for _, n := range nodes {
		l.established(n.name, 4)
		resp, err := l.status(n.name).Peers(t.Context(), &nodestatus.PeersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range resp.Peers {
			if p.Address == "10.1.1.12" || p.Address == "fd01::12" {
				t.Errorf("%s still has a session with %s", n.name, p.Address)
			}
		}
		out := l.run(n.name, "ip", "route", "show", "proto", "81") + l.run(n.name, "ip", "-6", "route", "show", "proto", "81") + l.run(n.name, "ip", "nexthop", "show")
		if strings.Contains(out, "10.1.1.12 ") || strings.Contains(out, "fd01::12 ") {
			t.Errorf("%s still has a route by the address before:\n%s", n.name, out)
		}
	}
	st, err := l.status("node2").Status(t.Context(), &nodestatus.StatusRequest{})
	if err != nil || st.RouterId != "10.1.1.22" || len(st.Problems) > 0 {
		t.Errorf("node2's status: %v, %v", st, err)
	}
	l.run("node1", "ping", "-c1", "-W5", "-I", "10.65.1.1", "10.65.2.1")
	l.run("node1", "ping", "-c1", "-W5", "-I", "fd65:1::1", "fd65:2::1")
}

// neighbourBIRD is a BIRD on node1 itself, with routes of its own in the kernel and a
// session with the router from a second address. It listens where it is told.
const neighbourBIRD = `
log stderr { warning, error, fatal };
router id 10.1.1.99;
protocol device { scan time 1; }
protocol kernel k4 { scan time 1; ipv4 { import none; export all; }; }
protocol static s4 { ipv4; route 10.210.0.0/24 blackhole; }
protocol bgp above {
  local 10.1.1.99 port PORT as 65099; neighbor 10.1.1.254 as 64999; multihop; connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; };
}
`

// TestTwoSpeakersOnOneHost: beside a BIRD that has port 179 bgpd says why it has no
// sessions, and has them as soon as it may; on another port both go on, and neither
// touches the other's routes.
func TestTwoSpeakersOnOneHost(t *testing.T) {
	const toBIRD = `protocol bgp neighbour from node { passive on; local 10.1.1.254; neighbor 10.1.1.99 as 65099; multihop; ipv4 { import all; export filter own; }; }
`
	l := newTorLab(t, torSessions("", "")+toBIRD, torPeer("tor-v4", "10.1.1.254", nil), torPeer("tor-v6", "fd01::fe", nil))
	tors := l.proc["bird"]
	delete(l.proc, "bird")
	t.Cleanup(func() { _ = tors.Process.Kill(); _ = tors.Wait() })
	l.run("node1", "ip", "addr", "add", "10.1.1.99/24", "dev", "eth0")
	neighbour := func(port string) {
		t.Helper()
		l.bird("node1", strings.ReplaceAll(neighbourBIRD, "PORT", port))
		l.proc["neighbour"] = l.proc["node1"]
		delete(l.proc, "node1")
		t.Cleanup(func() { l.end("neighbour", syscall.SIGKILL) })
		l.until("BIRD's routes", func() (bool, string) {
			out := l.run("node1", "ip", "route", "show", "proto", "bird")
			return strings.Contains(out, "10.200.0.0/24") && strings.Contains(out, "10.210.0.0/24"), out
		})
	}
	// Also where only one family's is taken.
	var other net.Listener
	if err := l.ns["node1"].Do(func() (err error) { other, err = net.Listen("tcp6", "[::]:179"); return err }); err != nil {
		t.Fatal(err)
	}
	l.startNode("node1", l.content())
	l.problem("port 179", "another program", "listenPort")
	other.Close()
	l.peer("the session when the port is free", "tor-v4", isUp)
	l.end("node1", syscall.SIGKILL)

	neighbour("179")
	birds := l.run("node1", "ip", "route", "show", "proto", "bird")
	untouched := func() {
		t.Helper()
		if now := l.run("node1", "ip", "route", "show", "proto", "bird"); now != birds {
			t.Errorf("BIRD's routes are\n%s, were\n%s", now, birds)
		}
	}
	l.startNode("node1", l.content())
	l.problem("port 179", "another program", "listenPort")
	untouched()

	l.end("neighbour", syscall.SIGTERM)
	l.peer("the session when the port is free", "tor-v4", isUp)
	l.learned("node1", "10.200.0.0/24", "fd20::/64")

	neighbour("1790")
	l.peer("the session beside BIRD, IPv4", "tor-v4", isUp)
	l.peer("the session beside BIRD, IPv6", "tor-v6", isUp)
	l.end("node1", syscall.SIGKILL)
	untouched()
	l.startNode("node1", l.content())
	l.peer("the session after a restart", "tor-v4", isUp)
	l.swept("node1")
	l.learned("node1", "fd20::/64")
	untouched()
}

// loudAddress is that of a peer of node1's on its segment.
const loudAddress = "10.1.1.201"

// loudLab is node1 and node2 with their mesh, and a peer of node1's that sends what a test
// wants.
func loudLab(t *testing.T) (*torLab, *bgptest.Peer) {
	on := true
	l := torLabOf(newLab(t),
		&v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &on}},
		torPeer("loud", loudAddress, func(s *v3.BGPPeerSpec) { s.ASNumber = senderASN }))
	l.run("router", "ip", "addr", "add", loudAddress+"/24", "dev", "seg1")
	for _, name := range []string{"node1", "node2"} {
		l.startNode(name, l.content())
	}
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122")
	l.learned("node2", "10.65.1.0/26", "fd65:1::/122")
	loud := netip.MustParseAddr(loudAddress)
	return l, l.dial("router", loud, netip.MustParseAddr("10.1.1.11"), bgptest.Config{ASN: senderASN, ID: loud})
}

// hosts are addresses from 10.128.0.0 on, in chunks.
func hosts(count, chunk int) (chunks [][]netip.Prefix) {
	var all []netip.Prefix
	for i := range count {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)}), 32))
	}
	return slices.Collect(slices.Chunk(all, chunk))
}

// send sends UPDATEs.
func (l *torLab) send(p *bgptest.Peer, bodies ...[]byte) {
	l.t.Helper()
	for _, body := range bodies {
		if err := p.Send(bgptest.Update, body); err != nil {
			l.t.Fatal(err)
		}
	}
}

func announced(prefixes []netip.Prefix) []byte {
	return bgptest.Announce(senderASN, netip.MustParseAddr(loudAddress), prefixes)
}

// rises waits until the kernel of node1 has so many routes more than before.
func (l *torLab) rises(before, by int) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d more routes", by), func() (bool, string) {
		n := l.mainRoutes("node1") - before
		return n == by, fmt.Sprint(n)
	})
}

// TestPeerThatSends100000Routes: they come into the kernel and go with the peer, and
// neither the mesh nor its traffic notices.
func TestPeerThatSends100000Routes(t *testing.T) {
	const routes, perMessage = 100_000, 700
	l, loud := loudLab(t)
	mesh := l.lab.peerSince("node1", "10.1.1.12")
	base := l.mainRoutes("node1")
	lossless := l.demandNoLoss(l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1"), l.traffic("node2", "fd65:2::1", "node1", "fd65:1::1"))
	for _, chunk := range hosts(routes, perMessage) {
		l.send(loud, announced(chunk))
	}
	l.send(loud, bgptest.EndOfRIB())
	l.rises(base, routes)
	t.Logf("with %d routes %d MB are resident, %+v", routes, l.resident("node1")>>20, l.insideOf("node1"))
	loud.Close()
	l.rises(base, 0)
	lossless()
	if now := l.lab.peerSince("node1", "10.1.1.12"); now != mesh {
		t.Errorf("the session of the mesh is up since %d, was %d", now, mesh)
	}
}

// peerSince is since when a session is up.
func (l *lab) peerSince(name, address string) int64 {
	l.t.Helper()
	l.isUp(name, address)
	p, _ := l.peer(name, address)
	return p.GetSince()
}

// TestPeerThatFlapsAThousandRoutesASecond for a minute, with -short for seconds: each
// second 1,000 routes go and 1,000 come back. Memory and goroutines stay as they were, of
// the node that hears it and of the one that doesn't, and so do the mesh and its traffic.
func TestPeerThatFlapsAThousandRoutesASecond(t *testing.T) {
	const groups, perGroup = 20, 50
	const pace = time.Second / groups // each group goes once a second
	warm, more := 10*groups, 50*groups
	if testing.Short() {
		warm, more = 3*groups, 5*groups
	}
	l, loud := loudLab(t)
	mesh := l.lab.peerSince("node1", "10.1.1.12")
	base := l.mainRoutes("node1")
	routes := hosts(groups*perGroup, perGroup)
	for _, group := range routes {
		l.send(loud, announced(group))
	}
	l.rises(base, groups*perGroup)
	lossless := l.demandNoLoss(l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1"))
	flap := func(times int) {
		t.Helper()
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		for i := range times {
			<-ticker.C
			l.send(loud, bgptest.Withdraw(routes[i%groups]), announced(routes[(i+groups-1)%groups]))
		}
		l.send(loud, announced(routes[(times-1)%groups]))
		l.rises(base, groups*perGroup)
	}
	flap(warm)
	before := map[string]inside{"node1": l.insideOf("node1"), "node2": l.insideOf("node2")}
	began := time.Now()
	flap(more)
	t.Logf("%d routes went and came back in %s", more*perGroup, time.Since(began).Round(time.Millisecond))
	for name, size := range before {
		l.demandFlat(name, size)
	}
	lossless()
	if now := l.lab.peerSince("node1", "10.1.1.12"); now != mesh {
		t.Errorf("the session of the mesh is up since %d, was %d", now, mesh)
	}
}

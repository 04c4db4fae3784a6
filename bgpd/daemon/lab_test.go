package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/daemon"
	"tortie/bgpd/secrets"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/polltest"
)

// The lab of these tests: two nodes on one segment, a third behind a router, each
// a process of this test binary in a network namespace of its own with a
// datastore of its own that holds the same resources.
//
//	node1 10.1.1.11 ─┐
//	                 ├─ 10.1.1.254 router 10.1.2.254 ─ node3 10.1.2.13
//	node2 10.1.1.12 ─┘

const (
	childVariable = "TORTIE_BGPD_TEST_CHILD"
	patience      = 60 * time.Second
	routerASN     = 64999
	// labs is how many are up at once; each has up to four bgpds.
	labs = 4
)

// TestMain turns the test binary into a bgpd when the lab asks for one.
func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		if err := runChild(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The labs share nothing, and mostly wait.
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(labs)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child is what a process is told to be.
type child struct {
	Name, Socket string
	Passwords    string            // the folder of a node's
	Store        map[string]string // datastore path → value; a node
	Static       *daemon.Static    // a router
}

func readChild(path string) (c child, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(text, &c)
}

func runChild(path string) error {
	c, err := readChild(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", c.Name)
	if c.Static != nil {
		c.Static.Log = log
		return daemon.RunStatic(ctx, *c.Static)
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGHUP)
	store := memory.New(api.NewRegistry())
	fill(store, c.Store)
	go func() {
		for range changed {
			c, err := readChild(path)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fill(store, c.Store)
		}
	}()
	return daemon.RunNode(ctx, daemon.Node{Name: c.Name, Client: store, Socket: c.Socket, Version: "test", Log: log, Secrets: secrets.Files{Dir: c.Passwords}})
}

// fill makes a store hold just this content.
func fill(store *memory.Store, content map[string]string) {
	for _, path := range store.Paths("/") {
		if _, keep := content[path]; !keep {
			store.RawDelete(path)
		}
	}
	for path, value := range content {
		if old, ok := store.RawGet(path); !ok || string(old) != value {
			store.RawPut(path, []byte(value))
		}
	}
}

type lab struct {
	t    *testing.T
	dir  string
	ns   map[string]*kernel.Netns
	proc map[string]*exec.Cmd
	bfd  api.BFD // of the router
	// exports are the router's.
	exports []topology.Export
}

var nodes = []struct {
	name, v4, v6, gw4, gw6, block4, block6, pod4, pod6 string
}{
	{"node1", "10.1.1.11", "fd01::11", "10.1.1.254", "fd01::fe", "10.65.1.0/26", "fd65:1::/122", "10.65.1.1", "fd65:1::1"},
	{"node2", "10.1.1.12", "fd01::12", "10.1.1.254", "fd01::fe", "10.65.2.0/26", "fd65:2::/122", "10.65.2.1", "fd65:2::1"},
	{"node3", "10.1.2.13", "fd02::13", "10.1.2.254", "fd02::fe", "10.65.3.0/26", "fd65:3::/122", "10.65.3.1", "fd65:3::1"},
}

// newLab makes one, in parallel with those of other tests.
func newLab(t *testing.T) *lab {
	t.Parallel()
	kerneltest.Require(t, kerneltest.Netns, kerneltest.Veth, kerneltest.IPv6)
	l := &lab{t: t, dir: t.TempDir(), ns: map[string]*kernel.Netns{}, proc: map[string]*exec.Cmd{}}
	for _, name := range []string{"router", "node1", "node2", "node3"} {
		l.ns[name] = kerneltest.NewNetns(t)
		// No duplicate address detection: addresses are there at once.
		l.run(name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.router_solicitations=0",
			"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	}
	l.run("router", "ip", "link", "add", "seg1", "type", "bridge")
	for _, n := range nodes {
		h := kerneltest.Open(t, l.ns["router"])
		if _, err := h.CreateVeth(kernel.VethSpec{Host: "to-" + n.name, Peer: "eth0", PeerNetns: l.ns[n.name]}); err != nil {
			t.Fatal(err)
		}
		if n.gw4 == "10.1.1.254" {
			l.run("router", "ip", "link", "set", "to-"+n.name, "master", "seg1")
		}
		l.run(n.name, "ip", "link", "set", "eth0", "up")
		l.run(n.name, "ip", "addr", "add", n.v4+"/24", "dev", "eth0")
		l.run(n.name, "ip", "addr", "add", n.v6+"/64", "dev", "eth0")
		l.run(n.name, "ip", "addr", "add", n.pod4+"/32", "dev", "lo")
		l.run(n.name, "ip", "addr", "add", n.pod6+"/128", "dev", "lo")
	}
	l.run("router", "ip", "link", "set", "seg1", "up")
	for dev, addrs := range map[string][]string{
		"seg1": {"10.1.1.254/24", "fd01::fe/64"}, "to-node3": {"10.1.2.254/24", "fd02::fe/64"},
	} {
		for _, a := range addrs {
			l.run("router", "ip", "addr", "add", a, "dev", dev)
		}
	}
	for _, n := range nodes {
		l.run(n.name, "ip", "route", "add", "default", "via", n.gw4)
		l.run(n.name, "ip", "-6", "route", "add", "default", "via", n.gw6)
	}
	return l
}

// run runs a command in a namespace.
func (l *lab) run(ns string, argv ...string) string {
	l.t.Helper()
	var out []byte
	err := l.ns[ns].Do(func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		l.t.Fatalf("%s: %s: %v\n%s", ns, strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// start starts a process in the namespace of its name.
func (l *lab) start(c child) {
	l.t.Helper()
	path := l.describe(c)
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	cmd.Stderr = l.t.Output()
	if err := l.ns[c.Name].Do(cmd.Start); err != nil {
		l.t.Fatal(err)
	}
	l.proc[c.Name] = cmd
	l.t.Cleanup(func() { l.end(c.Name, syscall.SIGKILL) })
}

// describe writes down what a process has to be, and returns where.
func (l *lab) describe(c child) (path string) {
	l.t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		l.t.Fatal(err)
	}
	path = filepath.Join(l.dir, c.Name+".json")
	// At once: the process may be reading what it was told before.
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// store gives the datastore of a node that runs another content.
func (l *lab) store(name string, content map[string]string) {
	l.t.Helper()
	l.describe(child{Name: name, Socket: l.socket(name), Passwords: l.passwords(), Store: content})
	if err := l.proc[name].Process.Signal(syscall.SIGHUP); err != nil {
		l.t.Fatal(err)
	}
}

// end ends a process and waits for it.
func (l *lab) end(name string, sig syscall.Signal) {
	if cmd := l.proc[name]; cmd != nil {
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		delete(l.proc, name)
	}
}

func (l *lab) socket(name string) string { return filepath.Join(l.dir, name+".sock") }

// passwords is the folder of all nodes' passwords.
func (l *lab) passwords() string { return filepath.Join(l.dir, "passwords") }

func (l *lab) startNode(name string, store map[string]string) {
	l.start(child{Name: name, Socket: l.socket(name), Passwords: l.passwords(), Store: store})
}

func (l *lab) startRouter() {
	st := daemon.Static{Name: "router", Socket: l.socket("router"), BFD: l.bfd, Exports: l.exports, Global: speaker.Global{
		ASN: routerASN, RouterID: netip.MustParseAddr("10.1.1.254"), Port: 179, Transit: true,
		Listen: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()},
	}}
	for _, n := range nodes {
		for remote, local := range map[string]string{n.v4: n.gw4, n.v6: n.gw6} {
			st.Peers = append(st.Peers, speaker.Peer{
				Address: netip.MustParseAddr(remote), LocalAddress: netip.MustParseAddr(local),
				ASN: 64512, RestartTime: 120 * time.Second, Passive: true,
			})
		}
	}
	l.start(child{Name: "router", Static: &st})
}

// resources are those of the lab's cluster.
func resources() []api.Object {
	out := []api.Object{
		&v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "v4"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16", BlockSize: 26}},
		&v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "v6"}, Spec: v3.IPPoolSpec{CIDR: "fd65::/16", BlockSize: 122}},
	}
	for _, n := range nodes {
		out = append(out, &api.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}, Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{
			IPv4Address: n.v4 + "/24", IPv6Address: n.v6 + "/64",
		}}})
		for _, b := range []string{n.block4, n.block6} {
			out = append(out, confirmed(n.name, b))
		}
		for family, gw := range map[string]string{"v4": n.gw4, "v6": n.gw6} {
			out = append(out, &v3.BGPPeer{
				ObjectMeta: metav1.ObjectMeta{Name: "router-" + n.name + "-" + family},
				Spec:       v3.BGPPeerSpec{Node: n.name, PeerIP: gw, ASNumber: routerASN},
			})
		}
	}
	return out
}

// confirmed is a node's claim to a block.
func confirmed(node, block string) *api.BlockAffinity {
	key := api.BlockAffinityKey(api.HostAffinity(node), netip.MustParsePrefix(block))
	return &api.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec:       api.BlockAffinitySpec{State: api.AffinityConfirmed, Type: api.AffinityHost, Node: node, CIDR: block},
	}
}

// stored is the datastore's content with these objects in it.
func stored(t *testing.T, objects []api.Object) map[string]string {
	t.Helper()
	reg := api.NewRegistry()
	s := memory.New(reg)
	for _, o := range objects {
		key, err := reg.KeyOf(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Txn(t.Context(), datastore.Create(key, o)); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string]string{}
	for _, path := range s.Paths("/") {
		value, _ := s.RawGet(path)
		out[path] = string(value)
	}
	return out
}

func (l *lab) status(name string) nodestatus.NodeStatusClient {
	l.t.Helper()
	conn, err := grpc.NewClient("unix://"+l.socket(name), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return nodestatus.NewNodeStatusClient(conn)
}

// until polls a condition that a whole other process has to come to; why says
// what is still missing.
func (l *lab) until(what string, met func() (ok bool, why string)) {
	l.t.Helper()
	polltest.Until(l.t, patience, what, met)
}

// established waits until every one of a node's peers is.
func (l *lab) established(name string, peers int) {
	l.t.Helper()
	client := l.status(name)
	l.until(name+"'s sessions", func() (bool, string) {
		resp, err := client.Peers(l.t.Context(), &nodestatus.PeersRequest{})
		if err != nil {
			return false, err.Error()
		}
		for _, p := range resp.Peers {
			if p.State != string(speaker.Established) {
				return false, fmt.Sprintf("%s %s: %s", p.Address, p.State, p.Info)
			}
		}
		return len(resp.Peers) == peers, fmt.Sprintf("%d of %d peers", len(resp.Peers), peers)
	})
}

// learned waits until a node's kernel has a route of protocol 81 to each prefix.
func (l *lab) learned(name string, prefixes ...string) {
	l.t.Helper()
	l.until(name+"'s routes", func() (bool, string) {
		out := l.run(name, "ip", "route", "show", "proto", "81") + l.run(name, "ip", "-6", "route", "show", "proto", "81")
		for _, p := range prefixes {
			if !strings.Contains(out, p+" ") {
				return false, p + " not among\n" + out
			}
		}
		return true, ""
	})
}

// patient gives a connection a buffer for all that may come while the machine is
// too busy for its reader: what is lost there, no route has lost.
func patient(t *testing.T, conn *net.UDPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	})
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
}

// traffic sends numbered datagrams from one pod address to another until stop is
// called, which returns how many were sent and how many never came.
func (l *lab) traffic(from, fromAddr, to, toAddr string) (stop func() (sent, lost int)) {
	l.t.Helper()
	var in, out *net.UDPConn
	listen := func(dst **net.UDPConn, addr string) func() error {
		return func() (err error) {
			*dst, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 7000)))
			return err
		}
	}
	if err := l.ns[to].Do(listen(&in, toAddr)); err != nil {
		l.t.Fatal(err)
	}
	if err := l.ns[from].Do(listen(&out, fromAddr)); err != nil {
		l.t.Fatal(err)
	}
	patient(l.t, in)
	got := make(chan int, 1)
	go func() {
		seen := map[string]bool{}
		buf := make([]byte, 64)
		for {
			n, _, err := in.ReadFromUDPAddrPort(buf)
			if err != nil || bytes.Equal(buf[:n], []byte("end")) {
				got <- len(seen)
				return
			}
			seen[string(buf[:n])] = true
		}
	}()
	quit, sent := make(chan struct{}), make(chan int, 1)
	dst := netip.AddrPortFrom(netip.MustParseAddr(toAddr), 7000)
	go func() {
		n, failed := 0, 0
		every := time.NewTicker(time.Millisecond)
		defer every.Stop()
		for {
			select {
			case <-quit:
				sent <- n
				return
			case <-every.C:
				n++
				if _, err := out.WriteToUDPAddrPort(fmt.Appendf(nil, "%d", n), dst); err != nil {
					failed++ // counts as lost: it was sent and doesn't come
				}
			}
		}
	}()
	return func() (int, int) {
		close(quit)
		n := <-sent
		for range 10 { // the datagrams before it are there when one of these is
			_, _ = out.WriteToUDPAddrPort([]byte("end"), dst)
		}
		_ = in.SetReadDeadline(time.Now().Add(2 * time.Second))
		received := <-got
		in.Close()
		out.Close()
		return n, n - received
	}
}

package tunnels_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"golang.org/x/sys/unix"

	"tortie/felix/calc"
	"tortie/felix/dataplane"
	"tortie/felix/ipip"
	"tortie/felix/tunnels"
	"tortie/felix/vxlan"
	"tortie/felix/wireguard"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/polltest"
	"tortie/internal/routetable"
)

// patience is long enough for an emulated processor.
const patience = 30 * time.Second

// TestPacketsGoByWhatThePoolsModeSaysAndNoneIsLostWhenItChanges: three nodes with all of
// felix but the datastore, the first two on a segment, the third behind a router that
// knows no pod. What is on the wire between them is what the pool's mode says, and no
// packet is lost on the way from any mode to any other.
func TestPacketsGoByWhatThePoolsModeSaysAndNoneIsLostWhenItChanges(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPIP, kerneltest.Vxlan)
	w := newWorld(t)
	both := func(by string) map[string]string { return map[string]string{"node-2": by, "node-3": by} }
	across := func(by string) map[string]string { return map[string]string{"node-2": "plain", "node-3": by} }
	type step struct {
		name  string
		ipip  v3.IPIPMode
		vxlan v3.VXLANMode
		want  map[string]string // what goes to node-2 and node-3, by those
	}
	ipipAlways := step{"IPIP Always", v3.IPIPModeAlways, v3.VXLANModeNever, both("IPIP")}
	ipipAcross := step{"IPIP CrossSubnet", v3.IPIPModeCrossSubnet, v3.VXLANModeNever, across("IPIP")}
	vxlanAlways := step{"VXLAN Always", v3.IPIPModeNever, v3.VXLANModeAlways, both("VXLAN")}
	vxlanAcross := step{"VXLAN CrossSubnet", v3.IPIPModeNever, v3.VXLANModeCrossSubnet, across("VXLAN")}
	w.setMode(ipipAlways.ipip, ipipAlways.vxlan)
	w.untilHeard(ipipAlways.want)
	for _, s := range []step{ipipAcross, ipipAlways, vxlanAlways, ipipAlways, vxlanAcross, ipipAcross, vxlanAlways, ipipAcross, vxlanAcross, ipipAlways} {
		t.Run("to "+s.name, func(t *testing.T) {
			w := w.in(t)
			streams := []*stream{w.stream("node-1", "node-2"), w.stream("node-1", "node-3"), w.stream("node-3", "node-2")}
			for _, s := range streams {
				s.untilMore(t, 1)
			}
			w.setMode(s.ipip, s.vxlan)
			w.untilHeard(s.want)
			for _, s := range streams {
				s.untilMore(t, 20)
				s.stopAndDemandNoLoss(t)
			}
		})
	}
}

// node is one with felix's dataplane. Its pod's address is on its loopback device.
type node struct {
	ns    *kernel.Netns
	k     *kernel.Handle
	pod   netip.Addr
	graph *calc.Graph
	set   tunnels.Set
	loop  *dataplane.Loop
}

type world struct {
	*testing.T
	nodes map[string]*node
}

// in is the world in a part of the test.
func (w world) in(t *testing.T) world { return world{t, w.nodes} }

func (w world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func newWorld(t *testing.T) world {
	w := world{t, map[string]*node{}}
	for name, pod := range map[string]string{"node-1": "10.65.1.9", "node-2": "10.65.2.9", "node-3": "10.65.3.9"} {
		n := &node{ns: kerneltest.NewNetns(t), pod: netip.MustParseAddr(pod), graph: calc.New(name)}
		n.k = kerneltest.Open(t, n.ns)
		w.nodes[name] = n
		w.ok(n.k.SetSysctl("ipv4/conf/all/forwarding", "1"))
		w.ok(n.k.AddAddress(1, netip.PrefixFrom(n.pod, 32)))
	}
	w.wire()
	for _, n := range w.nodes {
		n.graph.Update(cluster())
		w.start(n)
	}
	return w
}

// wire lays the cables: node-1 is also the way of node-2 to the router.
func (w world) wire() {
	router := kerneltest.NewNetns(w.T)
	r := kerneltest.Open(w.T, router)
	w.ok(r.SetSysctl("ipv4/conf/all/forwarding", "1"))
	first, second, third := w.nodes["node-1"], w.nodes["node-2"], w.nodes["node-3"]
	w.cable(first.k, "eth0", "192.0.2.1/24", second.ns, second.k, "192.0.2.2/24")
	w.cable(r, "one", "203.0.113.2/30", first.ns, first.k, "203.0.113.1/30")
	w.cable(r, "three", "198.51.100.254/24", third.ns, third.k, "198.51.100.3/24")
	w.route(r, "192.0.2.0/24", "one", "203.0.113.1", "")
	w.route(first.k, "198.51.100.0/24", uplink, "203.0.113.2", "192.0.2.1")
	w.route(second.k, "198.51.100.0/24", uplink, "192.0.2.1", "")
	w.route(third.k, "192.0.2.0/24", uplink, "198.51.100.254", "")
}

// uplink is the far end of each cable.
const uplink = "up0"

func (w world) cable(k *kernel.Handle, device, address string, ns *kernel.Netns, far *kernel.Handle, farAddress string) {
	w.Helper()
	l, err := k.CreateVeth(kernel.VethSpec{Host: device, Peer: uplink, PeerNetns: ns})
	w.ok(err)
	w.ok(far.SetUp(l.PeerIndex))
	w.ok(k.AddAddress(l.Index, prefix(address)))
	w.ok(far.AddAddress(l.PeerIndex, prefix(farAddress)))
}

func (w world) route(k *kernel.Handle, dst, device, via, src string) {
	w.Helper()
	l, err := k.LinkByName(device)
	w.ok(err)
	source, _ := netip.ParseAddr(src)
	w.ok(k.AddRoute(kernel.Route{Dst: prefix(dst), Protocol: kernel.ProtocolStatic, Link: l.Index, Gateway: netip.MustParseAddr(via), Src: source}))
}

func update(key api.Key, object api.Object) datastore.SyncUpdate {
	return datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: object}}
}

// cluster is what the datastore holds, but for the pool.
func cluster() (all []datastore.SyncUpdate) {
	for _, n := range []struct{ name, address, vxlan, ipip, block string }{
		{"node-1", "192.0.2.1/24", "10.65.1.1", "10.65.1.2", "10.65.1.0/26"},
		{"node-2", "192.0.2.2/24", "10.65.2.1", "10.65.2.2", "10.65.2.0/26"},
		{"node-3", "198.51.100.3/24", "10.65.3.1", "10.65.3.2", "10.65.3.0/26"},
	} {
		spec := api.NodeSpec{IPv4VXLANTunnelAddr: n.vxlan, BGP: &api.NodeBGPSpec{IPv4Address: n.address, IPv4IPIPTunnelAddr: n.ipip}}
		affinity := api.BlockAffinityKey(api.HostAffinity(n.name), prefix(n.block))
		all = append(all, update(api.Key{Kind: api.KindNode, Name: n.name}, &api.Node{Spec: spec}),
			update(affinity, &api.BlockAffinity{Spec: api.BlockAffinitySpec{State: api.AffinityConfirmed}}))
	}
	return all
}

// start runs the loop of a node for the time of the test.
func (w world) start(n *node) {
	log := slog.New(slog.DiscardHandler)
	n.set = tunnels.Set{
		VXLAN:     vxlan.New(vxlan.Config{Kernel: n.k, Log: log, MTU: func(bool) int { return 1450 }}),
		IPIP:      ipip.New(ipip.Config{Kernel: n.k, Log: log, MTU: func() int { return 1480 }}),
		WireGuard: wireguard.New(wireguard.Config{Log: log}),
	}
	n.set.VXLAN.Configure(vxlan.Settings{VNI: 4096, Port: 4789})
	loop, err := dataplane.New(dataplane.Config{
		Kernel: n.k, Tunnels: n.set, Log: log, Routes: routetable.New(routetable.Config{Kernel: n.k, Protocol: kernel.ProtocolFelix}),
	})
	w.ok(err)
	n.loop = loop
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})
}

// setMode gives the pool a mode, and tells every node.
func (w world) setMode(by v3.IPIPMode, or v3.VXLANMode) {
	pool := v3.NewIPPool()
	pool.Name, pool.Spec = "p", v3.IPPoolSpec{CIDR: "10.65.0.0/16", IPIPMode: by, VXLANMode: or}
	for _, n := range w.nodes {
		n.graph.Update([]datastore.SyncUpdate{update(api.Key{Kind: api.KindIPPool, Name: "p"}, pool)})
		s := n.graph.State()
		n.set.Desire(s)
		n.loop.SetState(s)
		n.loop.InSync()
	}
}

// untilHeard waits until packets from node-1's pod to the others' come as wanted.
func (w world) untilHeard(want map[string]string) {
	w.Helper()
	for name, by := range want {
		polltest.Until(w, patience, "packets to "+name+" by "+by, func() (bool, string) {
			got := w.heard(name)
			return got == by, "they come by " + got
		})
	}
}

// heard sends packets until one is answered, and tells how the last one came.
func (w world) heard(name string) (by string) {
	w.Helper()
	to := w.nodes[name]
	fd := -1
	w.ok(to.ns.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all&0xffff)
		return err
	}))
	defer unix.Close(fd)
	link, err := to.k.LinkByName(uplink)
	w.ok(err)
	s := w.stream("node-1", name)
	s.untilMore(w, 1)
	s.stop()
	for buf := make([]byte, 2048); ; {
		size, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return by
		}
		w.ok(err)
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Ifindex == link.Index && at.Pkttype == unix.PACKET_HOST && size >= 20 {
			if how := carrier(buf[:size], w.nodes["node-1"].pod, to.pod); how != "" {
				by = how
			}
		}
	}
}

// carrier is what a packet that is, or holds, one from pod to pod was carried by; "" for others.
func carrier(packet []byte, from, to netip.Addr) string {
	is := func(p []byte) bool {
		return len(p) >= 20 && p[0]>>4 == 4 && netip.AddrFrom4([4]byte(p[12:])) == from && netip.AddrFrom4([4]byte(p[16:])) == to
	}
	const ip, encapsulated = 20, 20 + 8 + 8 + 14 // in UDP, VXLAN and Ethernet
	switch {
	case packet[0]>>4 != 4:
	case is(packet):
		return "plain"
	case packet[9] == unix.IPPROTO_IPIP && is(packet[ip:]):
		return "IPIP"
	case packet[9] == unix.IPPROTO_UDP && len(packet) > encapsulated && binary.BigEndian.Uint16(packet[ip+2:]) == 4789 && is(packet[encapsulated:]):
		return "VXLAN"
	}
	return ""
}

// stream is numbered packets from a pod to another, each of which is answered.
type stream struct {
	name     string
	conn     *net.UDPConn
	to       netip.AddrPort
	end      chan struct{}
	ended    sync.WaitGroup
	mu       sync.Mutex
	sent     uint32
	answered map[uint32]bool
	err      error
}

// pace is the time between two packets.
const pace = 5 * time.Millisecond

func (w world) stream(from, to string) *stream {
	w.Helper()
	a, b := w.nodes[from], w.nodes[to]
	var echo *net.UDPConn
	w.ok(b.ns.Do(func() (err error) {
		echo, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.pod, 0)))
		return err
	}))
	s := &stream{name: from + " → " + to, to: echo.LocalAddr().(*net.UDPAddr).AddrPort(), end: make(chan struct{}), answered: map[uint32]bool{}}
	w.ok(a.ns.Do(func() (err error) {
		s.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.pod, 0)))
		return err
	}))
	w.Cleanup(func() {
		_ = echo.Close()
		_ = s.conn.Close()
	})
	go answer(echo)
	go s.receive()
	s.ended.Go(s.send)
	return s
}

func answer(echo *net.UDPConn) {
	for buf := make([]byte, 4); ; {
		n, from, err := echo.ReadFromUDPAddrPort(buf)
		if err == nil {
			_, err = echo.WriteToUDPAddrPort(buf[:n], from)
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (s *stream) receive() {
	for buf := make([]byte, 4); ; {
		_, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			s.mu.Lock()
			s.answered[binary.BigEndian.Uint32(buf)] = true
			s.mu.Unlock()
		}
	}
}

// send goes on to the end; a packet that can't be sent is one that is lost.
func (s *stream) send() {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-s.end:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		s.sent++
		number := s.sent
		s.mu.Unlock()
		if _, err := s.conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, number), s.to); err != nil {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		}
	}
}

// untilMore waits for so many more answers.
func (s *stream) untilMore(t testing.TB, more int) {
	t.Helper()
	answers := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.answered)
	}
	want := answers() + more
	polltest.Until(t, patience, fmt.Sprintf("%d answers to %s", more, s.name), func() (bool, string) {
		n := answers()
		return n >= want, fmt.Sprintf("%d are missing", want-n)
	})
}

func (s *stream) stop() {
	close(s.end)
	s.ended.Wait()
}

// stopAndDemandNoLoss waits for the last answers: every packet has its own.
func (s *stream) stopAndDemandNoLoss(t *testing.T) {
	t.Helper()
	s.stop()
	polltest.Until(t, 5*time.Second, "the answer to every packet of "+s.name, func() (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		var lost []uint32
		for n := uint32(1); n <= s.sent; n++ {
			if !s.answered[n] {
				lost = append(lost, n)
			}
		}
		if s.sent > 0 && len(lost) == 0 {
			t.Logf("%s: %d packets, none lost", s.name, s.sent)
			return true, ""
		}
		return false, fmt.Sprintf("of %d there is none to %v (%v)", s.sent, lost, s.err)
	})
}

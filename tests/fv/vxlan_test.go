package fv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tortie/tests/lab"
)

// setVXLANMode gives both pools a mode, and natOutgoing: without it, what answers on a
// node by UDP from an unbound socket answers from the tunnel's address.
func setVXLANMode(t *testing.T, l *lab.Lab, mode string) {
	t.Helper()
	apply(t, l, manifestHead+"kind: IPPool\nmetadata: {name: pool-v4}\nspec: {cidr: 10.65.0.0/16, blockSize: 26, natOutgoing: true, vxlanMode: "+mode+"}\n---\n"+
		manifestHead+"kind: IPPool\nmetadata: {name: pool-v6}\nspec: {cidr: 'fd65::/48', blockSize: 122, natOutgoing: true, vxlanMode: "+mode+"}\n")
}

// TestVXLANCarriesWhatThePoolsModeSays goes through the modes: every path works, by
// the right next hop, and what is on the wire between the nodes is what the mode says.
func TestVXLANCarriesWhatThePoolsModeSays(t *testing.T) {
	l := up(t, "vxlan", 3)
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	for _, tt := range []struct {
		mode string
		// On node1's and node2's wire, and on that of node3 behind the router.
		plain, vxlan           bool
		plainBehind, vxlanHere bool
	}{
		{mode: "Always", vxlan: true, vxlanHere: true},
		{mode: "CrossSubnet", plain: true, vxlan: true},
		{mode: "Never", plain: true, plainBehind: true},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			setVXLANMode(t, l, tt.mode)
			mustConverge(t, l)
			w := listen(t, l)
			everyPathWorks(t, l)
			seen := w.stop()
			for _, family := range []string{"IPv4", "IPv6"} {
				for node, want := range map[string]heard{
					"node1": {Plain: tt.plain, VXLAN: tt.vxlan}, "node2": {Plain: tt.plain, VXLAN: tt.vxlan}, "node3": {Plain: tt.plainBehind, VXLAN: tt.vxlan},
				} {
					if got := seen[node+" "+family]; got != want {
						t.Errorf("%s on the wire of %s: %+v, want %+v", family, node, got, want)
					}
				}
			}
			if got := seen["between node1 and node2"]; got.VXLAN != tt.vxlanHere {
				t.Errorf("VXLAN on a segment: %v, want %v", got.VXLAN, tt.vxlanHere)
			}
		})
	}
}

// heard is what was seen of packets from pod to pod on a node's device.
type heard struct{ Plain, VXLAN, IPIP, WireGuard bool }

// wire listens on the nodes' own devices.
type wire struct {
	t     *testing.T
	nodes map[netip.Addr]string
	end   chan struct{}
	done  sync.WaitGroup
	mu    sync.Mutex
	seen  map[string]heard // by node and family
	// hosts are packets that came from a node itself, or went to one, in clear: one of each
	// kind.
	hosts map[string]bool
}

func listen(t *testing.T, l *lab.Lab) *wire {
	t.Helper()
	w := &wire{t: t, nodes: map[netip.Addr]string{}, hosts: map[string]bool{}, end: make(chan struct{}), seen: map[string]heard{}}
	for _, n := range l.Topology().Nodes {
		w.nodes[n.V4.Addr()], w.nodes[n.V6.Addr()] = n.Name, n.Name
	}
	for _, n := range l.Topology().Nodes {
		fd := -1
		err := l.In(n.Name, func() (err error) {
			const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
			if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all&0xffff); err != nil {
				return err
			}
			return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
		})
		if err != nil {
			t.Fatal(err)
		}
		index := 0
		if err := l.In(n.Name, func() error {
			index = deviceIndex(t)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.done.Go(func() {
			defer unix.Close(fd)
			w.read(n.Name, fd, index)
		})
	}
	return w
}

// read takes what passes until stop, and then what waits by then: the kernel has a packet here
// before anybody gets it, but this may be slower than the packets.
func (w *wire) read(node string, fd, device int) {
	buf := make([]byte, 2048)
	flags := 0
	for {
		size, from, err := unix.Recvfrom(fd, buf, flags)
		if at, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && at.Ifindex == device {
			w.note(node, buf[:size])
		}
		if err != nil && (flags != 0 || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)) {
			return
		}
		select {
		case <-w.end:
			flags = unix.MSG_DONTWAIT
		default:
		}
	}
}

func (*wire) isPod(a netip.Addr) bool {
	return netip.MustParsePrefix("10.65.0.0/16").Contains(a) || netip.MustParsePrefix("fd65::/48").Contains(a)
}

// note looks at one Ethernet frame.
func (w *wire) note(node string, frame []byte) {
	p := dissect(frame)
	w.mu.Lock()
	defer w.mu.Unlock()
	if what := w.betweenNodes(p); what != "" {
		w.hosts[node+": "+what] = true
	}
	seen := heard{Plain: w.isPod(p.src) && w.isPod(p.dst), VXLAN: p.port == 4789, IPIP: p.family == "IPv4" && p.protocol == unix.IPPROTO_IPIP, WireGuard: p.from == p.port && (p.port == 51820 || p.port == 51821)}
	w.add(node+" "+p.family, seen)
	first, second := netip.MustParseAddr("10.10.1.1"), netip.MustParseAddr("10.10.1.2")
	if p.src == first && p.dst == second || p.src == second && p.dst == first {
		w.add("between node1 and node2", seen)
	}
}

func (w *wire) add(key string, seen heard) {
	h := w.seen[key]
	w.seen[key] = heard{Plain: h.Plain || seen.Plain, VXLAN: h.VXLAN || seen.VXLAN, IPIP: h.IPIP || seen.IPIP, WireGuard: h.WireGuard || seen.WireGuard}
}

// packet is what a frame says of it; if it is of UDP it goes from one port to another.
type packet struct {
	family   string
	src, dst netip.Addr
	protocol byte
	from     uint16
	port     uint16
}

func dissect(frame []byte) (p packet) {
	const ethernet, header4, header6 = 14, 20, 40
	if len(frame) < ethernet+header4 {
		return p
	}
	raw := frame[ethernet:]
	var inner []byte
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_IP:
		p = packet{family: "IPv4", src: netip.AddrFrom4([4]byte(raw[12:])), dst: netip.AddrFrom4([4]byte(raw[16:])), protocol: raw[9]}
		inner = raw[int(raw[0]&15)*4:]
	case kind == unix.ETH_P_IPV6 && len(raw) >= header6+8:
		p = packet{family: "IPv6", src: netip.AddrFrom16([16]byte(raw[8:])), dst: netip.AddrFrom16([16]byte(raw[24:])), protocol: raw[6]}
		inner = raw[header6:]
	}
	if p.protocol == unix.IPPROTO_UDP && len(inner) >= 8 {
		p.from, p.port = binary.BigEndian.Uint16(inner), binary.BigEndian.Uint16(inner[2:])
	}
	return p
}

func (w *wire) stop() map[string]heard {
	close(w.end)
	w.done.Wait()
	return w.seen
}

// deviceIndex is that of eth0 in the namespace of the thread.
func deviceIndex(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("eth0")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		t.Fatal(err)
	}
	return int(req.Uint32())
}

// TestVXLANModeIsChangedUnderTraffic goes from each mode to each other one, and back to
// no tunnel at all.
func TestVXLANModeIsChangedUnderTraffic(t *testing.T) {
	l := up(t, "vxlanlive", 3)
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	for _, mode := range []string{"Always", "Never", "CrossSubnet", "Always", "CrossSubnet", "Never"} {
		t.Run(mode, func(t *testing.T) {
			tr := startTraffic(t, l)
			setVXLANMode(t, l, mode)
			mustConverge(t, l)
			time.Sleep(500 * time.Millisecond) // whatever is taken away late goes in this time
			tr.stopAndDemandNoLoss(t)
		})
	}
}

// TestVXLANIsMendedAndOutlivesFelix: what is removed by hand comes back, and daemons
// that are killed lose no packet.
func TestVXLANIsMendedAndOutlivesFelix(t *testing.T) {
	l := up(t, "vxlanmend", 3)
	setVXLANMode(t, l, "CrossSubnet")
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	for _, device := range []string{"vxlan.calico", "vxlan-v6.calico"} {
		run(t, l, "", "ip", "link", "delete", device)
		mustConverge(t, l)
	}
	for _, programs := range [][]string{{"felix"}, {"bgpd"}, {"felix", "bgpd"}} {
		t.Run(strings.Join(programs, " and ")+" killed", func(t *testing.T) {
			demandNoLossWhileKilled(t, l, programs, []string{"node1", "node2", "node3"})
		})
	}
	t.Run("tunnels are taken down when no pool asks for them", func(t *testing.T) {
		tr := startTraffic(t, l)
		setVXLANMode(t, l, "Never")
		mustConverge(t, l)
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
			left := whatIsLeftOfVXLAN(t, l)
			if left == "" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("after a minute there is still %s", left)
			}
		}
		tr.stopAndDemandNoLoss(t)
		waitStoreSound(t, l, 6)
		mustConverge(t, l)
	})
}

// TestVXLANNeedsNoBGP: a cluster without bgpd, as with CALICO_NETWORKING_BACKEND=vxlan.
func TestVXLANNeedsNoBGP(t *testing.T) {
	l := up(t, "vxlanonly", 3)
	for _, n := range l.Topology().Nodes {
		if err := l.KillDaemon("bgpd", n.Name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, family := range []string{"-4", "-6"} {
			err := l.Exec(n.Name, []string{"ip", family, "route", "flush", "proto", "81"}, lab.Stdio{})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	addPods(t, l, 6, 1)
	for _, mode := range []string{"CrossSubnet", "Always"} {
		setVXLANMode(t, l, mode)
		mustConverge(t, l)
	}
	if _, err := l.AddPod(t.Context(), lab.PodSpec{Name: "late", Node: "node1", Containers: 1}); err != nil {
		t.Fatal(err)
	}
	if out := run(t, l, "", "ip", "-o", "link", "show", "type", "veth"); !strings.Contains(out, "mtu 1430") {
		t.Errorf("no pod's device leaves room for the encapsulation:\n%s", out)
	}
	mustConverge(t, l)
}

// whatIsLeftOfVXLAN names one thing, or nothing.
func whatIsLeftOfVXLAN(t *testing.T, l *lab.Lab) string {
	t.Helper()
	if nodes := run(t, l, "", "calicoctl", "get", "nodes", "-o", "yaml"); strings.Contains(nodes, "VXLAN") || strings.Contains(nodes, "vxlan") {
		return "a tunnel in the Nodes"
	}
	if links := run(t, l, "", "ip", "-br", "link"); strings.Contains(links, "vxlan") {
		return fmt.Sprintf("a device: %s", links)
	}
	return ""
}

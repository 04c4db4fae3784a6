package server_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tortie/bgpd/bfd"
	"tortie/bgpd/bfd/server"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

const (
	ms       = time.Millisecond
	patience = 30 * time.Second
	// second is what the issue allows for a dead neighbour at 300 ms × 3.
	second = time.Second
)

func fast() bfd.Timers { return bfd.Timers{Transmit: 300 * ms, Receive: 300 * ms, Multiplier: 3} }

// wire is two namespaces with a link between them: a has the addresses .1, b .2.
type wire struct {
	t    *testing.T
	ns   map[string]*kernel.Netns
	link map[string]int
}

func newWire(t *testing.T) *wire {
	kerneltest.Require(t, kerneltest.Netns, kerneltest.Veth, kerneltest.IPv6, kerneltest.IPRoute2)
	w := &wire{t: t, ns: map[string]*kernel.Netns{"a": kerneltest.NewNetns(t), "b": kerneltest.NewNetns(t)}, link: map[string]int{}}
	for name := range w.ns {
		w.run(name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	}
	a, b := kerneltest.Open(t, w.ns["a"]), kerneltest.Open(t, w.ns["b"])
	link, err := a.CreateVeth(kernel.VethSpec{Host: "wire", Peer: "wire", PeerNetns: w.ns["b"]})
	if err != nil {
		t.Fatal(err)
	}
	w.link["a"] = link.Index
	other, err := b.LinkByName("wire")
	if err != nil {
		t.Fatal(err)
	}
	w.link["b"] = other.Index
	for name, host := range map[string]string{"a": "1", "b": "2"} {
		w.run(name, "ip", "link", "set", "wire", "up")
		w.run(name, "ip", "addr", "add", "10.99.0."+host+"/24", "dev", "wire")
		w.run(name, "ip", "addr", "add", "fd99::"+host+"/64", "dev", "wire")
	}
	return w
}

func (w *wire) run(ns string, argv ...string) string {
	w.t.Helper()
	out, err := w.try(ns, argv...)
	if err != nil {
		w.t.Fatalf("%s: %s: %v\n%s", ns, strings.Join(argv, " "), err, out)
	}
	return out
}

// mute keeps a namespace's packets from leaving it.
func (w *wire) mute(ns string) {
	w.t.Helper()
	kerneltest.Require(w.t, kerneltest.Nftables)
	w.run(ns, "nft", "add table inet mute; add chain inet mute out { type filter hook output priority 0; policy drop; }")
}

func (w *wire) try(ns string, argv ...string) (string, error) {
	var out []byte
	err := w.ns[ns].Do(func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	return string(out), err
}

// node is a server in a namespace.
type node struct {
	*server.Server
	t    *testing.T
	stop func() // ends it and waits
}

func (w *wire) serve(ns string, peers ...server.Peer) *node {
	s := server.New(slog.New(slog.NewTextHandler(w.t.Output(), nil)))
	s.Set(peers)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.ns[ns].Do(func() error { return s.Run(ctx) }) }()
	var ended bool
	n := &node{Server: s, t: w.t, stop: func() {
		cancel()
		if !ended {
			ended = true
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		}
	}}
	w.t.Cleanup(n.stop)
	return n
}

// peer is the other end as a session of ns has it.
func (w *wire) peer(ns, address string, timers bfd.Timers) server.Peer {
	addr := netip.MustParseAddr(address)
	local := map[bool]map[string]string{false: {"a": "10.99.0.1", "b": "10.99.0.2"}, true: {"a": "fd99::1", "b": "fd99::2"}}
	return server.Peer{Address: addr, Local: netip.MustParseAddr(local[addr.Is6()][ns]), Link: w.link[ns], Timers: timers}
}

// until waits for a state of a session.
func (n *node) until(address, what string, met func(bfd.Status) bool) bfd.Status {
	n.t.Helper()
	deadline := time.After(patience)
	for {
		st, ok := n.Status()[netip.MustParseAddr(address)]
		if ok && met(st) {
			return st
		}
		select {
		case <-n.Changed():
		case <-deadline:
			n.t.Fatalf("still waiting for %s to be %s: %+v, problem %q, discarded %v", address, what, st, n.Problem(), n.Discarded())
		}
	}
}

// settled: up, with the timers of both sides in force.
func settled(interval, detection time.Duration) func(bfd.Status) bool {
	return func(st bfd.Status) bool {
		return st.State == bfd.Up && st.Peer == bfd.Up && st.Transmit == interval && st.Detection == detection
	}
}

func isDown(st bfd.Status) bool { return st.State == bfd.Down }

var families = map[string]struct{ a, b string }{"IPv4": {"10.99.0.1", "10.99.0.2"}, "IPv6": {"fd99::1", "fd99::2"}}

func TestDeadLinkIsFoundWithinASecond(t *testing.T) {
	for name, addr := range families {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			a, b := w.serve("a", w.peer("a", addr.b, fast())), w.serve("b", w.peer("b", addr.a, fast()))
			a.until(addr.b, "up at 300 ms × 3", settled(300*ms, 900*ms))
			b.until(addr.a, "up at 300 ms × 3", settled(300*ms, 900*ms))
			w.mute("b")
			dead := time.Now() // at the latest
			st := a.until(addr.b, "down", isDown)
			if took := time.Since(dead); took >= second || st.Diag != bfd.DiagExpired || st.Failures != 1 {
				t.Errorf("after %s: %+v", took, st)
			}
			// What a says arrives: b learns that nothing of it does.
			if st := b.until(addr.a, "down", isDown); st.Diag != bfd.DiagNeighborDown || st.Failures != 1 {
				t.Errorf("the other side: %+v", st)
			}
			w.run("b", "nft", "delete", "table", "inet", "mute")
			a.until(addr.b, "up again", settled(300*ms, 900*ms))
		})
	}
}

func TestSlowerSideDecides(t *testing.T) {
	w := newWire(t)
	a := w.serve("a", w.peer("a", "10.99.0.2", bfd.Timers{Transmit: 100 * ms, Receive: 500 * ms, Multiplier: 4}))
	b := w.serve("b", w.peer("b", "10.99.0.1", bfd.Timers{Transmit: 200 * ms, Receive: 300 * ms, Multiplier: 3}))
	a.until("10.99.0.2", "a's", settled(300*ms, 1500*ms))
	b.until("10.99.0.1", "b's", settled(500*ms, 1200*ms))
	b.Set([]server.Peer{w.peer("b", "10.99.0.1", bfd.Timers{Transmit: 1000 * ms, Receive: 50 * ms, Multiplier: 5})})
	a.until("10.99.0.2", "a's after the change", settled(100*ms, 5000*ms))
	b.until("10.99.0.1", "b's after the change", settled(1000*ms, 400*ms))
	for _, st := range []bfd.Status{a.Status()[netip.MustParseAddr("10.99.0.2")], b.Status()[netip.MustParseAddr("10.99.0.1")]} {
		if st.Failures != 0 {
			t.Errorf("the change cost a failure: %+v", st)
		}
	}
}

func TestEndOfASessionIsNoFailureToThePeer(t *testing.T) {
	for name, end := range map[string]func(*node){
		"no longer wanted": func(n *node) { n.Set(nil) },
		"program ends":     func(n *node) { n.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			a, b := w.serve("a", w.peer("a", "10.99.0.2", fast())), w.serve("b", w.peer("b", "10.99.0.1", fast()))
			a.until("10.99.0.2", "up", settled(300*ms, 900*ms))
			b.until("10.99.0.1", "up", settled(300*ms, 900*ms))
			end(b)
			if st := a.until("10.99.0.2", "down", isDown); st.Failures != 0 || st.Peer != bfd.AdminDown {
				t.Errorf("%+v", st)
			}
			if n := len(b.Status()); name == "no longer wanted" && n != 0 {
				t.Errorf("%d sessions are told of", n)
			}
		})
	}
}

func TestSessionComesBackAfterARestart(t *testing.T) {
	w := newWire(t)
	a, b := w.serve("a", w.peer("a", "fd99::2", fast())), w.serve("b", w.peer("b", "fd99::1", fast()))
	a.until("fd99::2", "up", settled(300*ms, 900*ms))
	b.stop()
	ended := time.Now()
	w.serve("b", w.peer("b", "fd99::1", fast()))
	a.until("fd99::2", "up again", func(st bfd.Status) bool {
		return st.Since.After(ended) && settled(300*ms, 900*ms)(st)
	})
}

// TestPacketsAreThoseOfASingleHop: TTL 255, to port 3784, from one port of the
// dynamic range (RFC 5881 sections 4 and 5), at most one a second (RFC 5880
// section 6.8.3).
func TestPacketsAreThoseOfASingleHop(t *testing.T) {
	w := newWire(t)
	var conn net.PacketConn
	err := w.ns["b"].Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", "10.99.0.2:3784")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	udp := conn.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	controlErr := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTTL, 1), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
	})
	if err := errors.Join(controlErr, err); err != nil {
		t.Fatal(err)
	}
	w.serve("a", w.peer("a", "10.99.0.2", fast()))
	var last netip.AddrPort
	var at time.Time
	for i := range 3 {
		buf, oob := make([]byte, 100), make([]byte, 100)
		_ = udp.SetReadDeadline(time.Now().Add(patience))
		n, noob, _, from, err := udp.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			t.Fatal(err)
		}
		p, why := bfd.Parse(buf[:n])
		if why != 0 || p.State != bfd.Down || p.DesiredMinTx < time.Second {
			t.Errorf("%+v, %v", p, why)
		}
		ttl, now := arrival(t, oob[:noob])
		if ttl != 255 {
			t.Errorf("TTL is %d", ttl)
		}
		if from.Port() < 49152 || i > 0 && from != last {
			t.Errorf("from %s, before from %s", from, last)
		}
		if gap := now.Sub(at); i > 0 && gap < 700*ms {
			t.Errorf("the next one came after %s", gap)
		}
		last, at = from, now
	}
}

// arrival reads what the kernel says of a packet: its TTL, and when it came, however late it
// is read.
func arrival(t *testing.T, oob []byte) (ttl int, at time.Time) {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL:
			ttl = int(m.Data[0])
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS:
			at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	if at.IsZero() {
		t.Fatalf("the kernel does not say when it came: %v", messages)
	}
	return ttl, at
}

// send sends packets to a from a socket of b with a TTL, and from an address.
func (w *wire) send(from string, ttl int, packets ...[]byte) {
	w.t.Helper()
	err := w.ns["b"].Do(func() error {
		conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.99.0.1:3784")))
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl) }); err != nil || failed != nil {
			return failed
		}
		for _, p := range packets {
			if _, err := conn.Write(p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestPacketsThatCountForNothingAreCounted(t *testing.T) {
	w := newWire(t)
	w.run("b", "ip", "addr", "add", "10.99.0.3/24", "dev", "wire")
	a := w.serve("a", w.peer("a", "10.99.0.2", fast()))
	down := bfd.Packet{State: bfd.Down, Multiplier: 3, My: 9, DesiredMinTx: time.Second, RequiredMinRx: time.Second}
	authenticated := append(down.Append(nil), 1, 4, 1, 'x')
	authenticated[1] |= 1 << 2
	authenticated[3] = 28
	stray := down
	stray.Your = 12345
	// A session has begun when its first packet is out: only then is there a socket.
	a.until("10.99.0.2", "begun", func(bfd.Status) bool { return true })
	w.send("10.99.0.2:50000", 254, down.Append(nil))
	w.send("10.99.0.3:50000", 255, down.Append(nil))
	w.send("10.99.0.2:50002", 255, authenticated)
	a.until("10.99.0.2", "told why nothing counts", func(st bfd.Status) bool { return st.Discarded == bfd.DiscardAuthenticated })
	w.send("10.99.0.2:50001", 255, stray.Append(nil), []byte("x"), down.Append(nil))
	a.until("10.99.0.2", "in Init by the one good packet", func(st bfd.Status) bool { return st.State == bfd.Init && st.Discarded == 0 })
	want := map[bfd.Discard]uint64{bfd.DiscardTTL: 1, bfd.DiscardNoSession: 2, bfd.DiscardAuthenticated: 1, bfd.DiscardLength: 1}
	got := a.Discarded()
	for reason, n := range want {
		if got[reason] != n {
			t.Errorf("%s: %d, want %d", reason, got[reason], n)
		}
	}
}

// TestPacketOverAnotherLinkIsDiscarded: a neighbour of one link can't speak for
// that of another.
func TestPacketOverAnotherLinkIsDiscarded(t *testing.T) {
	w := newWire(t)
	p := w.peer("a", "10.99.0.2", fast())
	p.Link = 1 // the loopback
	a := w.serve("a", p)
	b := w.serve("b", w.peer("b", "10.99.0.1", fast()))
	b.until("10.99.0.1", "begun", func(bfd.Status) bool { return true })
	for deadline := time.Now().Add(patience); a.Discarded()[bfd.DiscardLink] == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("discarded %v", a.Discarded())
		}
	}
	if st := a.Status()[netip.MustParseAddr("10.99.0.2")]; st.State != bfd.Down {
		t.Errorf("%+v", st)
	}
}

func TestLinkThatIsGoneIsSaidAndNotForgotten(t *testing.T) {
	w := newWire(t)
	a, b := w.serve("a", w.peer("a", "10.99.0.2", fast())), w.serve("b", w.peer("b", "10.99.0.1", fast()))
	a.until("10.99.0.2", "up", settled(300*ms, 900*ms))
	b.until("10.99.0.1", "up", settled(300*ms, 900*ms))
	w.run("a", "ip", "link", "del", "wire")
	st := a.until("10.99.0.2", "down and unable to send", func(st bfd.Status) bool { return st.State == bfd.Down && st.Problem != "" })
	if st.Failures != 1 {
		t.Errorf("%+v", st)
	}
	if st := b.until("10.99.0.1", "down", isDown); st.Failures != 1 {
		t.Errorf("the other side: %+v", st)
	}
}

func TestPortThatIsTakenIsAProblemUntilItIsFree(t *testing.T) {
	w := newWire(t)
	var conn net.PacketConn
	err := w.ns["a"].Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", "0.0.0.0:3784")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a := w.serve("a", w.peer("a", "10.99.0.2", fast()), w.peer("a", "fd99::2", fast()))
	b := w.serve("b", w.peer("b", "10.99.0.1", fast()), w.peer("b", "fd99::1", fast()))
	a.until("fd99::2", "up, whatever becomes of IPv4", settled(300*ms, 900*ms))
	if got := a.Problem(); !strings.Contains(got, "UDP port 3784 is taken: end the other BFD daemon of this node") {
		t.Errorf("problem %q", got)
	}
	conn.Close()
	b.until("10.99.0.1", "up", settled(300*ms, 900*ms))
	if got := a.Problem(); got != "" {
		t.Errorf("problem %q after the port is free", got)
	}
}

// TestSessionSendsFromItsOwnAddress, whichever is the link's first: a neighbour is known
// by it.
func TestSessionSendsFromItsOwnAddress(t *testing.T) {
	const sessions = 20
	for name, form := range map[string]struct{ a, b, bits string }{
		"IPv4": {"10.99.1.%d", "10.99.2.%d", "/16"}, "IPv6": {"fd98::1:%d", "fd98::2:%d", "/64"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			peers := map[string][]server.Peer{}
			for i := range sessions {
				a, b := fmt.Sprintf(form.a, i+1), fmt.Sprintf(form.b, i+1)
				w.run("a", "ip", "addr", "add", a+form.bits, "dev", "wire")
				w.run("b", "ip", "addr", "add", b+form.bits, "dev", "wire")
				ours, theirs := netip.MustParseAddr(a), netip.MustParseAddr(b)
				peers["a"] = append(peers["a"], server.Peer{Address: theirs, Local: ours, Link: w.link["a"], Timers: fast()})
				peers["b"] = append(peers["b"], server.Peer{Address: ours, Local: theirs, Link: w.link["b"], Timers: fast()})
			}
			a, b := w.serve("a", peers["a"]...), w.serve("b", peers["b"]...)
			for _, p := range peers["a"] {
				if st := a.until(p.Address.String(), "up", settled(300*ms, 900*ms)); st.Failures != 0 {
					t.Errorf("%s: %+v", p.Address, st)
				}
			}
			// A packet from a wrong address belongs to another session or to none.
			for _, n := range []*node{a, b} {
				if got := n.Discarded()[bfd.DiscardNoSession]; got > 2*sessions { // those that came before their session began
					t.Errorf("%d packets belonged to no session", got)
				}
			}
		})
	}
}

// TestSessionsGoPastWireGuard: what else goes to the neighbour's address is led elsewhere, as
// felix leads it, and packets that say nothing of passing that by are lost: those of IPv4 go by
// their link anyway, those of IPv6 do not.
func TestSessionsGoPastWireGuard(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	for name, addr := range families {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			for ns, other := range map[string]string{"a": addr.b, "b": addr.a} {
				kerneltest.LeadAway(t, w.ns[ns], netip.MustParseAddr(other))
				w.run(ns, "nft", fmt.Sprintf("add table inet clear; add chain inet clear out { type filter hook output priority 0; }; add rule inet clear out udp dport 3784 meta mark & %#x == 0 drop", kernel.MarkClear))
			}
			a, b := w.serve("a", w.peer("a", addr.b, fast())), w.serve("b", w.peer("b", addr.a, fast()))
			a.until(addr.b, "up", settled(300*ms, 900*ms))
			b.until(addr.a, "up", settled(300*ms, 900*ms))
		})
	}
}

package wireguard_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/felix/calc"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/polltest"
)

// amongHosts runs a test in each way and version of IP, with two nodes that know each
// other and encrypt what they send themselves, on segments with a strict reverse path.
func amongHosts(t *testing.T, test func(*testing.T, pair)) {
	for _, way := range ways() {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", way, v6), func(t *testing.T) {
				require(t, way)
				kerneltest.Require(t, kerneltest.Nftables)
				p := pair{newNode(t, "a", 1, way, v6), newNode(t, "b", 2, way, v6)}
				p.wire("eth0", p.a.end.Address)
				for _, s := range []*node{p.a, p.b} {
					s.must(s.k.SetSysctl("ipv4/conf/all/rp_filter", "0"))
					s.must(s.k.SetSysctl("ipv4/conf/eth0/rp_filter", "1"))
					s.setHosts(true)
				}
				test(t, p)
			})
		}
	}
}

func (s *node) setHosts(on bool) {
	s.names.Hosts = on
	s.tunnels.Configure(s.names)
}

// led waits until a node leads what goes to the other's address into its device, or not.
func (s *node) led(to *node, want bool) {
	s.Helper()
	polltest.Until(s, 10*time.Second, fmt.Sprintf("%s to lead packets to %s by WireGuard: %v", s.name, to.name, want), func() (bool, string) {
		rules, err := s.k.Rules(s.Context(), kernel.ProtocolFelix)
		s.must(err)
		routes, err := s.k.Routes(s.Context(), kernel.RouteFilter{Table: 1, Protocol: kernel.ProtocolFelix})
		s.must(err)
		there := len(rules) == 1 && len(routes) == 1 && routes[0].Dst.Addr() == to.end.Address.Addr()
		gone := len(rules) == 0 && len(routes) == 0
		return want && there || !want && gone, fmt.Sprintf("rules %v, routes %v", rules, routes)
	})
}

// wiretap hears what passes a node's eth0.
type wiretap struct {
	node *node
	fd   int
	link int
}

func (s *node) tap() *wiretap {
	s.Helper()
	w := &wiretap{node: s}
	s.must(s.ns.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all&0xffff)
		return err
	}))
	s.Cleanup(func() { unix.Close(w.fd) })
	eth, err := s.k.LinkByName("eth0")
	s.must(err)
	w.link = eth.Index
	return w
}

// inClear describes a frame that is neither of WireGuard nor of what finds neighbours.
func inClear(frame []byte) string {
	const ethernet = 14
	ip := frame[ethernet:]
	var src, dst netip.Addr
	var protocol byte
	var rest []byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		src, _ = netip.AddrFromSlice(ip[12:16])
		dst, _ = netip.AddrFromSlice(ip[16:20])
		protocol, rest = ip[9], ip[int(ip[0]&15)*4:]
	case unix.ETH_P_IPV6:
		src, _ = netip.AddrFromSlice(ip[8:24])
		dst, _ = netip.AddrFromSlice(ip[24:40])
		protocol, rest = ip[6], ip[40:]
	default:
		return ""
	}
	port := binary.BigEndian.Uint16(rest[2:])
	if protocol == unix.IPPROTO_UDP && (port == 51820 || port == 51821) || protocol == unix.IPPROTO_ICMPV6 || protocol == unix.IPPROTO_ICMP || protocol == 0 || protocol == unix.IPPROTO_IGMP {
		return ""
	}
	return fmt.Sprintf("%s → %s, protocol %d", netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest)), netip.AddrPortFrom(dst, port), protocol)
}

// take is what has passed in clear since the last time, from or to a port. What was answered
// has passed: the kernel has it here before it is sent on.
func (w *wiretap) take(port uint16) (out []string) {
	w.node.Helper()
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return out
		}
		w.node.must(err)
		what := inClear(buf[:n])
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Ifindex == w.link && (strings.Contains(what, fmt.Sprintf(":%d ", port)) || strings.Contains(what, fmt.Sprintf(":%d,", port))) {
			out = append(out, what)
		}
	}
}

// echo answers by TCP at a node's own address and at others of its.
func (s *node) echo() (port uint16) {
	s.Helper()
	var l net.Listener
	s.must(s.ns.Do(func() (err error) { l, err = net.Listen("tcp", ":0"); return err }))
	s.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					_, _ = c.Write(buf[:n])
				}
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// dial connects to an address; from is the node's own, where none is given.
func (s *node) dial(to netip.AddrPort, from netip.Addr) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	var c net.Conn
	err := s.ns.Do(func() (err error) { c, err = d.DialContext(s.Context(), "tcp", to.String()); return err })
	return c, err
}

func (s *node) mustDial(to netip.AddrPort, from netip.Addr) net.Conn {
	s.Helper()
	c, err := s.dial(to, from)
	s.must(err)
	s.Cleanup(func() { c.Close() })
	return c
}

// ask sends something over a connection and waits for the answer.
func ask(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := c.Write([]byte("ask"))
	if err == nil {
		_, err = c.Read(make([]byte, 64))
	}
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
}

func (s *node) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(s.end.Address.Addr(), port) }

// TestHostsTalkEncryptedAlone: what two nodes send each other under their own addresses is
// seen only encrypted, under the addresses they have; connections that were there before it
// was switched on, and off, go on.
func TestHostsTalkEncryptedAlone(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		port := p.b.echo()
		before := p.a.mustDial(p.b.at(port), netip.Addr{})
		ask(t, before)
		p.meet()
		p.a.led(p.b, true)
		p.b.led(p.a, true)
		ask(t, before) // what was on its way is over
		w := p.a.tap()
		ask(t, before)
		during := p.a.mustDial(p.b.at(port), netip.Addr{})
		ask(t, during)
		if from := during.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); from != p.a.end.Address.Addr() {
			t.Errorf("a connects from %s, want its own %s", from, p.a.end.Address.Addr())
		}
		if seen := w.take(port); len(seen) > 0 {
			t.Errorf("in clear: %q", seen)
		}
		for _, s := range []*node{p.a, p.b} {
			s.setHosts(false)
		}
		p.meet()
		p.a.led(p.b, false)
		p.b.led(p.a, false)
		ask(t, before)
		ask(t, during)
		if seen := w.take(port); len(seen) == 0 {
			t.Error("nothing in clear though it is switched off")
		}
	})
}

// TestNobodyIsLeftOutBeforeItKnowsThisNode: as long as the other node has not heard of
// this one's key, what goes there goes in clear, and is answered.
func TestNobodyIsLeftOutBeforeItKnowsThisNode(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		p.b.knows() // it has a device, and hears later
		p.a.knows(p.b.peer())
		ask(t, p.a.mustDial(p.b.at(p.b.echo()), netip.Addr{}))
		ask(t, p.b.mustDial(p.a.at(p.a.echo()), netip.Addr{}))
		p.a.led(p.b, false)
		if left := p.a.tunnels.Unmet(); len(left) != 1 || left[0] != "b" {
			t.Errorf("those that don't answer by WireGuard: %v, want b", left)
		}
		p.b.knows(p.a.peer())
		p.a.led(p.b, true)
		p.b.led(p.a, true)
		if left := p.a.tunnels.Unmet(); len(left) > 0 {
			t.Errorf("those that don't answer by WireGuard: %v, want nobody", left)
		}
	})
}

// TestWhoHasLostItsKeysIsAnsweredInClear, and reaches the datastore on another node by it;
// nobody else is, and what this node begins waits until the other end encrypts again.
func TestWhoHasLostItsKeysIsAnsweredInClear(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		p.meet()
		p.a.led(p.b, true)
		p.b.led(p.a, true)
		portA, portB := p.a.echo(), p.b.echo()
		kept := p.a.mustDial(p.b.at(portB), netip.Addr{})
		ask(t, kept)
		// b is as after a reboot without its disk.
		rules, err := p.b.k.Rules(t.Context(), kernel.ProtocolFelix)
		p.b.must(err)
		for _, r := range rules {
			p.b.must(p.b.k.DeleteRule(r))
		}
		p.b.must(p.b.k.DeleteLink(p.b.link().Index))
		w := p.a.tap()
		asks := p.b.mustDial(p.a.at(portA), netip.Addr{})
		ask(t, asks)
		if seen := w.take(portA); len(seen) == 0 {
			t.Fatal("nothing in clear")
		}
		_ = kept.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = kept.Write([]byte("a secret"))
		if c, err := p.a.dialBriefly(p.b.at(portB)); err == nil {
			c.Close()
			t.Error("a has begun a connection in clear")
		}
		// b may send again what it had sent before; a may not.
		if seen := slices.DeleteFunc(w.take(portB), func(what string) bool {
			return !strings.HasPrefix(strings.Trim(what, "["), p.a.end.Address.Addr().String())
		}); len(seen) > 0 {
			t.Errorf("in clear, though a has begun it: %q", seen)
		}
		p.b.knows(p.a.peer())
		p.b.led(p.a, true)
		ask(t, asks)
		ask(t, asks) // and the former answer is acknowledged
		w.take(portA)
		ask(t, asks)
		if seen := w.take(portA); len(seen) > 0 {
			t.Errorf("in clear, though b encrypts again: %q", seen)
		}
		_ = kept.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := kept.Read(make([]byte, 64)); err != nil {
			t.Errorf("what waited was not answered: %v", err)
		}
	})
}

func (s *node) dialBriefly(to netip.AddrPort) (c net.Conn, err error) {
	d := net.Dialer{Timeout: 500 * time.Millisecond}
	err = s.ns.Do(func() (err error) { c, err = d.DialContext(s.Context(), "tcp", to.String()); return err })
	return c, err
}

// TestOtherAddressesGoAsBefore: what a node sends under an address that its peers don't
// take from it, such as a service's, reaches them in clear, and so does what comes to it.
func TestOtherAddressesGoAsBefore(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		p.meet()
		p.a.led(p.b, true)
		p.b.led(p.a, true)
		service := netip.MustParsePrefix("192.0.2.200/24")
		if p.a.v6 {
			service = netip.MustParsePrefix("2001:db8::200/64")
		}
		eth, err := p.b.k.LinkByName("eth0")
		p.b.must(err)
		p.b.must(p.b.k.AddAddress(eth.Index, service))
		ask(t, p.a.mustDial(netip.AddrPortFrom(service.Addr(), p.b.echo()), netip.Addr{}))
		ask(t, p.b.mustDial(p.a.at(p.a.echo()), service.Addr()))
	})
}

// TestPodsReachNodesEncrypted, at the other node's own address.
func TestPodsReachNodesEncrypted(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		p.meet()
		p.a.led(p.b, true)
		p.b.led(p.a, true)
		port := p.b.echo()
		w := p.a.tap()
		ask(t, p.a.mustDial(p.b.at(port), p.a.pod))
		if seen := w.take(port); len(seen) > 0 {
			t.Errorf("in clear: %q", seen)
		}
	})
}

// TestWaysAreMendedAndGoWithTheDevice: rule, routes and device that somebody has taken
// away are back, and nothing is left when WireGuard is off.
func TestWaysAreMendedAndGoWithTheDevice(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		p.meet()
		a := p.a
		a.led(p.b, true)
		for name, tamper := range map[string]func(){
			"no rule": func() {
				rules, err := a.k.Rules(t.Context(), kernel.ProtocolFelix)
				a.must(err)
				a.must(a.k.DeleteRule(rules[0]))
			},
			"no route": func() {
				routes, err := a.k.Routes(t.Context(), kernel.RouteFilter{Table: 1})
				a.must(err)
				a.must(a.k.DeleteRoute(routes[0]))
			},
			"no device":                         func() { a.must(a.k.DeleteLink(a.link().Index)) },
			"no mark of the protocol's packets": func() { a.mark(0) },
		} {
			t.Run(name, func(t *testing.T) {
				tamper()
				a.knows(p.b.peer())
				a.led(p.b, true)
				ask(t, a.mustDial(p.b.at(p.b.echo()), netip.Addr{}))
				if mark := a.device().FirewallMark; mark != kernel.MarkClear {
					t.Errorf("the protocol's packets have the mark %#x", mark)
				}
			})
		}
		a.tunnels.Set([]calc.SecureTunnel{})
		a.must(a.tunnels.Apply(t.Context()))
		a.led(p.b, false)
	})
}

// TestProtocolsPacketsDoNotGoRound: a device whose packets somebody has taken the mark off is
// not led into itself, which would keep the node's processors busy with nothing else.
func TestProtocolsPacketsDoNotGoRound(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		p.meet()
		p.a.led(p.b, true)
		p.b.led(p.a, true)
		c := p.a.mustDial(p.b.at(p.b.echo()), netip.Addr{})
		ask(t, c)
		p.a.mark(0)
		for range 100 {
			ask(t, c)
			// Else it would do for a flow of WireGuard that the other node has begun in clear.
			p.a.must(p.a.k.ForgetDatagrams(p.a.names.Port4))
			p.a.must(p.a.k.ForgetDatagrams(p.a.names.Port6))
		}
		if mark := p.a.device().FirewallMark; mark != 0 {
			t.Errorf("the protocol's packets have the mark %#x: nothing was tried", mark)
		}
	})
}

// TestConnectionsOutliveTheSwitch: packets each millisecond, both ways, while hosts'
// encryption goes on and off: none is lost for good, and none comes twice.
func TestConnectionsOutliveTheSwitch(t *testing.T) {
	amongHosts(t, func(t *testing.T, p pair) {
		p.a.setHosts(false)
		p.b.setHosts(false)
		p.meet()
		p.talk()
		hosts := p
		hosts.a, hosts.b = p.a.asHost(), p.b.asHost()
		stop := hosts.flow(time.Millisecond)
		for range 2 {
			for _, on := range []bool{true, false} {
				for _, s := range []*node{p.a, p.b} {
					s.setHosts(on)
				}
				p.meet()
				p.a.led(p.b, on)
				p.b.led(p.a, on)
			}
		}
		sent, lost := stop()
		t.Logf("%d of %d packets lost in 4 changes", lost, sent)
		if lost > 40 || sent < 100 {
			t.Errorf("%d of %d packets lost", lost, sent)
		}
	})
}

// asHost is the node with its own address where the pod's would be.
func (s *node) asHost() *node {
	c := *s
	c.pod = s.end.Address.Addr()
	return &c
}

func (s *node) mark(m int) {
	s.Helper()
	s.control(func(c *wgctrl.Client) error {
		return c.ConfigureDevice(s.iface(), wgtypes.Config{FirewallMark: &m})
	})
}

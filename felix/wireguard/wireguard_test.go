package wireguard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/felix/calc"
	"tortie/felix/hostways"
	"tortie/felix/wireguard"
	"tortie/felix/wireguard/userspace"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/overlay"
	"tortie/internal/polltest"
)

// TestMain is also the process that stands in for the kernel.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == userspace.Argument {
		if err := userspace.Main(os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// node is one with a pod's address, on a segment with another.
type node struct {
	*testing.T
	ns      *kernel.Netns
	k       *kernel.Handle
	keys    *wireguard.Keys
	tunnels *wireguard.Tunnels
	ways    *hostways.Ways
	marks   *hostways.Marks
	names   wireguard.Settings
	v6      bool
	pids    []int
	log     *bytes.Buffer
	name    string
	end     overlay.End
	pod     netip.Addr
}

// pair is two nodes that know each other.
type pair struct{ a, b *node }

// inEachWay runs a test with a process in the kernel's place, and with the kernel's own.
func inEachWay(t *testing.T, test func(*testing.T, pair)) {
	for _, way := range ways() {
		t.Run(way, func(t *testing.T) {
			require(t, way)
			p := pair{newNode(t, "a", 1, way, false), newNode(t, "b", 2, way, false)}
			p.wire("eth0", p.a.end.Address)
			p.meet()
			test(t, p)
		})
	}
}

// ways leave out the process only where the kernel's own is tested: make test-vm has no TUN.
func ways() []string {
	if kerneltest.Has(kerneltest.Wireguard) && !kerneltest.Has(kerneltest.Tun) {
		return []string{"kernel"}
	}
	return []string{"userspace", "kernel"}
}

// require names the features where make test-vm finds them.
func require(t *testing.T, way string) {
	t.Helper()
	if way == "kernel" {
		kerneltest.Require(t, kerneltest.Veth, kerneltest.Wireguard)
	} else {
		kerneltest.Require(t, kerneltest.Veth, kerneltest.Tun)
	}
}

// wire connects a's device of that name and address with b's eth0.
func (p pair) wire(device string, address netip.Prefix) {
	p.a.Helper()
	link, err := p.a.k.CreateVeth(kernel.VethSpec{Host: device, Peer: "eth0", PeerNetns: p.b.ns})
	p.a.must(err)
	p.a.must(p.a.k.SetUp(link.Index))
	other, err := p.b.k.LinkByName("eth0")
	p.a.must(err)
	p.a.must(p.b.k.SetUp(other.Index))
	p.a.must(p.a.k.AddAddress(link.Index, address))
	p.a.must(p.b.k.AddAddress(other.Index, p.b.end.Address))
}

// without is a kernel that has no WireGuard of its own.
type without struct{ *kernel.Handle }

func (without) CreateDevice(name, kind string) (kernel.Link, error) {
	return kernel.Link{}, kernel.NewError("create device", name+" of kind "+kind, syscall.EOPNOTSUPP)
}

func newNode(t *testing.T, name string, n int, way string, v6 bool) *node {
	s := &node{
		T: t, ns: kerneltest.NewNetns(t), name: name, v6: v6, log: &bytes.Buffer{}, pod: netip.MustParseAddr(fmt.Sprintf("10.65.%d.7", n)),
		names: wireguard.Settings{Name4: fmt.Sprintf("wg%d.%s", os.Getpid()%100000, name), Name6: fmt.Sprintf("wg%d.%s6", os.Getpid()%100000, name), Port4: 51820, Port6: 51821},
	}
	s.end.Address = netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", n))
	s.end.Secure.Tunnel = netip.MustParseAddr(fmt.Sprintf("10.65.%d.1", n))
	if v6 {
		s.pod = netip.MustParseAddr(fmt.Sprintf("fd65::%d:7", n))
		s.end.Address = netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", n))
		s.end.Secure.Tunnel = netip.MustParseAddr(fmt.Sprintf("fd65::%d:1", n))
	}
	s.k = kerneltest.Open(t, s.ns)
	lo, err := s.k.LinkByName("lo")
	s.must(err)
	s.must(s.k.AddAddress(lo.Index, netip.PrefixFrom(s.pod, s.pod.BitLen())))
	log := slog.New(slog.NewTextHandler(s.log, nil))
	s.keys = wireguard.OpenKeys(t.TempDir()+"/keys", log)
	start := func(c *exec.Cmd) error {
		if way == "nothing" {
			hideTUN(t, c)
		}
		err := s.ns.Do(c.Start)
		if err == nil {
			s.pids = append(s.pids, c.Process.Pid)
		}
		return err
	}
	var sees wireguard.Kernel = s.k
	if way != "kernel" {
		sees = without{s.k}
	}
	s.ways, s.marks = hostways.New(s.k, log), hostways.NewMarks(log)
	s.tunnels = wireguard.New(wireguard.Config{
		Hosts: s.ways, Ready: s.marks.Know,
		Kernel: sees, Keys: s.keys, Log: log, Wake: func() {}, MTU: func(bool) int { return 1440 },
		Listen: func(port uint16) (err error) {
			if visitErr := s.ns.Visit(func() error { err = wireguard.CanListen(port); return nil }); visitErr != nil {
				return visitErr
			}
			return err
		},
		Open: func() (c wireguard.Control, err error) {
			err = s.ns.Visit(func() error { c, err = wgctrl.New(); return err })
			return c, err
		},
		Userspace: func(name string, mtu int) error {
			if way == "kernel" {
				return errors.New("the kernel is to do it")
			}
			return userspace.Start(name, mtu, start, log)
		},
	})
	s.tunnels.Configure(s.names)
	s.publish()
	t.Cleanup(func() {
		s.tunnels.Forget(v6)
		if l, err := s.k.LinkByName(s.iface()); err == nil {
			_ = s.k.DeleteLink(l.Index) // and with it the process
		}
	})
	return s
}

// iface is the device.
func (s *node) iface() string {
	if s.v6 {
		return s.names.Name6
	}
	return s.names.Name4
}

// publish takes the public key that the node has now.
func (s *node) publish() {
	s.Helper()
	key, err := s.keys.Current(s.v6, time.Now())
	s.must(err)
	s.end.Secure.Key = key.Public()
}

func (s *node) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *node) peer() calc.SecurePeer {
	return calc.SecurePeer{Node: s.name, End: s.end, Allowed: []netip.Prefix{
		netip.PrefixFrom(s.pod, s.pod.BitLen()-6).Masked(), netip.PrefixFrom(s.end.Address.Addr(), s.pod.BitLen()),
	}}
}

// knows makes peers all that a node knows, and its routes lead to them.
func (s *node) knows(peers ...calc.SecurePeer) {
	s.Helper()
	secure := []calc.SecureTunnel{{Here: s.end, Peers: peers}}
	s.tunnels.Set(secure)
	link, up := 0, false
	polltest.Until(s, 10*time.Second, "the device to be up", func() (bool, string) {
		s.must(s.tunnels.Apply(s.Context())) // again where the process of a former one has to end
		link, up = s.tunnels.Link(s.v6)
		return up, ""
	})
	s.marks.Set(s.names.State(secure, []netip.Prefix{netip.PrefixFrom(s.pod, s.pod.BitLen())}))
	s.must(s.ns.Do(func() error { return s.marks.Apply(s.Context()) }))
	for _, p := range peers {
		s.must(s.k.ReplaceRoute(kernel.Route{
			Dst: p.Allowed[0], Table: kernel.TableMain, Protocol: kernel.ProtocolFelix, Type: kernel.RouteUnicast, Scope: kernel.ScopeLink, Link: link,
		}.Normal()))
	}
}

func (p pair) meet() {
	p.a.Helper()
	p.a.knows(p.b.peer())
	p.b.knows(p.a.peer())
}

// socket is one of UDP in the node's namespace.
func (s *node) socket(from netip.Addr) *net.UDPConn { return s.socketAt(netip.AddrPortFrom(from, 7)) }

func (s *node) socketAt(from netip.AddrPort) *net.UDPConn {
	s.Helper()
	var c *net.UDPConn
	s.must(s.ns.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(from))
		return err
	}))
	s.Cleanup(func() { c.Close() })
	return c
}

// flow sends numbered packets both ways until stop, which says how many got lost.
func (p pair) flow(every time.Duration) (stop func() (sent, lost int)) {
	a, b := p.a.socket(p.a.pod), p.b.socket(p.b.pod)
	ctx, cancel := context.WithCancel(p.a.Context())
	var all sync.WaitGroup
	var mu sync.Mutex
	sent, heard := 0, 0
	for _, way := range [][2]*net.UDPConn{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		all.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for ctx.Err() == nil {
				if _, err := from.WriteTo([]byte("x"), to.LocalAddr()); err == nil {
					mu.Lock()
					sent++
					mu.Unlock()
				}
				<-tick.C
			}
		})
		all.Go(func() {
			buf := make([]byte, 10)
			for {
				if _, _, err := to.ReadFrom(buf); err != nil {
					return
				}
				mu.Lock()
				heard++
				mu.Unlock()
			}
		})
	}
	return func() (int, int) {
		cancel()
		late := time.Now().Add(300 * time.Millisecond) // what is on its way arrives
		_ = a.SetReadDeadline(late)
		_ = b.SetReadDeadline(late)
		all.Wait()
		return sent, sent - heard
	}
}

// talk waits until a packet goes to the other node's pod and back.
func (p pair) talk() {
	p.a.Helper()
	a, b := p.a.socketAt(netip.AddrPortFrom(p.a.pod, 9)), p.b.socketAt(netip.AddrPortFrom(p.b.pod, 9))
	defer a.Close()
	defer b.Close()
	polltest.Until(p.a, 10*time.Second, "an answer", func() (bool, string) {
		buf := make([]byte, 10)
		_, _ = a.WriteTo([]byte("ask"), b.LocalAddr())
		_ = b.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, from, err := b.ReadFrom(buf)
		if err != nil {
			return false, "b: " + err.Error()
		}
		_, _ = b.WriteTo([]byte("answer"), from)
		_ = a.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, _, err = a.ReadFrom(buf); err != nil {
			return false, "a: " + err.Error()
		}
		return true, ""
	})
}

func (s *node) device() *wgtypes.Device {
	s.Helper()
	var d *wgtypes.Device
	s.control(func(c *wgctrl.Client) (err error) { d, err = c.Device(s.iface()); return err })
	return d
}

func (s *node) control(do func(*wgctrl.Client) error) {
	s.Helper()
	s.must(s.ns.Visit(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer c.Close()
		return do(c)
	}))
}

func (s *node) link() kernel.Link {
	s.Helper()
	l, err := s.k.LinkByName(s.iface())
	s.must(err)
	return l
}

// TestPeerSendsOnlyWhatIsItsOwn: pods of two nodes talk, and what a node sends under
// another's address is dropped.
func TestPeerSendsOnlyWhatIsItsOwn(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		forged := netip.MustParseAddr("10.65.9.9")
		lo, err := p.a.k.LinkByName("lo")
		p.a.must(err)
		p.a.must(p.a.k.AddAddress(lo.Index, netip.PrefixFrom(forged, 32)))
		from, honest, to := p.a.socket(forged), p.a.socket(p.a.pod), p.b.socket(p.b.pod)
		for range 20 {
			_, err := from.WriteTo([]byte("forged"), to.LocalAddr())
			p.a.must(err)
		}
		_, err = honest.WriteTo([]byte("honest"), to.LocalAddr())
		p.a.must(err)
		_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 10)
		n, _, err := to.ReadFrom(buf)
		if p.a.must(err); string(buf[:n]) != "honest" {
			t.Errorf("%q came through first", buf[:n])
		}
	})
}

// TestDriftIsMended: the device is what it was, and packets flow, after each tampering,
// and nothing is done when nothing was changed.
func TestDriftIsMended(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		a := p.a
		set := func(cfg wgtypes.Config) func() {
			return func() { a.control(func(c *wgctrl.Client) error { return c.ConfigureDevice(a.names.Name4, cfg) }) }
		}
		other, err := wgtypes.GeneratePrivateKey()
		a.must(err)
		port := 51999
		peer := wgtypes.Key(p.b.end.Secure.Key)
		network := net.IPNet{IP: net.IP{10, 65, 77, 0}, Mask: net.CIDRMask(26, 32)}
		for _, tt := range []struct {
			name   string
			tamper func()
		}{
			{"the device is deleted", func() { a.must(a.k.DeleteLink(a.link().Index)) }},
			{"the device is off", func() { a.must(a.k.SetDown(a.link().Index)) }},
			{"another MTU", func() { a.must(a.k.SetMTU(a.link().Index, 1300)) }},
			{"no address", func() { a.must(a.k.DeleteAddress(a.link().Index, netip.PrefixFrom(a.end.Secure.Tunnel, 32))) }},
			{"another address", func() { a.must(a.k.AddAddress(a.link().Index, netip.MustParsePrefix("198.51.100.1/32"))) }},
			{"no forwarding", func() { a.must(a.k.SetSysctl("ipv4/conf/"+a.names.Name4+"/forwarding", "0")) }},
			{"a strict reverse path", func() { a.must(a.k.SetSysctl("ipv4/conf/"+a.names.Name4+"/rp_filter", "1")) }},
			{"another key", set(wgtypes.Config{PrivateKey: &other})},
			{"another port", set(wgtypes.Config{ListenPort: &port})},
			{"no peer", set(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: peer, Remove: true}}})},
			{"a stranger as a peer", set(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: other.PublicKey(), AllowedIPs: []net.IPNet{network}}}})},
			{"a peer with another's addresses", set(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: peer, UpdateOnly: true, AllowedIPs: []net.IPNet{network}}}})},
			{"a peer without its addresses", set(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: peer, UpdateOnly: true, ReplaceAllowedIPs: true}}})},
			{"a peer at no address", set(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: peer, UpdateOnly: true, Endpoint: &net.UDPAddr{IP: net.IP{198, 51, 100, 7}, Port: 1}}}})},
		} {
			t.Run(tt.name, func(t *testing.T) {
				tt.tamper()
				a.log.Reset()
				a.knows(p.b.peer()) // which also has routes follow a device made anew
				if tt.name != "a peer at no address" && !strings.Contains(a.log.String(), "WireGuard") {
					t.Errorf("nothing was done:\n%s", a.log)
				}
				p.talk()
				a.must(a.tunnels.Apply(t.Context())) // the greeting is over
				a.log.Reset()
				a.must(a.tunnels.Apply(t.Context()))
				if a.log.Len() > 0 {
					t.Errorf("something was done though all was right:\n%s", a.log)
				}
				if d := a.device(); d.ListenPort != 51820 || len(d.Peers) != 1 || len(d.Peers[0].AllowedIPs) != 2 || d.PublicKey != wgtypes.Key(a.end.Secure.Key) {
					t.Errorf("the device is %+v", d)
				}
			})
		}
		t.Run("its process is killed", func(t *testing.T) {
			if len(a.pids) == 0 {
				return // the kernel has no process
			}
			process, err := os.FindProcess(a.pids[len(a.pids)-1])
			a.must(err)
			a.must(process.Kill())
			polltest.Until(t, 5*time.Second, "the device to go with it", func() (bool, string) {
				_, err := a.k.LinkByName(a.names.Name4)
				return errors.Is(err, kernel.ErrNotFound), fmt.Sprint(err)
			})
			a.knows(p.b.peer())
			p.talk()
		})
	})
}

// TestKeyIsChangedUnderTraffic, as two felixes do it: what is lost is what was on its way
// between the moments at which the two nodes have the new key.
func TestKeyIsChangedUnderTraffic(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		stop := p.flow(2 * time.Millisecond)
		const changes = 3
		for range changes {
			// The protocol takes no two handshakes of one peer within 20 ms, of the kernel's 50.
			begun := time.Now()
			polltest.Until(t, time.Second, "a tenth of a second", func() (bool, string) { return time.Since(begun) > 100*time.Millisecond, "" })
			next, err := p.a.keys.Next(false, time.Now())
			p.a.must(err)
			p.a.end.Secure.Key = next.Public()
			promoted, err := p.a.keys.Promote(false, next.Public(), "")
			if p.a.must(err); !promoted {
				t.Fatal("the next key is not the current one")
			}
			p.a.must(p.a.tunnels.Rekeyed(t.Context()))
			p.b.knows(p.a.peer()) // it has heard of it
			p.haveSession()
		}
		sent, lost := stop()
		t.Logf("%d of %d packets lost in %d changes", lost, sent, changes)
		if lost > sent/10 || lost > changes*100 {
			t.Errorf("%d of %d packets lost in %d changes of the key", lost, sent, changes)
		}
		if d := p.b.device(); len(d.Peers) != 1 {
			t.Errorf("the former key is still a peer: %+v", d.Peers)
		}
	})
}

// haveSession waits until both have a session under the keys they have now, and applies
// as Tunnels ask for by Wake when a peer is late.
func (p pair) haveSession() {
	p.a.Helper()
	polltest.Until(p.a, 10*time.Second, "a session", func() (bool, string) {
		for _, s := range []*node{p.a, p.b} {
			s.must(s.tunnels.Apply(s.Context()))
			if d := s.device(); len(d.Peers) != 1 || d.Peers[0].LastHandshakeTime.IsZero() {
				return false, s.name
			}
		}
		return true, ""
	})
}

// TestNodeMovesToAnotherAddress: the peer follows its Node.
func TestNodeMovesToAnotherAddress(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		eth, err := p.b.k.LinkByName("eth0")
		p.b.must(err)
		moved := netip.MustParsePrefix("192.0.2.77/24")
		p.b.must(p.b.k.AddAddress(eth.Index, moved))
		p.b.must(p.b.k.DeleteAddress(eth.Index, p.b.end.Address))
		p.b.must(p.b.k.AddAddress(eth.Index, moved)) // as a secondary one it went with the first
		p.b.end.Address = moved
		p.meet()
		p.talk()
	})
}

// TestWhatCanNotBeIsOneLine says what is wrong and what to do.
func TestWhatCanNotBeIsOneLine(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		a := p.a
		a.tunnels.Set(nil)
		l := a.link()
		a.must(a.k.DeleteLink(l.Index))
		var c *net.UDPConn
		a.must(a.ns.Do(func() (err error) { c, err = net.ListenUDP("udp", &net.UDPAddr{Port: 51820}); return err }))
		defer c.Close()
		a.tunnels.Set([]calc.SecureTunnel{{Here: a.end, Peers: []calc.SecurePeer{p.b.peer()}}})
		polltest.Until(t, 10*time.Second, "an error", func() (bool, string) {
			err := a.tunnels.Apply(t.Context()) // a process is switched on some time later
			ok := err != nil && strings.Contains(err.Error(), "UDP port 51820 is taken by another program") && strings.Contains(err.Error(), "wireguardListeningPort") && !strings.Contains(err.Error(), "\n")
			return ok, fmt.Sprint(err)
		})
		c.Close()
		a.knows(p.b.peer())
		p.talk()
	})
}

// TestSettingsThatCanNotBeLeaveTheTunnelAsItIs: a port that another program has, and a name
// that another device has. They count as soon as they can.
func TestSettingsThatCanNotBeLeaveTheTunnelAsItIs(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		a := p.a
		says := func(words ...string) {
			t.Helper()
			err := a.tunnels.Apply(t.Context())
			for _, want := range words {
				if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %v, want one line with %q", err, want)
				}
			}
			p.talk()
			if d := a.device(); d.ListenPort != 51820 {
				t.Errorf("the port is %d", d.ListenPort)
			}
		}
		var c *net.UDPConn
		a.must(a.ns.Do(func() (err error) { c, err = net.ListenUDP("udp", &net.UDPAddr{Port: 7777}); return err }))
		defer c.Close()
		taken := a.names
		taken.Port4 = 7777
		a.tunnels.Configure(taken)
		says("UDP port 7777 is taken by another program", "set wireguardListeningPort", "meanwhile it is 51820")
		strange := a.names
		strange.Name4 = "eth0"
		a.tunnels.Configure(strange)
		says(`wireguardInterfaceName "eth0" is the name of a device that is not felix'`, "set another in the FelixConfiguration", "meanwhile it is "+a.names.Name4)
		if _, err := a.k.LinkByName("eth0"); err != nil {
			t.Error(err)
		}
		c.Close()
		a.tunnels.Configure(taken)
		a.must(a.tunnels.Apply(t.Context()))
		if d := a.device(); d.ListenPort != 7777 {
			t.Errorf("the port is %d", d.ListenPort)
		}
	})
}

// TestPortOfTheOtherVersionsDeviceIsSaid by the device's name, and is had when that one
// has another.
func TestPortOfTheOtherVersionsDeviceIsSaid(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		a := p.a
		here := calc.SecureTunnel{Here: a.end}
		other := calc.SecureTunnel{Here: a.end}
		other.Here.Address, other.Here.Secure.Tunnel = netip.MustParsePrefix("2001:db8::1/64"), netip.MustParseAddr("fd65::1:1")
		t.Cleanup(func() {
			if l, err := a.k.LinkByName(a.names.Name6); err == nil {
				_ = a.k.DeleteLink(l.Index)
			}
		})
		a.tunnels.Set([]calc.SecureTunnel{here, other})
		polltest.Until(t, 10*time.Second, "both devices", func() (bool, string) {
			err := a.tunnels.Apply(t.Context())
			_, up := a.tunnels.Link(true)
			return err == nil && up, fmt.Sprint(err)
		})
		turned := a.names
		turned.Port4 = 51821
		a.tunnels.Configure(turned)
		want := "UDP port 51821 is that of felix' own device " + a.names.Name6 + ": give that one another first"
		polltest.Until(t, 10*time.Second, "an error", func() (bool, string) {
			err := a.tunnels.Apply(t.Context()) // a process is switched on some time later
			return err != nil && strings.Contains(err.Error(), want) && strings.Contains(err.Error(), "meanwhile it is 51820"), fmt.Sprint(err)
		})
		turned.Port6 = 51822
		a.tunnels.Configure(turned)
		polltest.Until(t, 10*time.Second, "the ports", func() (bool, string) {
			err := a.tunnels.Apply(t.Context())
			return err == nil && a.device().ListenPort == 51821, fmt.Sprint(err)
		})
	})
}

// TestNothingIsLeft when nothing asks for a device any more: neither device nor process.
func TestNothingIsLeft(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		fresh := wireguard.New(wireguard.Config{Kernel: p.a.k, Keys: p.a.keys, Log: slog.New(slog.DiscardHandler), Wake: func() {}})
		fresh.Configure(p.a.names)
		p.a.must(fresh.Apply(t.Context()))
		if _, err := p.a.k.LinkByName(p.a.names.Name4); !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("the device is still there: %v", err)
		}
		for _, pid := range p.a.pids {
			polltest.Until(t, 10*time.Second, "the process to end", func() (bool, string) {
				_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
				return errors.Is(err, os.ErrNotExist), "it is there"
			})
		}
	})
}

// TestIPv6: pods of two nodes talk, what a node sends under another's address is dropped,
// the device is mended, and its address is the source of nothing by itself.
func TestIPv6(t *testing.T) {
	for _, way := range ways() {
		t.Run(way, func(t *testing.T) {
			require(t, way)
			p := pair{newNode(t, "a", 1, way, true), newNode(t, "b", 2, way, true)}
			p.wire("eth0", p.a.end.Address)
			p.meet()
			p.talk()
			p.a.must(p.a.k.DeleteLink(p.a.link().Index))
			p.a.knows(p.b.peer())
			p.talk()
			p.a.must(p.a.tunnels.Apply(t.Context())) // the greeting is over
			p.a.log.Reset()
			p.a.must(p.a.tunnels.Apply(t.Context()))
			if p.a.log.Len() > 0 {
				t.Errorf("something was done though all was right:\n%s", p.a.log)
			}
			have, err := p.a.k.Addresses(p.a.link().Index)
			p.a.must(err)
			if !slices.ContainsFunc(have, func(a kernel.Address) bool { return a.Prefix.Addr() == p.a.end.Secure.Tunnel && a.Deprecated }) {
				t.Errorf("the device has the addresses %+v, want %s, deprecated", have, p.a.end.Secure.Tunnel)
			}
			if d := p.a.device(); d.ListenPort != 51821 || len(d.Peers) != 1 || len(d.Peers[0].AllowedIPs) != 2 {
				t.Errorf("the device is %+v", d)
			}
		})
	}
}

// TestNodeJoinsUnderTraffic: the others lose nothing, and the new one is reached.
func TestNodeJoinsUnderTraffic(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		way := strings.TrimPrefix(t.Name(), "TestNodeJoinsUnderTraffic/")
		joins := pair{p.a, newNode(t, "c", 3, way, false)}
		c := joins.b
		c.end.Address = netip.MustParsePrefix("198.51.100.3/24")
		uplink := netip.MustParsePrefix("198.51.100.1/24")
		joins.wire("eth1", uplink)
		stop := p.flow(2 * time.Millisecond)
		p.a.knows(p.b.peer(), c.peer())
		seen := p.a.peer()
		seen.End.Address = uplink
		c.knows(seen)
		joins.talk()
		if sent, lost := stop(); lost > 0 || sent == 0 {
			t.Errorf("%d of %d packets of the others lost", lost, sent)
		}
		if d := p.a.device(); len(d.Peers) != 2 {
			t.Errorf("the device has %d peers: %+v", len(d.Peers), d)
		}
	})
}

// TestSettingsAreFollowed by devices that are in use: port, keep-alive, name.
func TestSettingsAreFollowed(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		former := p.a.iface()
		for _, tt := range []struct {
			name   string
			change func(*wireguard.Settings)
		}{
			{"port", func(s *wireguard.Settings) { s.Port4 = 51999 }},
			{"keep-alive", func(s *wireguard.Settings) { s.KeepAlive = 7 * time.Second }},
			{"name", func(s *wireguard.Settings) { s.Name4 = s.Name4 + "x" }},
		} {
			t.Run(tt.name, func(t *testing.T) {
				for _, s := range []*node{p.a, p.b} {
					tt.change(&s.names)
					s.tunnels.Configure(s.names)
				}
				p.meet()
				p.talk()
				p.a.must(p.a.tunnels.Apply(t.Context())) // the greeting is over
				d := p.a.device()
				if d.ListenPort != int(p.a.names.Port4) || len(d.Peers) != 1 || d.Peers[0].PersistentKeepaliveInterval != p.a.names.KeepAlive {
					t.Errorf("the device is %+v, want it as %+v", d, p.a.names)
				}
			})
		}
		if _, err := p.a.k.LinkByName(former); !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("the device is there under its former name, too: %v", err)
		}
	})
}

// TestPeersThatLeaveOneByOneStillSend: WireGuard is switched off in one Node after the
// other, this one's last, and what comes in the old sessions is still received.
func TestPeersThatLeaveOneByOneStillSend(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		p.a.knows()
		p.a.tunnels.Set(nil)
		p.a.must(p.a.tunnels.Apply(t.Context()))
		if d := p.a.device(); len(d.Peers) != 1 || len(d.Peers[0].AllowedIPs) != 2 || d.Peers[0].LastHandshakeTime.IsZero() {
			t.Errorf("the device is %+v, want its former peer with the session", d)
		}
		p.talk()
	})
}

// TestHandshakeThatFailedIsStartedOver long before the protocol would: here all of the
// first ones are lost, for there is no cable yet.
func TestHandshakeThatFailedIsStartedOver(t *testing.T) {
	for _, way := range ways() {
		t.Run(way, func(t *testing.T) {
			require(t, way)
			p := pair{newNode(t, "a", 1, way, false), newNode(t, "b", 2, way, false)}
			p.meet()
			p.wire("eth0", p.a.end.Address)
			polltest.Until(t, 10*time.Second, "a session", func() (bool, string) {
				for _, s := range []*node{p.a, p.b} {
					s.must(s.tunnels.Apply(t.Context()))
				}
				for _, s := range []*node{p.a, p.b} {
					if d := s.device(); len(d.Peers) != 1 || d.Peers[0].LastHandshakeTime.IsZero() {
						return false, s.name
					}
				}
				return true, ""
			})
			if logs := p.a.log.String() + p.b.log.String(); strings.Count(logs, "started over") == 0 {
				t.Errorf("it was the protocol's own doing:\n%s", logs)
			}
			for _, s := range []*node{p.a, p.b} {
				s.must(s.tunnels.Apply(t.Context()))
				if held := s.tunnels.Unready(); len(held) > 0 {
					t.Errorf("with a session %v is still held", held)
				}
			}
			p.talk()
		})
	}
}

// hideTUN has a command start where /dev/net/tun is missing.
func hideTUN(t *testing.T, c *exec.Cmd) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	c.Env = []string{"PATH=" + os.Getenv("PATH")}
	c.Path, c.Args = path, append([]string{path, "-m", "sh", "-c", `mount -t tmpfs none /dev/net; exec "$0" "$@"`, self}, c.Args[1:]...)
}

// TestKernelWithoutWireGuardAndTUN is told of in one line, which says what to load.
func TestKernelWithoutWireGuardAndTUN(t *testing.T) {
	kerneltest.Require(t, kerneltest.Tun)
	s := newNode(t, "a", 1, "nothing", false)
	s.tunnels.Set([]calc.SecureTunnel{{Here: s.end}})
	err := s.tunnels.Apply(t.Context())
	if err == nil {
		t.Fatal("it is said to work")
	}
	for _, want := range []string{"WireGuard device " + s.iface(), "the kernel has no WireGuard", "modprobe wireguard", "/dev/net/tun", "modprobe tun"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than a line", err)
	}
	if _, up := s.tunnels.Link(false); up {
		t.Error("packets are to go through a device that is not there")
	}
}

// TestSwitchedOnAgainTheSessionsAreStillThere: a peer that was left when the device was
// desired no more stays when it is desired again, though its key is not seen yet.
func TestSwitchedOnAgainTheSessionsAreStillThere(t *testing.T) {
	inEachWay(t, func(t *testing.T, p pair) {
		p.talk()
		p.a.tunnels.Set(nil)
		p.a.must(p.a.tunnels.Apply(t.Context()))
		p.a.knows()
		d := p.a.device()
		if len(d.Peers) != 1 || len(d.Peers[0].AllowedIPs) != 2 || d.Peers[0].LastHandshakeTime.IsZero() {
			t.Errorf("the device is %+v, want its former peer with the session", d)
		}
		p.meet()
		p.talk()
	})
}

// TestDatagramsWithAnyChecksumArrive: among 65,536 datagrams that differ in two bytes each
// checksum occurs, also the one that is sent as all ones. The process computes them.
func TestDatagramsWithAnyChecksumArrive(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.Tun)
	p := pair{newNode(t, "a", 1, "userspace", true), newNode(t, "b", 2, "userspace", true)}
	p.wire("eth0", p.a.end.Address)
	p.meet()
	p.talk()
	from, to := p.a.socket(p.a.pod), p.b.socket(p.b.pod)
	payload, buf := make([]byte, 2), make([]byte, 10)
	for i := range 1 << 16 {
		payload[0], payload[1] = byte(i>>8), byte(i)
		if _, err := from.WriteTo(payload, to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_ = to.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, _, err := to.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], payload) {
			t.Fatalf("datagram %#x: got %x, %v", i, buf[:n], err)
		}
	}
}

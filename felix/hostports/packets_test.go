package hostports

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kernel/kerneltest/podworld"
)

// patience is how long an answer may take on a busy machine.
const patience = 5 * time.Second

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// both leads a port of the node to pod A, in both families.
func both(protocol string, hostPort, port uint16) []Mapping {
	return []Mapping{
		{Protocol: protocol, HostPort: hostPort, Pod: addr(podworld.PodA), Port: port},
		{Protocol: protocol, HostPort: hostPort, Pod: addr(podworld.PodA6), Port: port},
	}
}

// world has pod A's device take packets from the node's loopback, as podnet does.
func world(t *testing.T) podworld.World {
	t.Helper()
	w := podworld.New(t)
	node := kerneltest.Open(t, w.Node)
	link, err := node.LinkByName("cali0")
	podworld.Check(t, err)
	podworld.Check(t, node.Configure(link, []kernel.Setting{{Name: "ipv4/conf/cali0/route_localnet", Value: "1"}}))
	podworld.Check(t, node.SetUp(1))
	return w
}

func inSync(p *Ports) *Ports {
	p.InSync()
	return p
}

// TestNothingIsTakenAwayBeforeAllIsKnown: an earlier process' ports stay until then.
func TestNothingIsTakenAwayBeforeAllIsKnown(t *testing.T) {
	w := world(t)
	echo(t, w.PodA, "tcp", podworld.PodA+":80")
	p := inSync(New(Config{}))
	p.Set("web", both("tcp", 8080, 80))
	w.InNode(t, p.Apply)

	next := New(Config{})
	w.InNode(t, next.Apply)
	ask(t, w.Outside, "tcp", "", podworld.NodeOut+":8080")
	next.InSync()
	w.InNode(t, next.Apply)
	wantRefused(t, w.Outside, podworld.NodeOut+":8080")
}

// echo answers with the address of who asks, until stop is called or the test is over.
func echo(t *testing.T, ns *kernel.Netns, network, at string) (stop func()) {
	t.Helper()
	podworld.Check(t, ns.Do(func() error {
		if strings.HasPrefix(network, "udp") {
			c, err := net.ListenPacket(network, at)
			if err != nil {
				return err
			}
			stop = func() { _ = c.Close() }
			go func() {
				buf := make([]byte, 16)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo([]byte(from.String()), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, at)
		if err != nil {
			return err
		}
		stop = func() { _ = l.Close() }
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(c.RemoteAddr().String()))
				_ = c.Close()
			}
		}()
		return nil
	}))
	t.Cleanup(stop)
	return stop
}

// dial connects out of a namespace.
func dial(ns *kernel.Netns, network, source, to string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: patience}
	if source != "" {
		ip := net.ParseIP(source)
		d.LocalAddr = &net.TCPAddr{IP: ip}
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{IP: ip}
		}
	}
	err = ns.Do(func() (err error) {
		c, err = d.Dial(network, to)
		return err
	})
	return c, err
}

// ask is the address that the answering side saw.
func ask(t *testing.T, ns *kernel.Netns, network, source, to string) string {
	t.Helper()
	c, err := dial(ns, network, source, to)
	podworld.Check(t, err)
	defer c.Close()
	return answer(t, c)
}

func answer(t *testing.T, c net.Conn) string {
	t.Helper()
	podworld.Check(t, c.SetDeadline(time.Now().Add(patience)))
	if c.LocalAddr().Network() == "udp" {
		_, err := c.Write([]byte("?"))
		podworld.Check(t, err)
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	podworld.Check(t, err)
	seen, err := netip.ParseAddrPort(string(buf[:n]))
	podworld.Check(t, err)
	return seen.Addr().Unmap().String()
}

func TestHostPortLeadsToThePodFromEverywhere(t *testing.T) {
	w := world(t)
	p := inSync(New(Config{}))
	p.Set("web", append(both("tcp", 8080, 80), both("udp", 5300, 53)...))
	w.InNode(t, p.Apply)
	for network, port := range map[string]string{"tcp": "80", "udp": "53"} {
		echo(t, w.PodA, network, net.JoinHostPort(podworld.PodA, port))
		echo(t, w.PodA, network, net.JoinHostPort(podworld.PodA6, port))
	}
	for network, port := range map[string]string{"tcp": "8080", "udp": "5300"} {
		for _, c := range []struct {
			name         string
			from         *kernel.Netns
			source, dest string
			seenAs       string
		}{
			{"outside", w.Outside, podworld.Outside, podworld.NodeOut, podworld.Outside},
			{"another pod of the node", w.PodB, podworld.PodB, podworld.NodeOut, podworld.PodB},
			{"the pod itself", w.PodA, podworld.PodA, podworld.NodeOut, podworld.NodeOut},
			{"the node", w.Node, "", podworld.NodeOut, podworld.NodeOut},
			{"the node's loopback", w.Node, "", "127.0.0.1", podworld.NodeOut},
			{"IPv6 outside", w.Outside, podworld.Outside6, podworld.NodeOut6, podworld.Outside6},
			{"IPv6 pod of the node", w.PodB, podworld.PodB6, podworld.NodeOut6, podworld.PodB6},
			{"IPv6 pod itself", w.PodA, podworld.PodA6, podworld.NodeOut6, podworld.NodeOut6},
		} {
			t.Run(network+" from "+c.name, func(t *testing.T) {
				if got := ask(t, c.from, network, c.source, net.JoinHostPort(c.dest, port)); got != c.seenAs {
					t.Errorf("the pod sees %s, want %s", got, c.seenAs)
				}
			})
		}
	}
}

func TestHostIPBindsThePortToOneAddress(t *testing.T) {
	w := world(t)
	echo(t, w.PodA, "tcp", podworld.PodA+":80")
	p := inSync(New(Config{}))
	p.Set("web", []Mapping{{Protocol: "tcp", HostIP: addr("127.0.0.1"), HostPort: 8080, Pod: addr(podworld.PodA), Port: 80}})
	w.InNode(t, p.Apply)
	ask(t, w.Node, "tcp", "", "127.0.0.1:8080")
	wantRefused(t, w.Outside, podworld.NodeOut+":8080")
}

func wantRefused(t *testing.T, ns *kernel.Netns, to string) {
	t.Helper()
	c, err := dial(ns, "tcp", "", to)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connecting to %s: %v, want it to be refused", to, err)
	}
}

func TestRemovedHostPortIsTheNodesAgain(t *testing.T) {
	w := world(t)
	echo(t, w.PodA, "tcp", podworld.PodA+":80")
	p := inSync(New(Config{}))
	p.Set("web", both("tcp", 8080, 80))
	p.Set("other", both("tcp", 8081, 80))
	w.InNode(t, p.Apply)
	ask(t, w.Outside, "tcp", "", podworld.NodeOut+":8080")
	p.Remove("web")
	w.InNode(t, p.Apply)
	wantRefused(t, w.Outside, podworld.NodeOut+":8080")
	ask(t, w.Outside, "tcp", "", podworld.NodeOut+":8081")
	p.Remove("other")
	w.InNode(t, p.Apply)
	w.WantNoTable(t, ruleset.Family, ruleset.Table)
}

// TestDatagramsGoToTheNewPod: a client that asks on and on from one port is not held
// by what the kernel remembers of the pod before.
func TestDatagramsGoToTheNewPod(t *testing.T) {
	w := world(t)
	node := kerneltest.Open(t, w.Node)
	p := inSync(New(Config{Forget: node.ForgetDatagrams}))
	p.Set("old", []Mapping{{Protocol: "udp", HostPort: 5300, Pod: addr(podworld.PodB), Port: 53}})
	w.InNode(t, p.Apply)
	client, err := dial(w.Outside, "udp", podworld.Outside, podworld.NodeOut+":5300")
	podworld.Check(t, err)
	defer client.Close()
	stop := echo(t, w.PodB, "udp", podworld.PodB+":53")
	answer(t, client)
	stop()

	p.Remove("old")
	p.Set("new", both("udp", 5300, 5353))
	w.InNode(t, p.Apply)
	echo(t, w.PodA, "udp", podworld.PodA+":5353")
	answer(t, client) // nobody but the new pod answers
}

// TestNoPodReachesTheNodesLoopback though its device takes packets from there.
func TestNoPodReachesTheNodesLoopback(t *testing.T) {
	w := world(t)
	pod := kerneltest.Open(t, w.PodA)
	eth0, err := pod.LinkByName("eth0")
	podworld.Check(t, err)
	podworld.Check(t, pod.DeleteAddress(1, netip.MustParsePrefix("127.0.0.1/8"))) // its own
	podworld.Check(t, pod.Configure(eth0, []kernel.Setting{{Name: "ipv4/conf/eth0/route_localnet", Value: "1"}}))
	podworld.Check(t, pod.AddRoute(kernel.Route{
		Dst: netip.MustParsePrefix("127.0.0.1/32"), Protocol: kernel.ProtocolBoot, Link: eth0.Index,
		Gateway: addr("169.254.1.1"), OnLink: true,
	}))
	p := inSync(New(Config{}))
	heard := make(chan string, 8)
	for name, at := range map[string]string{"loopback": "127.0.0.1:999", "node": podworld.NodeOut + ":998"} {
		var c net.PacketConn
		podworld.Check(t, w.Node.Do(func() (err error) {
			c, err = net.ListenPacket("udp", at)
			return err
		}))
		defer c.Close()
		go func() {
			for {
				if _, _, err := c.ReadFrom(make([]byte, 8)); err != nil {
					return
				}
				heard <- name
			}
		}()
	}
	send := func(to string) {
		c, err := dial(w.PodA, "udp", podworld.PodA, to)
		podworld.Check(t, err)
		defer c.Close()
		_, err = c.Write([]byte("x"))
		podworld.Check(t, err)
	}
	send("127.0.0.1:999")
	if got := <-heard; got != "loopback" {
		t.Fatalf("without the rules %s was reached", got)
	}
	p.Set("web", both("tcp", 8080, 80))
	w.InNode(t, p.Apply)
	send("127.0.0.1:999")
	send(podworld.NodeOut + ":998") // by the same way, after it
	if got := <-heard; got != "node" {
		t.Errorf("a pod reached the node's %s", got)
	}
}

func TestRestartAndResyncOfWhatIsRightWriteNothing(t *testing.T) {
	w := world(t)
	ports := append(both("tcp", 8080, 80), both("udp", 65535, 1)...)
	ports = append(ports, Mapping{Protocol: "sctp", HostIP: addr(podworld.NodeOut), HostPort: 22, Pod: addr(podworld.PodA), Port: 22})
	var nft *podworld.Counting
	for range 2 {
		w.InNode(t, func(ctx context.Context) error {
			inner, err := knftables.New(ruleset.Family, ruleset.Table)
			if err != nil {
				return err
			}
			if nft == nil {
				nft = &podworld.Counting{Interface: inner}
			}
			p := inSync(New(Config{NFT: nft}))
			p.Set("web", ports)
			if err := p.Apply(ctx); err != nil {
				return err
			}
			p.QueueResync()
			return p.Apply(ctx)
		})
	}
	if nft.Runs != 1 {
		t.Errorf("%d transactions, want the first alone", nft.Runs)
	}
}

func TestDamageIsNamedAndMended(t *testing.T) {
	w := world(t)
	echo(t, w.PodA, "tcp", podworld.PodA+":80")
	var log bytes.Buffer
	p := inSync(New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))}))
	p.Set("web", both("tcp", 8080, 80))
	w.InNode(t, p.Apply)
	for name, c := range map[string]struct {
		damage func(tx *knftables.Transaction)
		says   string
	}{
		"table deleted": {func(tx *knftables.Transaction) { tx.Delete(&knftables.Table{}) }, "chain host-ports"},
		"port taken out": {func(tx *knftables.Transaction) {
			tx.Delete(&knftables.Element{Map: "host-ports-ipv4", Key: []string{"tcp", "8080"}})
		}, "elements of map host-ports-ipv4"},
		"rules flushed": {func(tx *knftables.Transaction) { tx.Flush(&knftables.Chain{Name: "host-ports"}) }, "rules of chain host-ports"},
	} {
		t.Run(name, func(t *testing.T) {
			w.InTable(t, ruleset.Family, ruleset.Table, c.damage)
			w.InNode(t, func(ctx context.Context) error {
				differences, err := p.Check(ctx)
				if !strings.Contains(strings.Join(differences, "\n"), c.says) {
					t.Errorf("differences %q don't say %q", differences, c.says)
				}
				return err
			})
			wantRefused(t, w.Outside, podworld.NodeOut+":8080")
			log.Reset()
			p.QueueResync()
			w.InNode(t, p.Apply)
			ask(t, w.Outside, "tcp", "", podworld.NodeOut+":8080")
			if !strings.Contains(log.String(), "host ports mended") || !strings.Contains(log.String(), c.says) {
				t.Errorf("log %q", log.String())
			}
		})
	}
}

// TestManyPods: a port for each of a node's pods, one after another.
func TestManyPods(t *testing.T) {
	w := world(t)
	p := inSync(New(Config{}))
	for n := range 100 {
		p.Set("pod"+strconv.Itoa(n), both("tcp", uint16(10000+n), 80))
		w.InNode(t, p.Apply)
	}
	echo(t, w.PodA, "tcp", podworld.PodA+":80")
	ask(t, w.Outside, "tcp", "", podworld.NodeOut+":10099")
}

package floating

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
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

const (
	patience  = 5 * time.Second
	ext, ext6 = "10.65.9.9", "fd00:65::99"
)

func addresses(pairs ...string) map[netip.Addr]netip.Addr {
	out := map[netip.Addr]netip.Addr{}
	for i := 0; i < len(pairs); i += 2 {
		out[netip.MustParseAddr(pairs[i])] = netip.MustParseAddr(pairs[i+1])
	}
	return out
}

// world is a node whose pod A, or B, has the floating addresses, with routes to them as
// the dataplane makes them.
type world struct {
	podworld.World
	t    *testing.T
	node *kernel.Handle
	addr *Addresses
	log  bytes.Buffer
}

func newWorld(t *testing.T) *world {
	w := &world{World: podworld.New(t), t: t}
	w.node = kerneltest.Open(t, w.Node)
	w.addr = New(Config{Forget: w.node.ForgetConnections, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
	return w
}

// lead gives the addresses to the pod behind a device.
func (w *world) lead(device string, pods map[netip.Addr]netip.Addr) {
	w.t.Helper()
	link, err := w.node.LinkByName(device)
	podworld.Check(w.t, err)
	for external := range pods {
		podworld.Check(w.t, w.node.ReplaceRoute(kernel.Route{
			Dst: netip.PrefixFrom(external, external.BitLen()), Protocol: kernel.ProtocolFelix, Link: link.Index,
		}))
	}
	w.addr.Set(pods)
	w.InNode(w.t, w.addr.Apply)
}

// serve answers on TCP and UDP, at port 80 of an address, with a name and who asks.
func serve(t *testing.T, ns *kernel.Netns, at, name string) {
	t.Helper()
	podworld.Check(t, ns.Do(func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(at, "80"))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go answer(c, name)
			}
		}()
		u, err := net.ListenPacket("udp", net.JoinHostPort(at, "80"))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = u.Close() })
		go func() {
			for {
				_, from, err := u.ReadFrom(make([]byte, 16))
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(name+" "+hostOf(from)), from)
			}
		}()
		return nil
	}))
}

// answer answers each byte.
func answer(c net.Conn, name string) {
	defer c.Close()
	for {
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return
		}
		if _, err := c.Write([]byte(name + " " + hostOf(c.RemoteAddr()))); err != nil {
			return
		}
	}
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// dial connects from an address, or from any if that is empty.
func dial(t *testing.T, ns *kernel.Netns, network, from, to string) (c net.Conn, err error) {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	if from != "" && network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	} else if from != "" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	err = ns.Do(func() (err error) {
		c, err = d.Dial(network, net.JoinHostPort(to, "80"))
		return err
	})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func ask(c net.Conn) (string, error) {
	buf := make([]byte, 64)
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func TestFloatingAddressLeadsToThePodFromEverywhere(t *testing.T) {
	w := newWorld(t)
	serve(t, w.PodA, podworld.PodA, "A")
	serve(t, w.PodA, podworld.PodA6, "A")
	w.lead("cali0", addresses(ext, podworld.PodA, ext6, podworld.PodA6))
	for _, network := range []string{"tcp", "udp"} {
		for _, c := range []struct {
			name     string
			from     *kernel.Netns
			to, seen string
		}{
			{"outside", w.Outside, ext, podworld.Outside},
			{"outside by IPv6", w.Outside, ext6, podworld.Outside6},
			{"another pod", w.PodB, ext, podworld.PodB},
			{"another pod by IPv6", w.PodB, ext6, podworld.PodB6},
			{"the node", w.Node, ext, podworld.NodeOut},
			{"the node by IPv6", w.Node, ext6, podworld.NodeOut6},
			{"the pod itself", w.PodA, ext, ext},
			{"the pod itself by IPv6", w.PodA, ext6, ext6},
			{"outside, to its own address", w.Outside, podworld.PodA, podworld.Outside},
		} {
			t.Run(network+" from "+c.name, func(t *testing.T) {
				from := ""
				if c.from == w.Outside { // which has several
					from = c.seen
				}
				conn, err := dial(t, c.from, network, from, c.to)
				podworld.Check(t, err)
				if got, err := ask(conn); got != "A "+c.seen || err != nil {
					t.Errorf("answer %q, %v; want the pod to see %s", got, err, c.seen)
				}
			})
		}
	}
}

// TestPodSendsUnderItsOwnAddress though it has a floating one.
func TestPodSendsUnderItsOwnAddress(t *testing.T) {
	w := newWorld(t)
	serve(t, w.Outside, podworld.Outside, "outside")
	w.lead("cali0", addresses(ext, podworld.PodA))
	conn, err := dial(t, w.PodA, "tcp", "", podworld.Outside)
	podworld.Check(t, err)
	if got, err := ask(conn); got != "outside "+podworld.PodA || err != nil {
		t.Errorf("answer %q, %v", got, err)
	}
}

// TestWhoIsConnectedIsLedToTheNewPod: the kernel remembers nothing of the pod that had
// the address before.
func TestWhoIsConnectedIsLedToTheNewPod(t *testing.T) {
	w := newWorld(t)
	for at, ns := range map[string]*kernel.Netns{podworld.PodA: w.PodA, podworld.PodA6: w.PodA} {
		serve(t, ns, at, "A")
	}
	for at, ns := range map[string]*kernel.Netns{podworld.PodB: w.PodB, podworld.PodB6: w.PodB} {
		serve(t, ns, at, "B")
	}
	w.lead("cali0", addresses(ext, podworld.PodA, ext6, podworld.PodA6))
	for _, to := range []string{ext, ext6} {
		datagrams, err := dial(t, w.Outside, "udp", "", to)
		podworld.Check(t, err)
		stream, err := dial(t, w.Outside, "tcp", "", to)
		podworld.Check(t, err)
		for _, c := range []net.Conn{datagrams, stream} {
			if got, err := ask(c); !strings.HasPrefix(got, "A ") || err != nil {
				t.Fatalf("answer %q, %v", got, err)
			}
		}
		w.lead("cali1", addresses(ext, podworld.PodB, ext6, podworld.PodB6))
		if got, err := ask(datagrams); !strings.HasPrefix(got, "B ") || err != nil {
			t.Errorf("datagrams to %s: answer %q, %v", to, got, err)
		}
		if got, err := ask(stream); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection to %s goes on: %q, %v", to, got, err)
		}
		w.lead("cali0", addresses(ext, podworld.PodA, ext6, podworld.PodA6))
	}
}

func TestAddressThatIsTakenAwayLeadsNowhere(t *testing.T) {
	w := newWorld(t)
	serve(t, w.PodA, podworld.PodA, "A")
	w.lead("cali0", addresses(ext, podworld.PodA))
	conn, err := dial(t, w.Outside, "udp", "", ext)
	podworld.Check(t, err)
	_, err = ask(conn)
	podworld.Check(t, err)
	podworld.Check(t, w.node.DeleteRoute(kernel.Route{Dst: netip.MustParsePrefix(ext + "/32"), Table: kernel.TableMain, Protocol: kernel.ProtocolFelix}))
	w.lead("cali0", nil)
	if got, err := ask(conn); err == nil {
		t.Errorf("answer %q", got)
	}
	w.WantNoTable(t, ruleset.Family, ruleset.Table)
}

func TestDamageIsNamedAndMended(t *testing.T) {
	w := newWorld(t)
	serve(t, w.PodA, podworld.PodA, "A")
	w.lead("cali0", addresses(ext, podworld.PodA))
	for name, c := range map[string]struct {
		damage func(tx *knftables.Transaction)
		says   string
	}{
		"table deleted": {func(tx *knftables.Transaction) { tx.Delete(&knftables.Table{}) }, "chain floating-prerouting"},
		"address taken out": {func(tx *knftables.Transaction) {
			tx.Delete(&knftables.Element{Map: "floating-ipv4", Key: []string{ext}})
		}, "elements of map floating-ipv4"},
		"rules flushed": {func(tx *knftables.Transaction) { tx.Flush(&knftables.Chain{Name: "floating-prerouting"}) }, "rules of chain floating-prerouting"},
	} {
		t.Run(name, func(t *testing.T) {
			w.WantDifferences(t, w.addr.Check, "")
			w.InTable(t, ruleset.Family, ruleset.Table, c.damage)
			w.WantDifferences(t, w.addr.Check, "the rules for floating addresses are not as they should be: "+c.says)
			w.log.Reset()
			w.addr.QueueResync()
			w.InNode(t, w.addr.Apply)
			conn, err := dial(t, w.Outside, "tcp", "", ext)
			podworld.Check(t, err)
			if got, err := ask(conn); !strings.HasPrefix(got, "A ") || err != nil {
				t.Errorf("answer %q, %v", got, err)
			}
			if !strings.Contains(w.log.String(), "mended") || !strings.Contains(w.log.String(), c.says) {
				t.Errorf("log %q", w.log.String())
			}
			w.WantDifferences(t, w.addr.Check, "")
		})
	}
}

// TestRestartForgetsNothing when the addresses lead where they led.
func TestRestartForgetsNothing(t *testing.T) {
	w := newWorld(t)
	pods := addresses(ext, podworld.PodA, ext6, podworld.PodA6, "10.65.9.10", podworld.PodA)
	w.lead("cali0", pods)
	var forgotten []netip.Addr
	nft := &podworld.Counting{}
	w.InNode(t, func(ctx context.Context) (err error) {
		if nft.Interface, err = knftables.New(ruleset.Family, ruleset.Table); err != nil {
			return err
		}
		next := New(Config{NFT: nft, Forget: func(a netip.Addr) error {
			forgotten = append(forgotten, a)
			return nil
		}})
		next.Set(pods)
		if err := next.Apply(ctx); err != nil {
			return err
		}
		next.QueueResync()
		return next.Apply(ctx)
	})
	if nft.Runs != 0 || len(forgotten) != 0 {
		t.Errorf("%d transactions, forgotten %v", nft.Runs, forgotten)
	}
}

package limits

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kernel/kerneltest/podworld"
)

// patience is how long an answer may take on a busy machine.
const patience = 10 * time.Second

const (
	rate  = 1 // packets a second: no machine is too slow for it
	burst = 5
	sent  = 60
)

func few() Rates { return Rates{Packets: rate, PacketBurst: burst} }

func clusterOf() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.64.0.0/14"), netip.MustParsePrefix("fd00::/16"), netip.MustParsePrefix(podworld.Node2 + "/32"), netip.MustParsePrefix(podworld.Node26 + "/128")}
}

func apply(t *testing.T, w podworld.World, l *Limits, pods ...Pod) {
	t.Helper()
	l.Set(pods, clusterOf())
	w.InNode(t, l.Apply)
}

// receive sends datagrams as fast as they go and returns how many arrived, and how many
// would have at most within the rate.
func receive(t *testing.T, from, to *kernel.Netns, at string) (got, bound int) {
	t.Helper()
	in, out := datagrams(t, from, to, at)
	began := time.Now()
	for range sent {
		if _, err := out.Write([]byte{1}); err != nil && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
	}
	for {
		podworld.Check(t, in.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		_, err := in.Read(make([]byte, 1))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return got, burst + rate*(int(time.Since(began).Seconds())+1)
		}
		podworld.Check(t, err)
		got++
	}
}

func datagrams(t *testing.T, from, to *kernel.Netns, at string) (in, out *net.UDPConn) {
	t.Helper()
	addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at))
	podworld.Check(t, to.Do(func() (err error) { in, err = net.ListenUDP("udp", addr); return err }))
	t.Cleanup(func() { _ = in.Close() })
	podworld.Check(t, from.Do(func() (err error) { out, err = net.DialUDP("udp", nil, addr); return err }))
	t.Cleanup(func() { _ = out.Close() })
	return in, out
}

// TestPacketsArePassedAtTheRateAlone: forwarded ones and the node's own, each direction
// by itself, and of no other pod.
func TestPacketsArePassedAtTheRateAlone(t *testing.T) {
	w, l := podworld.New(t), New(Config{})
	limited := func(from, to *kernel.Netns, at string) {
		t.Helper()
		if got, bound := receive(t, from, to, at); got == 0 || got > bound {
			t.Errorf("to %s: %d packets arrived of %d, want some, and %d at most", at, got, sent, bound)
		}
	}
	free := func(from, to *kernel.Netns, at string) {
		t.Helper()
		if got, _ := receive(t, from, to, at); got != sent {
			t.Errorf("to %s: %d packets arrived of %d", at, got, sent)
		}
	}
	apply(t, w, l, Pod{Interface: "cali0", FromPod: few()})
	limited(w.PodA, w.Outside, podworld.Outside+":5000")
	free(w.Outside, w.PodA, podworld.PodA+":5000")
	free(w.PodB, w.Outside, podworld.Outside+":5001")
	apply(t, w, l, Pod{Interface: "cali0", FromPod: Rates{Packets: rate, PacketBurst: burst + 1}})
	limited(w.PodA, w.Node, podworld.NodeOut+":5000")
	apply(t, w, l, Pod{Interface: "cali0", ToPod: few()})
	limited(w.PodB, w.PodA, "["+podworld.PodA6+"]:5000")
	free(w.PodA, w.Outside, podworld.Outside+":5002")
	apply(t, w, l, Pod{Interface: "cali1", ToPod: few()})
	limited(w.Node, w.PodB, podworld.PodB+":5000")
	free(w.Outside, w.PodA, podworld.PodA+":5003")
}

// TestConnectionsAreCounted, by IPv4 and by IPv6, and both in one count: one too many is
// refused at once, and comes through when another has ended.
func TestConnectionsAreCounted(t *testing.T) {
	for name, at := range map[string]struct{ first, second, outside string }{
		"IPv4":            {podworld.PodA + ":80", podworld.PodA + ":80", podworld.Outside + ":80"},
		"IPv6":            {"[" + podworld.PodA6 + "]:80", "[" + podworld.PodA6 + "]:80", "[" + podworld.Outside6 + "]:80"},
		"one of each":     {podworld.PodA + ":80", "[" + podworld.PodA6 + "]:80", "[" + podworld.Outside6 + "]:80"},
		"one of each, v6": {"[" + podworld.PodA6 + "]:80", podworld.PodA + ":80", podworld.Outside + ":80"},
	} {
		t.Run(name, func(t *testing.T) { countConnections(t, at.first, at.second, at.outside) })
	}
}

// countConnections makes the first one allowed at one of the pod's addresses, and the
// other, and what is too much, at another.
func countConnections(t *testing.T, at, other, outside string) {
	w, l := podworld.New(t), New(Config{})
	apply(t, w, l, Pod{Interface: "cali0", ToPod: Rates{Connections: 2}}, Pod{Interface: "cali1", FromPod: Rates{Connections: 1}})
	serve(t, w.PodA, at)
	if other != at {
		serve(t, w.PodA, other)
	}
	serve(t, w.Outside, outside)

	first, err := dial(t, w.Outside, at)
	podworld.Check(t, err)
	_, err = dial(t, w.Outside, other)
	podworld.Check(t, err)
	if _, err = dial(t, w.Outside, other); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the third connection to the pod: %v", err)
	}
	_, err = dial(t, w.PodB, outside)
	podworld.Check(t, err)
	if _, err = dial(t, w.PodB, outside); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the second connection of the pod: %v", err)
	}
	podworld.Check(t, first.Close())
	for deadline := time.Now().Add(patience); ; {
		if _, err = dial(t, w.Outside, other); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after one has ended: %v", err)
		}
	}
	// What is limited anew doesn't break what runs.
	apply(t, w, l, Pod{Interface: "cali0", ToPod: Rates{Connections: 1, Packets: 1000, PacketBurst: 100}})
}

// serve accepts connections and ends each when its other end does.
func serve(t *testing.T, ns *kernel.Netns, at string) {
	t.Helper()
	var l net.Listener
	podworld.Check(t, ns.Do(func() (err error) { l, err = net.Listen("tcp", at); return err }))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		}
	}()
}

// dial keeps the connection to the end of the test.
func dial(t *testing.T, ns *kernel.Netns, at string) (c net.Conn, err error) {
	t.Helper()
	podworld.Check(t, ns.Do(func() error {
		c, err = net.DialTimeout("tcp", at, patience)
		return nil
	}))
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// TestWhatLeavesTheClusterIsMarked: and nothing else; ECN stays.
func TestWhatLeavesTheClusterIsMarked(t *testing.T) {
	w, l := podworld.New(t), New(Config{})
	ef, cs1 := uint8(46), uint8(8)
	apply(t, w, l, Pod{Interface: "cali0", DSCP: &ef}, Pod{Interface: "cali1", DSCP: &cs1})
	for name, tc := range map[string]struct {
		from, to *kernel.Netns
		at       string
		want     int
	}{
		"outside":         {w.PodA, w.Outside, podworld.Outside + ":5000", 46<<2 | 1},
		"outside, IPv6":   {w.PodA, w.Outside, "[" + podworld.Outside6 + "]:5000", 46<<2 | 1},
		"of another pod":  {w.PodB, w.Outside, podworld.Outside + ":5000", 8<<2 | 1},
		"to a node":       {w.PodA, w.Outside, podworld.Node2 + ":5000", 1},
		"to a node, IPv6": {w.PodA, w.Outside, "[" + podworld.Node26 + "]:5000", 1},
		"to a pod":        {w.PodA, w.PodB, podworld.PodB + ":5000", 1},
		"to the pod":      {w.Outside, w.PodA, podworld.PodA + ":5000", 1},
	} {
		in, out := datagrams(t, tc.from, tc.to, tc.at)
		v6 := strings.HasPrefix(tc.at, "[")
		setTOS(t, out, v6, 1) // of ECN
		askTOS(t, in, v6)
		_, err := out.Write([]byte{1})
		podworld.Check(t, err)
		podworld.Check(t, in.SetReadDeadline(time.Now().Add(patience)))
		oob := make([]byte, 64)
		_, n, _, _, err := in.ReadMsgUDP(make([]byte, 1), oob)
		podworld.Check(t, err)
		messages, err := syscall.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 || int(messages[0].Data[0]) != tc.want {
			t.Errorf("%s: %v, %v; want %d", name, messages, err, tc.want)
		}
		_ = in.Close()
	}
}

func setTOS(t *testing.T, c *net.UDPConn, v6 bool, tos int) {
	t.Helper()
	if v6 {
		option(t, c, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos)
	} else {
		option(t, c, unix.IPPROTO_IP, unix.IP_TOS, tos)
	}
}

func askTOS(t *testing.T, c *net.UDPConn, v6 bool) {
	t.Helper()
	if v6 {
		option(t, c, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
	} else {
		option(t, c, unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	}
}

func option(t *testing.T, c *net.UDPConn, level, name, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	podworld.Check(t, err)
	var set error
	podworld.Check(t, raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, name, value) }))
	podworld.Check(t, set)
}

// TestNothingIsThereWithoutLimits: not even the table, also of what an earlier process
// left.
func TestNothingIsThereWithoutLimits(t *testing.T) {
	w, l := podworld.New(t), New(Config{})
	ef := uint8(46)
	pods := []Pod{{Interface: "cali0", ToPod: few(), FromPod: few()}, {Interface: "cali1", DSCP: &ef}}
	apply(t, w, l, pods...)
	apply(t, w, l)
	wantNoTable(t, w)
	apply(t, w, l, pods...)
	apply(t, w, New(Config{}), pods[0])
	next := New(Config{})
	apply(t, w, next, pods[0])
	if wrong, err := check(t, w, next); err != nil || len(wrong) > 0 {
		t.Errorf("%v, %v", wrong, err)
	}
	apply(t, w, New(Config{}))
	wantNoTable(t, w)
}

func check(t *testing.T, w podworld.World, l *Limits) (wrong []string, err error) {
	doErr := w.Node.Do(func() error {
		wrong, err = l.Check(t.Context())
		return nil
	})
	return wrong, errors.Join(doErr, err)
}

func wantNoTable(t *testing.T, w podworld.World) {
	t.Helper()
	podworld.Check(t, w.Node.Do(func() error {
		nft, err := knftables.New(ruleset.Family, ruleset.Table)
		if err != nil {
			return err
		}
		if all, err := nft.ListAll(t.Context()); !knftables.IsNotFound(err) {
			t.Errorf("there is %v, %v", all, err)
		}
		return nil
	}))
}

// TestDriftIsMended: of a pod's chain, a map, and what is one too many.
func TestDriftIsMended(t *testing.T) {
	w, log := podworld.New(t), &bytes.Buffer{}
	l := New(Config{Log: slog.New(slog.NewTextHandler(log, nil))})
	pods := []Pod{{Interface: "cali0", ToPod: few(), FromPod: few()}, {Interface: "cali1", FromPod: Rates{Connections: 3}}}
	apply(t, w, l, pods...)
	for name, tamper := range map[string]func(*knftables.Transaction){
		"rules gone":    func(tx *knftables.Transaction) { tx.Flush(&knftables.Chain{Name: "limit-from-cali0"}) },
		"map emptied":   func(tx *knftables.Transaction) { tx.Flush(&knftables.Map{Name: fromPods}) },
		"one too many":  func(tx *knftables.Transaction) { tx.Add(&knftables.Chain{Name: "limit-to-cali9"}) },
		"hooks gone":    func(tx *knftables.Transaction) { tx.Flush(&knftables.Chain{Name: "limits-forward"}) },
		"another's map": func(tx *knftables.Transaction) { tx.Add(&knftables.Set{Name: "theirs", Type: "ipv4_addr"}) },
	} {
		w.InTable(t, ruleset.Family, ruleset.Table, tamper)
		if wrong, err := check(t, w, l); err != nil || len(wrong) > 0 == (name == "another's map") {
			t.Errorf("%s: CHECK says %q, %v", name, wrong, err)
		}
		log.Reset()
		l.QueueResync()
		w.InNode(t, l.Apply)
		if said := strings.Count(log.String(), "mended"); said != 1 && name != "another's map" || said != 0 && name == "another's map" {
			t.Errorf("%s: said %s", name, log)
		}
		if wrong, err := check(t, w, l); err != nil || len(wrong) > 0 {
			t.Errorf("%s: %v, %v", name, wrong, err)
		}
	}
}

// TestChangeOfOnePodLeavesOthersCounts: the connections of another are counted on.
func TestChangeOfOnePodLeavesOthersCounts(t *testing.T) {
	w, l := podworld.New(t), New(Config{})
	one := Pod{Interface: "cali0", ToPod: Rates{Connections: 1}}
	apply(t, w, l, one)
	serve(t, w.PodA, podworld.PodA+":80")
	_, err := dial(t, w.Outside, podworld.PodA+":80")
	podworld.Check(t, err)
	for _, others := range [][]Pod{{one, {Interface: "cali1", ToPod: few()}}, {one, {Interface: "cali1", FromPod: few()}}, {one}} {
		apply(t, w, l, others...)
		if _, err = dial(t, w.Outside, podworld.PodA+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the second connection: %v", err)
		}
	}
	next := New(Config{}) // another process
	apply(t, w, next, one)
	if _, err = dial(t, w.Outside, podworld.PodA+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the second connection: %v", err)
	}
}

// TestNameOfADeviceIsNoProgram: a record's device is not taken for nft's language.
func TestNameOfADeviceIsNoProgram(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	for _, name := range []string{"cali;flush", "cali}", "cali\"x", "cali#", "cali*", ""} {
		if c, chains := contentsOf([]Pod{{Interface: name, ToPod: few()}}, nil); c != nil || chains != nil {
			t.Errorf("%q: %v %v", name, c, chains)
		}
	}
}

package podnet_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"tortie/internal/kernel"
)

const deadline = 10 * time.Second

// in runs fn inside a namespace; the sockets fn makes stay there.
func in(t *testing.T, ns *kernel.Netns, fn func() error) {
	t.Helper()
	if err := ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// talk sends a line from one namespace to another and back, and checks that each
// side sees the other's own address. from is invalid for "whatever the kernel
// chooses, as long as it is not the receiver's".
func talk(t *testing.T, network string, client, server *kernel.Netns, from, to netip.Addr) {
	t.Helper()
	seen := make(chan netip.Addr, 1)
	var port uint16
	in(t, server, func() (err error) {
		port, err = echo(t, network, to, seen)
		return err
	})
	in(t, client, func() error {
		conn, err := (&net.Dialer{Timeout: deadline}).Dial(network, netip.AddrPortFrom(to, port).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(deadline))
		if _, err := io.WriteString(conn, "meow"); err != nil {
			return err
		}
		answer := make([]byte, 4)
		if _, err := io.ReadFull(conn, answer); err != nil {
			return err
		}
		if string(answer) != "meow" {
			return fmt.Errorf("answer %q", answer)
		}
		return nil
	})
	if peer := <-seen; from.IsValid() && peer != from || peer == to {
		t.Errorf("%s to %s: the receiver saw %s instead of %s", network, to, peer, from)
	}
}

// echo answers one conversation and tells who began it.
func echo(t *testing.T, network string, addr netip.Addr, seen chan<- netip.Addr) (uint16, error) {
	at := netip.AddrPortFrom(addr, 0)
	if network == "udp" {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return 0, err
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			buf := make([]byte, 16)
			if n, peer, err := conn.ReadFromUDPAddrPort(buf); err == nil {
				seen <- peer.Addr().Unmap()
				_, _ = conn.WriteToUDPAddrPort(buf[:n], peer)
			}
		}()
		return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return 0, err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		seen <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		_, _ = io.CopyN(conn, conn, 4)
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

func TestTrafficOnOneNode(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.newPod(), w.newPod()
	one, two := attachment(a, 1), attachment(b, 2)
	w.add(one)
	w.add(two)
	// The node's own addresses, as its uplink would carry them.
	for _, s := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
		if err := w.node.AddAddress(1, netip.MustParsePrefix(s)); err != nil {
			t.Fatal(err)
		}
	}
	nodeAddrs := addrs("192.0.2.1", "2001:db8::1")
	// A strict host: pods must work whatever the node says.
	for _, filter := range []string{"0", "1", "2"} {
		if err := w.node.SetSysctl("ipv4/conf/all/rp_filter", filter); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			for i := range one.Addrs {
				t.Run(fmt.Sprintf("rp_filter %s %s %s", filter, network, one.Addrs[i]), func(t *testing.T) {
					talk(t, network, a.ns, b.ns, one.Addrs[i], two.Addrs[i])
					talk(t, network, b.ns, a.ns, two.Addrs[i], one.Addrs[i])
					talk(t, network, w.ns, a.ns, nodeAddrs[i], one.Addrs[i])
					talk(t, network, a.ns, w.ns, one.Addrs[i], nodeAddrs[i])
				})
			}
		}
	}
}

// TestTrafficWhereNewDevicesDoNotForward is for the node's end whose forwarding is ours
// alone: what the kernel gives every new device is off.
func TestTrafficWhereNewDevicesDoNotForward(t *testing.T) {
	w := newWorld(t, nil)
	err := w.node.SetSysctls([]kernel.Setting{
		{Name: "ipv4/conf/default/forwarding", Value: "0"}, {Name: "ipv6/conf/default/forwarding", Value: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b := w.newPod(), w.newPod()
	one, two := attachment(a, 1), attachment(b, 2)
	w.add(one)
	w.add(two)
	for i := range one.Addrs {
		talk(t, "tcp", a.ns, b.ns, one.Addrs[i], two.Addrs[i])
		talk(t, "tcp", b.ns, a.ns, two.Addrs[i], one.Addrs[i])
	}
}

// TestForgedSourceIsDropped sends from an address that another pod has.
func TestForgedSourceIsDropped(t *testing.T) {
	if got := firstOfForgedAndHonest(t, false); got != "honest" {
		t.Errorf("received %q", got)
	}
}

// TestForgedSourcePassesOfAPodWithManySources: which they are is for packet rules to say.
func TestForgedSourcePassesOfAPodWithManySources(t *testing.T) {
	if got := firstOfForgedAndHonest(t, true); got != "forged" {
		t.Errorf("received %q", got)
	}
}

// firstOfForgedAndHonest has a pod send from another's address and then from its own, and
// is what arrives first.
func firstOfForgedAndHonest(t *testing.T, manySources bool) string {
	t.Helper()
	w := newWorld(t, nil)
	if err := w.node.SetSysctl("ipv4/conf/all/rp_filter", "0"); err != nil {
		t.Fatal(err)
	}
	a, b, c := w.newPod(), w.newPod(), w.newPod()
	sender := attachment(a, 1)
	sender.ManySources = manySources
	w.add(sender)
	victim := attachment(b, 2)
	w.add(victim)
	receiver := attachment(c, 3)
	w.add(receiver)
	eth0, err := a.LinkByName(ifName)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddAddress(eth0.Index, netip.PrefixFrom(victim.Addrs[0], 32)); err != nil {
		t.Fatal(err)
	}
	to := receiver.Addrs[0]
	var conn *net.UDPConn
	in(t, c.ns, func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
		return err
	})
	defer conn.Close()
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	send := func(from netip.Addr, text string) {
		in(t, a.ns, func() error {
			out, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
				net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
			if err != nil {
				return err
			}
			defer out.Close()
			_, err = io.WriteString(out, text)
			return err
		})
	}
	send(victim.Addrs[0], "forged")
	send(sender.Addrs[0], "honest")
	// Both take the same way, so when the second is here the first would be too.
	_ = conn.SetReadDeadline(time.Now().Add(deadline))
	buf := make([]byte, 16)
	n, _, err := conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

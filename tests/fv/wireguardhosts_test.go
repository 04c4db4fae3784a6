package fv

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tortie/internal/api"
	"tortie/internal/kernel/kerneltest"
	"tortie/tests/lab"
	"tortie/tests/lab/agentwire"
)

const hostsToo = "wireguardHostEncryptionEnabled: true"

// on runs a command on a node and gives what it says, of an error too.
func on(l *lab.Lab, node string, command string) string {
	var out strings.Builder
	if err := l.Exec(node, []string{"sh", "-c", command}, lab.Stdio{In: strings.NewReader(""), Out: &out, Err: &out}); err != nil {
		fmt.Fprintf(&out, " (%v)", err)
	}
	return out.String()
}

// hostsLed waits until every node leads what goes to the others' addresses into WireGuard,
// or no node does.
func hostsLed(t *testing.T, l *lab.Lab, want bool) {
	t.Helper()
	for _, n := range l.Topology().Nodes {
		until(t, fmt.Sprintf("%s to encrypt what goes to nodes: %v", n.Name, want), func() (bool, string) {
			out := on(l, n.Name, "ip rule; ip -6 rule; ip route show table 1; ip -6 route show table 1")
			rules, routes := strings.Count(out, "not from all fwmark 0x100000/0x100000 lookup 1"), strings.Count(out, "dev w")
			others := len(l.Topology().Nodes) - 1
			return want && rules == 2 && routes == 2*others || !want && rules == 0 && routes == 0, out
		})
	}
}

// strictly has the nodes take nothing that comes another way than they would answer.
func strictly(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, n := range l.Topology().Nodes {
		if out := on(l, n.Name, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=1 && ip neigh flush dev eth0"); out != "" {
			t.Fatal(out)
		}
	}
}

// hostTraffic has every two nodes talk under their own addresses, by both versions of IP,
// UDP and TCP.
func hostTraffic(t *testing.T, l *lab.Lab) *traffic {
	t.Helper()
	tr := &traffic{l: l, interval: streamInterval, streams: map[string]string{}}
	for _, from := range l.Topology().Nodes {
		for _, to := range l.Topology().Nodes {
			for _, a := range []netip.Addr{to.V4.Addr(), to.V6.Addr()} {
				for _, network := range []string{"udp", "tcp"} {
					if from.Name == to.Name {
						continue
					}
					id := fmt.Sprintf("%s %s → %s", network, from.Name, a)
					_, err := l.Ask(t.Context(), from.Name, agentwire.Request{StartStream: &agentwire.Stream{
						ID: id, Network: network, Target: netip.AddrPortFrom(a, agentwire.Port), Interval: tr.interval,
					}})
					if err != nil {
						t.Fatal(err)
					}
					tr.streams[id] = from.Name
				}
			}
		}
	}
	return tr
}

// sessions are the BGP sessions between nodes, and since when they are up.
func sessions(t *testing.T, l *lab.Lab) string {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^(node\d) .*Established +(\S+)`).FindAllString(run(t, l, "", "calicoctl", "bgp", "peers"), -1)
	for i, line := range lines {
		fields := strings.Fields(line)
		lines[i] = fields[0] + " " + fields[1] + " " + fields[len(fields)-1]
	}
	return strings.Join(lines, "\n")
}

// TestHostEncryption: what nodes send each other themselves is seen encrypted alone, BGP
// too, whose sessions go on as it is switched; on and off under traffic no more is lost
// than queues drop; a felix that is killed changes nothing. All that with a strict reverse
// path.
func TestHostEncryption(t *testing.T) {
	kerneltest.Require(t, kerneltest.Tun)
	l := encrypted(t, "wghosts")
	strictly(t, l)
	up := sessions(t, l)
	if strings.Count(up, "node") != 4 {
		t.Fatalf("sessions with two nodes by both versions of IP, want 4:\n%s", up)
	}
	for _, want := range []bool{true, false, true} {
		t.Run(fmt.Sprintf("switched under traffic: %v", want), func(t *testing.T) {
			tr, pods := hostTraffic(t, l), startTraffic(t, l)
			queues := fullQueues(t, l)
			tr.dropped = func() int { return queues() + onTheWay }
			pods.dropped = tr.dropped
			setWireGuard(t, l, true, fmt.Sprintf("wireguardHostEncryptionEnabled: %v", want))
			hostsLed(t, l, want)
			time.Sleep(500 * time.Millisecond) // whatever is taken away late goes in this time
			tr.stopAndDemandNoLoss(t)
			pods.stopAndDemandNoLoss(t)
			mustConverge(t, l)
		})
	}
	t.Run("nothing in clear", func(t *testing.T) {
		mustConverge(t, l)
		tr := hostTraffic(t, l)
		time.Sleep(time.Second) // connections that were begun before
		w := listen(t, l)
		everyPathWorks(t, l)
		time.Sleep(time.Second)
		tr.dropped = fullQueues(t, l)
		tr.stopAndDemandNoLoss(t)
		for where, seen := range w.stop() {
			if seen.Plain {
				t.Errorf("pods' packets in clear on the wire: %s %+v", where, seen)
			}
		}
		if len(w.hosts) > 0 {
			t.Errorf("in clear on the wire: %v", slices.Sorted(maps.Keys(w.hosts)))
		}
	})
	t.Run("felix killed", func(t *testing.T) {
		before := on(l, "node1", "ip rule; ip -6 rule; ip route show table 1; ip -6 route show table 1")
		tr := hostTraffic(t, l)
		tr.dropped = fullQueues(t, l)
		killAndRestart(t, l, []string{"felix"}, []string{"node1", "node2", "node3"})
		tr.stopAndDemandNoLoss(t)
		if after := on(l, "node1", "ip rule; ip -6 rule; ip route show table 1; ip -6 route show table 1"); after != before {
			t.Errorf("there was\n%s\nand is\n%s", before, after)
		}
	})
	if now := sessions(t, l); now != up {
		t.Errorf("BGP sessions began anew: there were\n%s\nand are\n%s", up, now)
	}
	t.Run("a node without a key", func(t *testing.T) {
		apply(t, l, manifestHead+"kind: FelixConfiguration\nmetadata: {name: node.node3}\nspec: {wireguardEnabled: false, wireguardEnabledV6: false}\n")
		until(t, "node1 to send to node3 in clear", func() (bool, string) {
			out := on(l, "node1", "ip route show table 1; ip -6 route show table 1")
			return strings.Count(out, "dev w") == 2, out
		})
		mustConverge(t, l)
		run(t, l, "", "calicoctl", "delete", "felixconfiguration", "node.node3")
		hostsLed(t, l, true)
	})
	t.Run("metrics", func(t *testing.T) {
		setWireGuard(t, l, true, hostsToo, "prometheusMetricsEnabled: true", "prometheusMetricsHost: 127.0.0.1")
		until(t, "metrics of the peers", func() (bool, string) {
			out := fetch(l, "node1", "127.0.0.1:9091")
			return strings.Count(out, "\nwireguard_latest_handshake_seconds{") == 4 && strings.Count(out, "\nwireguard_bytes_rcvd{") == 4 && strings.Contains(out, `iface="wg-v6.cali"`), out
		})
	})
	t.Run("cleaned up", func(t *testing.T) {
		for _, program := range []string{"felix", "bgpd"} {
			if err := l.KillDaemon(program, "node1", syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		out := run(t, l, "", "felix", "--cleanup")
		if !strings.Contains(out, "routing rule ipv4 99: not fwmark") || !strings.Contains(out, "nftables table arp tortie: removed") {
			t.Errorf("it does not say so:\n%s", out)
		}
		if left := on(l, "node1", "ip rule; ip -6 rule; ip route show table 1; nft list tables"); strings.Contains(left, "fwmark") || strings.Contains(left, "tortie") || strings.Contains(left, "dev w") {
			t.Errorf("there is left\n%s", left)
		}
	})
}

// fetch is what a node says of /metrics.
func fetch(l *lab.Lab, node, address string) string {
	var body []byte
	err := l.In(node, func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err = io.WriteString(c, "GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n"); err != nil {
			return err
		}
		body, err = io.ReadAll(c)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// TestDatastoreBehindAnEncryptingNodeIsReached: node1's way to etcd is node2's own address.
// It goes on as keys change at either end, and node1 finds it after it has lost its keys
// and its device.
func TestDatastoreBehindAnEncryptingNodeIsReached(t *testing.T) {
	kerneltest.Require(t, kerneltest.Tun)
	l := encrypted(t, "wgstore")
	strictly(t, l)
	node2 := l.Topology().Nodes[1].V4.Addr()
	relay(t, l, "node2", netip.AddrPortFrom(node2, 2379), strings.TrimPrefix(l.EtcdEndpoint(), "http://"))
	etcd := netip.MustParseAddrPort(strings.TrimPrefix(l.EtcdEndpoint(), "http://"))
	if out := on(l, "node1", fmt.Sprintf("nft -f - <<E\ntable ip relay { chain out { type nat hook output priority -100; ip daddr %s tcp dport 2379 dnat to %s; }; }\nE", etcd.Addr(), node2)); out != "" {
		t.Fatal(out)
	}
	restart := func(t *testing.T, between func()) {
		t.Helper()
		for _, program := range []string{"felix", "bgpd"} {
			if err := l.KillDaemon(program, "node1", syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		between()
		for _, program := range []string{"felix", "bgpd"} {
			if err := l.StartDaemon(program, "node1"); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	restart(t, func() {})
	setWireGuard(t, l, true, hostsToo)
	hostsLed(t, l, true)
	mustConverge(t, l)
	hears := func(t *testing.T, name string) {
		t.Helper()
		keys := func() string {
			return on(l, "node1", "calicoctl get node "+name+" -o yaml | grep wireguardPublicKey: ; true")
		}
		before := keys()
		run(t, l, "", "calicoctl", "patch", "node", name, "-p", fmt.Sprintf(`{"metadata": {"annotations": {"tortie/new-wireguard-keys": "%d"}}}`, time.Now().UnixNano()))
		until(t, name+" to have another key", func() (bool, string) { now := keys(); return now != before, now })
		hostsLed(t, l, true)
		mustConverge(t, l)
	}
	t.Run("the datastore's node has new keys", func(t *testing.T) { hears(t, "node2") })
	t.Run("this node has new keys", func(t *testing.T) { hears(t, "node1") })
	t.Run("this node has lost its keys", func(t *testing.T) {
		restart(t, func() {
			if out := on(l, "node1", "ip rule del pref 99; ip -6 rule del pref 99; ip link del wireguard.cali; ip link del wg-v6.cali; rm /var/lib/calico/felix/wireguard.keys"); out != "" {
				t.Fatal(out)
			}
		})
		hostsLed(t, l, true)
		mustConverge(t, l)
	})
}

// relay takes connections at an address of a node, and leads them on from there.
func relay(t *testing.T, l *lab.Lab, node string, at netip.AddrPort, to string) {
	t.Helper()
	var listener net.Listener
	if err := l.In(node, func() (err error) { listener, err = net.Listen("tcp", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			var onward net.Conn
			if l.In(node, func() (err error) { onward, err = net.Dial("tcp", to); return err }) != nil {
				from.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{from, onward}, {onward, from}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
					way[1].Close()
				}()
			}
		}
	}()
}

// betweenNodes describes a packet that two nodes have sent each other themselves, or a pod
// and a node, in clear; not what is about the network between them: neighbours, echoes of
// felix' probes.
func (w *wire) betweenNodes(p packet) string {
	from, to := w.nodes[p.src], w.nodes[p.dst]
	if to == "" || from == "" && !w.isPod(p.src) || p.protocol == unix.IPPROTO_ICMP || p.protocol == unix.IPPROTO_ICMPV6 || p.port == 51820 || p.port == 51821 || p.protocol == unix.IPPROTO_UDP && p.port == 1 {
		return ""
	}
	return fmt.Sprintf("%s → %s, protocol %d port %d", p.src, p.dst, p.protocol, p.port)
}

// TestFloatingAddressIsReachedByWireGuard from pods and nodes everywhere, encrypted alone,
// and follows to another pod.
func TestFloatingAddressIsReachedByWireGuard(t *testing.T) {
	kerneltest.Require(t, kerneltest.Tun)
	l := encrypted(t, "wgfloat")
	setWireGuard(t, l, true, "floatingIPs: Enabled")
	const ext, ext6 = "10.65.250.9", "fd65::250:9"
	names := endpointNames(t, l)
	for _, owner := range []string{"node1", "node2"} {
		t.Run("at a pod of "+owner, func(t *testing.T) {
			for _, p := range l.Pods() {
				mine := p.Node == owner && strings.HasPrefix(p.Name, "pod-0"+fmt.Sprint(map[string]int{"node1": 0, "node2": 1}[owner]))
				change(t, l, p, names[p.Name], func(spec *api.WorkloadEndpointSpec) {
					spec.IPNATs = nil
					if mine {
						spec.IPNATs = []api.IPNAT{{InternalIP: p.Addr(false).String(), ExternalIP: ext}, {InternalIP: p.Addr(true).String(), ExternalIP: ext6}}
					}
				})
			}
			for _, n := range l.Topology().Nodes {
				until(t, n.Name+" to lead to it by WireGuard", func() (bool, string) {
					out := on(l, n.Name, "ip route get "+ext+"; ip route get "+ext6)
					return n.Name == owner || strings.Count(out, "dev wireguard.cali") == 1 && strings.Count(out, "dev wg-v6.cali") == 1, out
				})
			}
			until(t, owner+" to lead it to its pod", func() (bool, string) {
				out := on(l, owner, "nft list map inet tortie floating-ipv4")
				return strings.Contains(out, ext), out
			})
			w := listen(t, l)
			for _, to := range []string{ext, ext6} {
				for _, p := range l.Pods() {
					until(t, p.Name+" to reach "+to, func() (bool, string) {
						var out strings.Builder
						err := l.PodExec(p, 0, []string{"ping", "-c1", "-W1", to}, lab.Stdio{In: strings.NewReader(""), Out: &out, Err: &out})
						return err == nil, out.String()
					})
				}
				for _, n := range l.Topology().Nodes {
					until(t, n.Name+" to reach "+to, func() (bool, string) {
						out := on(l, n.Name, "ping -c1 -W1 "+to)
						return strings.Contains(out, " 0% packet loss"), out
					})
				}
			}
			for where, seen := range w.stop() {
				if seen.Plain {
					t.Errorf("in clear on the wire: %s %+v", where, seen)
				}
			}
		})
	}
}

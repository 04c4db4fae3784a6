package fv

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"tortie/internal/kernel/kerneltest"
	"tortie/tests/lab"
)

// TestDriftIsMendedAndStrangersAreLeftAlone: what is ours and somebody takes away or
// changes is back as it was, at once where the kernel tells, else at the next resync; what
// somebody else has added stays.
func TestDriftIsMendedAndStrangersAreLeftAlone(t *testing.T) {
	const patience = 15 * time.Second // a sixth of the default interval, and many times the short one
	l := up(t, "drift", 3)
	// IPv6 is BGP's.
	apply(t, l, manifestHead+"kind: IPPool\nmetadata: {name: pool-v4}\nspec: {cidr: 10.65.0.0/16, blockSize: 26, natOutgoing: true, vxlanMode: CrossSubnet}\n")
	addPods(t, l, 6, 1)
	if _, err := l.AddPod(t.Context(), lab.PodSpec{Name: "here", Node: "node1", Containers: 1}); err != nil {
		t.Fatal(err)
	}
	mustConverge(t, l)
	loopback := podWithHostPort(t, l)
	pod, err := l.Pod("here")
	if err != nil {
		t.Fatal(err)
	}
	addr, addr6 := pod.Addr(false).String(), pod.Addr(true).String()
	sh := func(script string) string {
		t.Helper()
		return run(t, l, "", "sh", "-ec", script)
	}
	device := strings.TrimSpace(sh("ip -o route get " + addr + " | sed 's/.* dev \\([^ ]*\\).*/\\1/'"))

	strangers := []string{
		"ip route add 10.65.77.0/26 via 10.10.1.254 proto static; ip route add 10.99.0.0/16 via 10.10.1.2",
		"ip -6 route add fd99::/64 via fd10:0:0:1::2",
		"ip link add flannel.1 type vxlan id 1 dstport 8472 local 10.10.1.1 nolearning; ip link set flannel.1 up; bridge fdb append 02:00:00:00:00:99 dev flannel.1 dst 10.10.1.2",
		"ip link add cali0stranger type veth peer name stranger; ip addr add 203.0.113.1/32 dev eth0",
		"nft add table inet theirs; nft add chain inet theirs c; nft add chain inet tortie theirs; nft add rule inet tortie theirs counter",
		"ip rule add from 203.0.113.1 lookup 77; ip route add default via 10.10.1.254 table 77",
		"echo 1 > /proc/sys/net/ipv4/conf/eth0/proxy_arp",
	}
	theirs := "ip route show proto static; ip route show 10.99.0.0/16; ip -6 route show fd99::/64; ip -o -br link show flannel.1; bridge fdb show dev flannel.1; ip -br link show cali0stranger; " +
		"ip -o addr show dev eth0 to 203.0.113.1; nft list table inet theirs; nft list chain inet tortie theirs | sed 's/packets.*//'; ip rule show from 203.0.113.1; ip route show table 77; cat /proc/sys/net/ipv4/conf/eth0/proxy_arp"
	for _, s := range strangers {
		sh(s)
	}
	before := sh(theirs)

	routes := "ip route show proto 80 | sort; ip -6 route show proto 80 | sort"
	vxlan := "ip -br link show vxlan.calico; ip -d link show vxlan.calico | grep -o 'mtu [0-9]*\\|vxlan id.*dstport [0-9]*'; ip -4 -br addr show dev vxlan.calico; bridge fdb show dev vxlan.calico | sort; ip neigh show dev vxlan.calico | sort"
	rules := "nft list table inet tortie | grep -v counter | sort"
	v4, v6 := "/proc/sys/net/ipv4/conf/"+device+"/", "/proc/sys/net/ipv6/conf/"+device+"/"
	pod1 := "ip -br link show " + device + "; ip -o link show " + device + " | grep -o 'mtu [0-9]*'; ip -6 -br addr show " + device +
		"; cat " + v4 + "rp_filter " + v4 + "proxy_arp " + v4 + "forwarding " + v6 + "forwarding " + v6 + "proxy_ndp " + v6 + "accept_ra " + v6 + "disable_ipv6"
	mends := func(t *testing.T, name, look, harm string) {
		t.Run(name, func(t *testing.T) {
			want := sh(look)
			if strings.TrimSpace(want) == "" {
				t.Fatal("there is nothing to be harmed")
			}
			sh(harm)
			began := time.Now()
			for ; ; time.Sleep(20 * time.Millisecond) {
				var out bytes.Buffer
				if err := l.Exec("node1", []string{"sh", "-ec", look}, lab.Stdio{Out: &out, Err: &out}); err == nil && out.String() == want {
					t.Logf("back after %v", time.Since(began).Round(10*time.Millisecond))
					break
				}
				if time.Since(began) > patience {
					t.Fatalf("not back after %v: %s\nwant %s", patience, &out, want)
				}
			}
		})
	}
	short := false // the interval of resyncs
	for _, tt := range []struct {
		name, look, harm string
		told             bool // by the kernel; these come first
	}{
		{"a pod's route is deleted", routes, "ip route del " + addr, true},
		{"a pod's IPv6 route is deleted", routes, "ip -6 route del " + addr6, true},
		{"a pod's route leads elsewhere", routes, "ip route replace " + addr + " via 10.10.1.2 proto 80", true},
		{"the blackholes of the blocks are deleted", routes, "ip route show type blackhole proto 80 | while read type dst rest; do ip route del blackhole $dst; done", true},
		{"a route of ours is added that nobody asked for", routes, "ip route add 10.65.200.0/26 via 10.10.1.2 proto 80", true},
		{"the routes into the tunnel are deleted", routes, "ip route flush proto 80 dev vxlan.calico", true},
		{"the routes of BGP are deleted", "ip -6 route show proto 81 | sort", "ip -6 route flush proto 81", true},
		{"the tunnel's device is deleted", routes + ";" + vxlan, "ip link del vxlan.calico", true},
		{"the tunnel's device is switched off", routes + ";" + vxlan, "ip link set vxlan.calico down", true},
		{"the tunnel's MTU is changed", vxlan, "ip link set vxlan.calico mtu 1300", true},
		{"the packet rules are flushed", rules, "nft flush chain inet tortie nat-outgoing", true},
		{"an address is added to a set", rules, "nft add element inet tortie exempt-ipv4 '{ 192.0.2.0/24 }'", true},
		{"an FDB entry is deleted", vxlan, "bridge fdb show dev vxlan.calico | head -1 | while read mac rest; do bridge fdb del $mac dev vxlan.calico; done", true},
		{"an FDB entry leads elsewhere", vxlan, "bridge fdb show dev vxlan.calico | head -1 | while read mac rest; do bridge fdb replace $mac dev vxlan.calico dst 10.10.1.77; done", true},
		{"a neighbour in the tunnel is deleted", vxlan, "ip neigh show dev vxlan.calico | head -1 | while read ip rest; do ip neigh del $ip dev vxlan.calico; done", true},
		{"the tunnel's address is taken away", routes + ";" + vxlan, "ip -4 addr flush dev vxlan.calico", true},
		{"the tunnel has another address besides", vxlan, "ip addr add 203.0.113.5/32 dev vxlan.calico", true},
		{"forwarding is switched off", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding", "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding", true},
		{"forwarding of the tunnel is switched off", "cat /proc/sys/net/ipv4/conf/vxlan.calico/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/vxlan.calico/forwarding", true},
		{"a pod's device is switched off", routes + ";" + pod1, "ip link set " + device + " down", true},
		{"a pod's device has another MTU", pod1, "ip link set " + device + " mtu 1300", true},
		{"a pod's device has an MTU without IPv6", routes + ";" + pod1, "ip link set " + device + " mtu 1000", true},
		{"a pod's device has another MAC address", pod1, "ip link set " + device + " address 02:00:00:00:00:01", true},
		{"a pod's device does not forward", pod1, "echo 0 > " + v4 + "forwarding; echo 0 > " + v6 + "forwarding", true},
		{"a pod's device checks nothing, and answers nobody", pod1, "echo 0 > " + v4 + "rp_filter; echo 0 > " + v4 + "proxy_arp; echo 0 > " + v6 + "proxy_ndp", true},
		{"the gateway's address is taken away", pod1, "ip -6 addr flush dev " + device, true},
		{"IPv6 is switched off", routes + ";" + pod1, "echo 1 > " + v6 + "disable_ipv6", true},
		{"the node's loopback no longer leads to a pod", "cat " + loopback, "echo 0 > " + loopback, false},
		{"a pod's device listens to routers", pod1, "echo 1 > " + v6 + "accept_ra", false},
	} {
		if short != !tt.told {
			short = true
			apply(t, l, manifestHead+"kind: FelixConfiguration\nmetadata: {name: default}\nspec: {routeRefreshInterval: 1s}\n")
		}
		mends(t, tt.name, tt.look, tt.harm)
	}
	t.Run("host encryption", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.Tun)
		setVXLANMode(t, l, "Never")        // and natOutgoing
		setWireGuard(t, l, true, hostsToo) // and the default interval
		hostsLed(t, l, true)
		ways := "ip rule show pref 99; ip -6 rule show pref 99; ip route show table 1 | sort; ip -6 route show table 1 | sort"
		for _, tt := range []struct{ name, harm string }{
			{"its rule is removed", "ip rule del pref 99"},
			{"its IPv6 rule is removed", "ip -6 rule del pref 99"},
			{"a rule like its own is added that nobody asked for", "ip rule add fwmark 7 lookup 1 pref 99 proto 80"},
			{"a route is removed", "ip route del 10.10.1.2 table 1"},
			{"an IPv6 route is removed", "ip -6 route del fd10:0:0:1::2 table 1"},
			{"a route leads elsewhere", "ip route replace 10.10.1.2 via 10.10.1.254 table 1 proto 80"},
			{"all are removed", "ip rule del pref 99; ip -6 rule del pref 99; ip route flush table 1; ip -6 route flush table 1"},
		} {
			mends(t, tt.name, ways, tt.harm)
		}
		mends(t, "its device is deleted", ways, "ip link del wireguard.cali")
		mends(t, "its packet rules are flushed", rules, "nft flush chain inet tortie wireguard-hosts-in")
		mends(t, "its rules of ARP are deleted", "nft list table arp tortie", "nft delete table arp tortie")
		if said := sh("timeout 3 ip monitor rule route || true"); said != "" {
			t.Errorf("nobody changes anything, and the kernel tells of\n%s", said)
		}
		setWireGuard(t, l, true, hostsToo, "routeRefreshInterval: 1s")
		mends(t, "the mark does not count any more for the reverse path", "cat /proc/sys/net/ipv4/conf/all/src_valid_mark", "echo 0 > /proc/sys/net/ipv4/conf/all/src_valid_mark")
	})
	if after := sh(theirs); after != before {
		t.Errorf("what others have made is now\n%s\nand was\n%s", after, before)
	}
	if err := l.DelPod(t.Context(), "port"); err != nil {
		t.Error(err)
	}
	mustConverge(t, l)
}

// podWithHostPort makes a pod to which a port of node1 leads, and returns the file of the
// setting that lets the node's own loopback lead there.
func podWithHostPort(t *testing.T, l *lab.Lab) (setting string) {
	t.Helper()
	pod, err := l.Sandbox(lab.PodSpec{Name: "port", Node: "node1"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.CNIWith(t.Context(), "ADD", pod, changed(t, func(c map[string]any) {
		c["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	var result struct{ Interfaces []struct{ Name string } }
	if err := json.Unmarshal(out, &result); err != nil || len(result.Interfaces) == 0 {
		t.Fatalf("result %s: %v", out, err)
	}
	return "/proc/sys/net/ipv4/conf/" + result.Interfaces[0].Name + "/route_localnet"
}

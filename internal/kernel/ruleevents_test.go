package kernel_test

import (
	"context"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// TestChangesOfRulesAreToldOfOneTable: the changes of others wake nobody, which shows
// here in that what is told first is ours.
func TestChangesOfRulesAreToldOfOneTable(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	ns := kerneltest.NewNetns(t)
	h := kerneltest.Open(t, ns)
	told, err := h.RuleChanges(t.Context(), "ours", nil)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := h.RuleChanges(t.Context(), "theirs", nil)
	if err != nil {
		t.Fatal(err)
	}
	nft := func(script string) {
		t.Helper()
		if err := ns.Do(func() error { return exec.Command("nft", script).Run() }); err != nil {
			t.Fatal(err)
		}
	}
	comes := func(what string, from <-chan struct{}) {
		t.Helper()
		select {
		case <-from:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not told", what)
		}
	}
	nft("add table inet theirs; add chain inet theirs c; add rule inet theirs c accept")
	comes("another table, to who asks for it,", theirs)
	select {
	case <-told:
		t.Error("another table is told")
	default:
	}
	nft("add table inet ours")
	comes("the table", told)
	for _, script := range []string{
		"add chain inet ours c", "add rule inet ours c accept", "add set inet ours s { type ipv4_addr; }", "add element inet ours s { 192.0.2.1 }",
		"delete element inet ours s { 192.0.2.1 }", "flush chain inet ours c", "delete table inet ours",
	} {
		for len(told) > 0 {
			<-told
		}
		nft(script)
		comes(script, told)
	}
}

// TestOwnChangesOfRulesAreNotTold: who made one is known by its process.
func TestOwnChangesOfRulesAreNotTold(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	ns := kerneltest.NewNetns(t)
	h := kerneltest.Open(t, ns)
	asked := make(chan uint32, 100)
	told, err := h.RuleChanges(t.Context(), "ours", func(port uint32) bool { asked <- port; return true })
	if err != nil {
		t.Fatal(err)
	}
	var nft *exec.Cmd
	if err := ns.Do(func() error {
		nft = exec.Command("nft", "add table inet ours")
		return nft.Run()
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case port := <-asked:
		if int(port) != nft.Process.Pid {
			t.Errorf("the change is said to be of %d, and is of %d", port, nft.Process.Pid)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the change is not told")
	}
	select {
	case <-told:
		t.Error("an own change is told")
	default:
	}
}

func TestChangesOfRulesEndWithTheirContext(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	h := kerneltest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	told, err := h.RuleChanges(ctx, "ours", nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range told {
		t.Error("something was told")
	}
}

// TestChangesOfTunnelsAndQueuesAreTold when somebody else makes them.
func TestChangesOfTunnelsAndQueuesAreTold(t *testing.T) {
	kerneltest.Require(t, kerneltest.Vxlan)
	ns := kerneltest.NewNetns(t)
	h := kerneltest.Open(t, ns)
	l, err := h.CreateVxlan(kernel.VxlanSpec{Name: "vx0", MAC: kernel.MAC{0x66, 0, 0, 0, 0, 1}, MTU: 1400, Vxlan: kernel.Vxlan{VNI: 7, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}})
	if err == nil {
		err = h.SetUp(l.Index)
	}
	if err != nil {
		t.Fatal(err)
	}
	tunnels, err := h.TunnelChanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	queues, err := h.QueueChanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, command string
		from          <-chan struct{}
	}{
		{"a neighbour is set", "ip neigh add 10.65.9.1 lladdr 66:00:00:00:00:02 dev vx0 nud permanent", tunnels},
		{"and is removed", "ip neigh del 10.65.9.1 dev vx0", tunnels},
		{"an entry of the FDB is set", "bridge fdb add 66:00:00:00:00:02 dev vx0 dst 192.0.2.2", tunnels},
		{"leads elsewhere", "bridge fdb replace 66:00:00:00:00:02 dev vx0 dst 192.0.2.3", tunnels},
		{"and is removed", "bridge fdb del 66:00:00:00:00:02 dev vx0 dst 192.0.2.3", tunnels},
		{"a bucket is set", "tc qdisc add dev vx0 root tbf rate 1mbit burst 10k latency 10ms", queues},
		{"and is removed", "tc qdisc del dev vx0 root", queues},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for len(tt.from) > 0 {
				<-tt.from
			}
			if err := ns.Do(func() error { return exec.Command("sh", "-c", tt.command).Run() }); err != nil {
				t.Fatalf("%s: %v", tt.command, err)
			}
			select {
			case <-tt.from:
			case <-time.After(10 * time.Second):
				t.Errorf("%s is not told", tt.command)
			}
		})
	}
	t.Run("what is our own, or learned, is not", func(t *testing.T) {
		for len(tunnels) > 0 {
			<-tunnels
		}
		own := kernel.Neighbour{Link: l.Index, IP: netip.MustParseAddr("10.65.9.5"), MAC: kernel.MAC{0x66, 0, 0, 0, 0, 5}}
		if err := h.SetNeighbour(own); err != nil {
			t.Fatal(err)
		}
		if err := h.DeleteNeighbour(own.Link, own.IP); err != nil {
			t.Fatal(err)
		}
		if err := ns.Do(func() error {
			return exec.Command("ip", "neigh", "add", "10.65.9.7", "lladdr", "66:00:00:00:00:07", "dev", "vx0", "nud", "reachable").Run()
		}); err != nil {
			t.Fatal(err)
		}
		if len(tunnels) > 0 {
			t.Error("it is told")
		}
	})
}

// routing is what was said of a change.
type routing struct {
	table    int
	protocol kernel.Protocol
}

// TestChangesOfRoutingAreTold when somebody else makes them, of rules and of tables that are
// not the kernel's; nothing of what this Handle does itself.
func TestChangesOfRoutingAreTold(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.IPRoute2)
	ns := kerneltest.NewNetns(t)
	h := kerneltest.Open(t, ns)
	l, err := h.CreateVeth(kernel.VethSpec{Host: "up0", Peer: "other", PeerNetns: kerneltest.NewNetns(t)})
	if err == nil {
		err = h.SetUp(l.Index)
	}
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan routing, 100)
	told, err := h.RoutingChanges(t.Context(), func(table int, protocol kernel.Protocol) bool {
		asked <- routing{table, protocol}
		return protocol == kernel.ProtocolFelix || table == 1
	})
	if err != nil {
		t.Fatal(err)
	}
	sh := func(t *testing.T, command string) {
		t.Helper()
		if err := ns.Do(func() error { return exec.Command("sh", "-ec", command).Run() }); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
	asks := func(t *testing.T, want routing) {
		t.Helper()
		select {
		case got := <-asked:
			if got != want {
				t.Errorf("it is said of %+v, want %+v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it is not said")
		}
	}
	for _, tt := range []struct {
		name, command string
		of            routing
		told          bool
	}{
		{"a rule of ours", "ip rule add not fwmark 0x100000/0x100000 lookup 1 pref 99 proto 80", routing{1, 80}, true},
		{"its end", "ip rule del pref 99", routing{1, 80}, true},
		{"a rule of IPv6", "ip -6 rule add lookup 300 pref 98 proto 80", routing{300, 80}, true},
		{"another's rule", "ip rule add from 192.0.2.1 lookup 77 proto 3", routing{77, 3}, false},
		{"a route in our table", "ip route add 192.0.2.2 dev up0 table 1 proto 80", routing{1, 80}, true},
		{"another in its place", "ip route replace 192.0.2.2 dev lo table 1", routing{1, 3}, true},
		{"its end", "ip route del 192.0.2.2 table 1", routing{1, 3}, true},
		{"a route of IPv6", "ip -6 route add 2001:db8::2 dev up0 table 1 proto 80", routing{1, 80}, true},
		{"a route in a table of a large number", "ip route add 192.0.2.3 dev up0 table 1000 proto 80", routing{1000, 80}, true},
		{"another's table", "ip route add 192.0.2.4 dev up0 table 77", routing{77, 3}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for len(told) > 0 {
				<-told
			}
			sh(t, tt.command)
			asks(t, tt.of)
			if !tt.told {
				return
			}
			select {
			case <-told:
			case <-time.After(10 * time.Second):
				t.Error("it is not told")
			}
		})
	}
	t.Run("what is our own, or in the kernel's tables, is not asked about", func(t *testing.T) {
		rule := kernel.Rule{Family: kernel.IPv4, Priority: 50, Table: 1, Protocol: kernel.ProtocolFelix}
		route := kernel.Route{Dst: netip.MustParsePrefix("192.0.2.9/32"), Table: 1, Protocol: kernel.ProtocolFelix, Scope: kernel.ScopeLink, Link: l.Index}
		for _, do := range []func() error{
			func() error { return h.AddRule(rule) }, func() error { return h.AddRoute(route) },
			func() error { return h.DeleteRoute(route) }, func() error { return h.DeleteRule(rule) },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		sh(t, "ip route add 192.0.2.5 dev up0 proto 80; ip -6 route add 2001:db8::5 dev up0 proto 80; ip addr add 198.51.100.1/32 dev up0")
		sh(t, "ip rule del from 192.0.2.1 lookup 77") // the kernel tells in order
		asks(t, routing{77, 3})
	})
}

// TestSettingsThatAreSwitchedOffAreTold whoever writes them, and neither those that are
// switched on nor what a device is made with.
func TestSettingsThatAreSwitchedOffAreTold(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6)
	h := kerneltest.New(t)
	set := func(name, value string) {
		t.Helper()
		if err := h.SetSysctls([]kernel.Setting{{Name: name, Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
	told, err := h.SettingChanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.CreateVeth(kernel.VethSpec{Host: "cali0", Peer: "p0"}); err != nil {
		t.Fatal(err)
	}
	settings := []string{
		"ipv4/ip_forward", "ipv4/conf/cali0/forwarding", "ipv4/conf/cali0/rp_filter", "ipv4/conf/cali0/proxy_arp",
		"ipv6/conf/all/forwarding", "ipv6/conf/cali0/forwarding", "ipv6/conf/cali0/proxy_ndp",
	}
	for _, name := range settings {
		set(name, "1")
	}
	set("ipv4/conf/cali0/ignore_routes_with_linkdown", "1")
	set("ipv4/conf/cali0/ignore_routes_with_linkdown", "0")
	if len(told) > 0 {
		t.Error("what is made, or switched on, is told")
	}
	for _, name := range settings {
		t.Run(name, func(t *testing.T) {
			set(name, "1")
			for len(told) > 0 {
				<-told
			}
			set(name, "0")
			select {
			case <-told:
			case <-time.After(10 * time.Second):
				t.Error("it is not told")
			}
		})
	}
}

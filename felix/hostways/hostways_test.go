package hostways_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tortie/felix/hostways"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/routetable"
)

type world struct {
	*testing.T
	ns   *kernel.Netns
	k    *kernel.Handle
	ways *hostways.Ways
	link int
	log  *strings.Builder
}

func newWorld(t *testing.T) *world {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6)
	w := &world{T: t, ns: kerneltest.NewNetns(t), log: &strings.Builder{}}
	w.k = kerneltest.Open(t, w.ns)
	link, err := w.k.CreateVeth(kernel.VethSpec{Host: "wg", Peer: "other", PeerNetns: kerneltest.NewNetns(t)})
	w.must(err)
	w.must(w.k.SetUp(link.Index))
	w.link = link.Index
	for _, a := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
		w.must(w.k.AddAddress(link.Index, netip.MustParsePrefix(a)))
	}
	w.ways = hostways.New(w.k, slog.New(slog.NewTextHandler(w.log, nil)))
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// set leads packets to nodes out of the device.
func (w *world) set(nodes ...string) {
	w.Helper()
	for _, v6 := range []bool{false, true} {
		from := netip.MustParseAddr("192.0.2.1")
		if v6 {
			from = netip.MustParseAddr("2001:db8::1")
		}
		var ways []hostways.Way
		for _, n := range nodes {
			if to := netip.MustParseAddr(n); to.Is6() == v6 {
				ways = append(ways, hostways.Way{To: to, From: from, Link: w.link})
			}
		}
		w.ways.Set(v6, ways)
	}
	w.must(w.ways.Apply(w.Context()))
}

// state is what the kernel has of felix: the rules, and the routes in some tables.
func (w *world) state() (out []string) {
	w.Helper()
	rules, err := w.k.Rules(w.Context(), kernel.ProtocolFelix)
	w.must(err)
	for _, r := range rules {
		out = append(out, r.String())
	}
	for _, table := range []int{1, 7, kernel.TableMain} {
		routes, err := w.k.Routes(w.Context(), kernel.RouteFilter{Table: table, Protocol: kernel.ProtocolFelix})
		w.must(err)
		for _, r := range routes {
			out = append(out, r.Dst.String())
		}
	}
	return out
}

func (w *world) want(what string, want ...string) {
	w.Helper()
	if got := w.state(); !slices.Equal(got, want) {
		w.Errorf("%s: the kernel has\n%q, want\n%q\n%s", what, got, want, w.log)
	}
}

const (
	rule4 = "ipv4 99: not fwmark 0x100000/0x100000 lookup 1 proto 80"
	rule6 = "ipv6 99: not fwmark 0x100000/0x100000 lookup 1 proto 80"
)

// TestWaysComeAndGo: one rule a version of IP while there is a way in it, wherever the
// settings say, and what an earlier process has left is taken over.
func TestWaysComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.set("192.0.2.2")
	w.want("one node", rule4, "192.0.2.2/32")
	if mark, err := w.k.Sysctl("ipv4/conf/all/src_valid_mark"); err != nil || mark != "1" {
		t.Errorf("src_valid_mark is %q: %v", mark, err)
	}
	w.set("192.0.2.2", "192.0.2.3", "2001:db8::2")
	w.want("more", rule4, rule6, "192.0.2.2/32", "192.0.2.3/32", "2001:db8::2/128")
	w.ways.Configure(hostways.Settings{Table: 7, Priority: 50})
	w.must(w.ways.Apply(t.Context()))
	w.want("elsewhere", strings.NewReplacer("99", "50", "lookup 1", "lookup 7").Replace(rule4), strings.NewReplacer("99", "50", "lookup 1", "lookup 7").Replace(rule6),
		"192.0.2.2/32", "192.0.2.3/32", "2001:db8::2/128")
	w.ways = hostways.New(w.k, slog.New(slog.DiscardHandler)) // a restart, with other settings
	w.set("192.0.2.3")
	w.want("after a restart", rule4, "192.0.2.3/32")
	w.set()
	w.want("none")
	if mark, err := w.k.Sysctl("ipv4/conf/all/src_valid_mark"); err != nil || mark != "1" {
		t.Errorf("src_valid_mark is %q, and was to stay: %v", mark, err)
	}
}

// TestOthersRulesStay, and their routes in the table.
func TestOthersRulesStay(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPRoute2)
	w := newWorld(t)
	w.must(w.ns.Do(func() error {
		return exec.Command("sh", "-c", "ip rule add fwmark 1 lookup 1 pref 99 && ip route add 198.51.100.0/24 dev wg table 1").Run()
	}))
	w.set("192.0.2.2")
	w.set()
	var out []byte
	w.must(w.ns.Do(func() (err error) {
		out, err = exec.Command("sh", "-c", "ip rule; ip route show table 1").CombinedOutput()
		return err
	}))
	if !strings.Contains(string(out), "fwmark 0x1 lookup 1") || !strings.Contains(string(out), "198.51.100.0/24") {
		t.Errorf("there is left\n%s", out)
	}
}

// TestWhatIsRightIsNotWritten again, and what is wrong is mended: another's conditions on
// the rule, and twice the rule.
func TestWhatIsRightIsNotWritten(t *testing.T) {
	w := newWorld(t)
	w.set("192.0.2.2")
	w.log.Reset()
	w.must(w.ways.Apply(t.Context()))
	if w.log.Len() > 0 {
		t.Errorf("something was done:\n%s", w.log)
	}
	w.must(w.k.AddRule(kernel.Rule{Family: kernel.IPv4, Priority: 98, Table: 7, Protocol: kernel.ProtocolFelix}))
	w.must(w.ways.Apply(t.Context()))
	w.want("a rule too many", rule4, "192.0.2.2/32")
}

// TestAWayIsAbandoned by a process that knows nothing else, until it knows more.
func TestAWayIsAbandoned(t *testing.T) {
	w := newWorld(t)
	w.set("192.0.2.2", "192.0.2.3")
	next := hostways.New(w.k, slog.New(slog.DiscardHandler))
	w.must(next.Abandon(t.Context(), func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.3") }))
	w.want("abandoned", rule4, "192.0.2.2/32")
	w.must(w.ways.Apply(t.Context()))
	w.want("again", rule4, "192.0.2.2/32", "192.0.2.3/32")
}

// TestWhatOthersChangeIsHeardOf and mended, which itself is not heard of: one change never
// has the ways looked at again and again.
func TestWhatOthersChangeIsHeardOf(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPRoute2)
	w := newWorld(t)
	heard := make(chan string, 100)
	told, err := w.k.RoutingChanges(t.Context(), func(table int, by kernel.Protocol) bool {
		concerns := w.ways.Concerns(table, by)
		heard <- fmt.Sprintf("table %d by %d: %v", table, by, concerns)
		return concerns
	})
	w.must(err)
	do := func(command string) {
		t.Helper()
		w.must(w.ns.Do(func() error { return exec.Command("sh", "-ec", command).Run() }))
	}
	hears := func(what string, want ...string) {
		t.Helper()
		do("ip rule add lookup 77 proto 3; ip rule del lookup 77 proto 3") // the kernel tells in order
		for _, want := range append(want, "table 77 by 3: false", "table 77 by 3: false") {
			select {
			case got := <-heard:
				if got != want {
					t.Errorf("%s: heard of %s, want %s", what, got, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: not heard of %s", what, want)
			}
		}
	}
	w.set()
	do("ip route add 198.51.100.0/24 dev wg table 1")
	hears("another's table while nothing is led", "table 1 by 3: false")
	w.set("192.0.2.2", "2001:db8::2")
	w.must(w.ways.Apply(t.Context()))
	hears("what is done here")
	all := []string{rule4, rule6, "192.0.2.2/32", "2001:db8::2/128"}
	for _, harm := range []struct{ name, command, heard string }{
		{"the rule is removed", "ip rule del pref 99", "table 1 by 80: true"},
		{"the rule of IPv6 is removed", "ip -6 rule del pref 99", "table 1 by 80: true"},
		{"a route is removed", "ip route del 192.0.2.2 table 1", "table 1 by 80: true"},
		{"a route of IPv6 is removed", "ip -6 route del 2001:db8::2 table 1", "table 1 by 80: true"},
		{"a route leads elsewhere", "ip route change 192.0.2.2 dev lo scope link src 192.0.2.1 proto 80 table 1", "table 1 by 80: true"},
		{"a rule like ours is added", "ip rule add lookup 7 pref 98 proto 80", "table 7 by 80: true"},
	} {
		for len(told) > 0 {
			<-told
		}
		do(harm.command)
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not told", harm.name)
		}
		w.log.Reset()
		w.must(w.ways.Apply(t.Context()))
		w.want(harm.name, all...)
		if !strings.Contains(w.log.String(), "level=WARN") {
			t.Errorf("%s: nobody is told: %s", harm.name, w.log)
		}
		w.must(w.ways.Apply(t.Context()))
		hears(harm.name, harm.heard)
	}
	do("ip route replace 192.0.2.2 dev lo table 1")
	hears("another's route in the place of ours", "table 1 by 3: true")
	if err := w.ways.Apply(t.Context()); !errors.As(err, new(*routetable.ConflictError)) {
		t.Errorf("another's route is no conflict: %v", err)
	}
	do("ip route del 192.0.2.2 table 1")
	hears("it is gone", "table 1 by 3: true")
	w.must(w.ways.Apply(t.Context()))
	w.want("another's route is gone", all...)
}

package hostways_test

import (
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tortie/felix/hostways"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
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

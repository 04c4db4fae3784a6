package daemon_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tortie/bgpd/daemon"
	"tortie/bgpd/speaker"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// The lab of these tests: a leaf that is bgpd, and a far host behind two spines, which
// are BIRD.
//
//	           ┌─ spine1 10.1.1.1 ── 10.2.1.2 ─┐
//	leaf ──────┤                               ├─ far 10.65.9.1 …
//	10.65.1.1 …└─ spine2 10.1.2.1 ── 10.2.2.2 ─┘

// flows are the packets under way, each between addresses of its own: by those the
// kernel chooses among next hops.
const flows = 4

// fabricRoutes is how many further routes the spines announce.
const fabricRoutes = 200

const spineConfig = `
log stderr { warning, error, fatal };
router id 10.1.SPINE.1;
protocol device { scan time 1; }
protocol static s4 { ipv4; route 10.65.9.0/26 blackhole; MORE }
protocol static s6 { ipv6; route fd65:9::/122 blackhole; }
protocol bgp leaf4 {
  local 10.1.SPINE.1 as 64999; neighbor 10.1.SPINE.2 as 64512; connect delay time 1; error wait time 1, 3;
  ipv4 { import none; export all; };
}
protocol bgp leaf6 {
  local fd01:SPINE::1 as 64999; neighbor fd01:SPINE::2 as 64512; connect delay time 1; error wait time 1, 3;
  ipv6 { import none; export all; };
}
`

// newFabric is the lab without any BGP.
func newFabric(t *testing.T) *lab {
	t.Parallel()
	kerneltest.Require(t, kerneltest.Netns, kerneltest.Veth, kerneltest.IPv6)
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := &lab{t: t, dir: t.TempDir(), ns: map[string]*kernel.Netns{}, proc: map[string]*exec.Cmd{}}
	for _, name := range []string{"leaf", "spine1", "spine2", "far"} {
		l.ns[name] = kerneltest.NewNetns(t)
		l.run(name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.router_solicitations=0",
			"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
			"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	}
	for i := range flows {
		for ns, block := range map[string]int{"leaf": 1, "far": 9} {
			l.run(ns, "ip", "addr", "add", fmt.Sprintf("10.65.%d.%d/32", block, i+1), "dev", "lo")
			l.run(ns, "ip", "addr", "add", fmt.Sprintf("fd65:%d::%d/128", block, i+1), "dev", "lo")
		}
	}
	for i := 1; i <= 2; i++ {
		spine := fmt.Sprint("spine", i)
		l.wire(spine, "leaf", fmt.Sprintf("10.1.%d", i), fmt.Sprintf("fd01:%d:", i))
		l.wire(spine, "far", fmt.Sprintf("10.2.%d", i), fmt.Sprintf("fd02:%d:", i))
		l.run(spine, "ip", "route", "add", "10.65.9.0/26", "via", fmt.Sprintf("10.2.%d.2", i))
		l.run(spine, "ip", "-6", "route", "add", "fd65:9::/122", "via", fmt.Sprintf("fd02:%d::2", i))
	}
	return l
}

// wire connects a spine, .1, with another, .2.
func (l *lab) wire(spine, to, net4, net6 string) {
	l.t.Helper()
	h := kerneltest.Open(l.t, l.ns[spine])
	if _, err := h.CreateVeth(kernel.VethSpec{Host: to, Peer: spine, PeerNetns: l.ns[to]}); err != nil {
		l.t.Fatal(err)
	}
	for host, end := range map[string]string{"1": spine + " " + to, "2": to + " " + spine} {
		ns, dev, _ := strings.Cut(end, " ")
		l.run(ns, "ip", "link", "set", dev, "up")
		l.run(ns, "ip", "addr", "add", net4+"."+host+"/24", "dev", dev)
		l.run(ns, "ip", "addr", "add", net6+":"+host+"/64", "dev", dev)
	}
}

func (l *lab) startSpine(i int) {
	l.t.Helper()
	var more strings.Builder
	for n := range fabricRoutes {
		fmt.Fprintf(&more, "route 10.66.%d.0/24 blackhole; ", n)
	}
	l.bird(fmt.Sprint("spine", i), strings.NewReplacer("SPINE", fmt.Sprint(i), "MORE", more.String()).Replace(spineConfig))
}

// bird starts BIRD in the namespace of its name.
func (l *lab) bird(name, conf string) {
	l.t.Helper()
	path := filepath.Join(l.dir, name+".conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("bird", "-f", "-c", path, "-s", filepath.Join(l.dir, name+".ctl"))
	cmd.Stderr = l.t.Output()
	if err := l.ns[name].Do(cmd.Start); err != nil {
		l.t.Fatal(err)
	}
	l.proc[name] = cmd
	l.t.Cleanup(func() { l.end(name, syscall.SIGKILL) })
}

// startLeaf starts bgpd as a peer of the spines.
func (l *lab) startLeaf() {
	st := daemon.Static{Name: "leaf", Socket: l.socket("leaf"), Global: speaker.Global{
		ASN: 64512, RouterID: netip.MustParseAddr("10.1.1.2"), Port: 179,
		Listen: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()},
	}}
	for i := 1; i <= 2; i++ {
		for _, a := range []string{fmt.Sprintf("10.1.%d.1", i), fmt.Sprintf("fd01:%d::1", i)} {
			st.Peers = append(st.Peers, speaker.Peer{Address: netip.MustParseAddr(a), ASN: 64999, RestartTime: time.Minute})
		}
	}
	l.start(child{Name: "leaf", Static: &st})
}

// ways waits until the leaf reaches the far pods, and whatever else the spines
// announce, by these devices and no others.
func (l *lab) ways(devices ...string) {
	l.t.Helper()
	l.until("routes by "+strings.Join(devices, " and "), func() (bool, string) {
		v4, v6 := l.run("leaf", "ip", "route", "show", "proto", "81"), l.run("leaf", "ip", "-6", "route", "show", "proto", "81")
		for _, dev := range []string{"spine1", "spine2"} {
			want := 0
			for _, d := range devices {
				if d == dev {
					want = 1
				}
			}
			if n := strings.Count(v4, "dev "+dev+" "); n != want*(1+fabricRoutes) {
				return false, fmt.Sprintf("%d IPv4 routes by %s", n, dev)
			}
			if n := strings.Count(v6, "dev "+dev+" "); n != want {
				return false, fmt.Sprintf("%d IPv6 routes by %s in\n%s", n, dev, v6)
			}
		}
		return true, ""
	})
}

// TestECMPOfTwoBIRDPeersSurvivesTheDeathOfOne: the routes that both spines announce have
// both as next hops; when the BGP of one dies they all move to the other with no packet
// lost, and no packet goes to the dead one any more.
func TestECMPOfTwoBIRDPeersSurvivesTheDeathOfOne(t *testing.T) {
	l := newFabric(t)
	l.startSpine(1)
	l.startSpine(2)
	l.startLeaf()
	l.ways("spine1", "spine2")
	if kerneltest.Has(kerneltest.NextHops) {
		groups := strings.Count(l.run("leaf", "ip", "nexthop", "show"), " group ")
		if groups != 2 {
			t.Errorf("%d groups of next hops, want one for each family:\n%s", groups, l.run("leaf", "ip", "nexthop", "show"))
		}
	}
	l.showsBothWays()
	var stops []func() (int, int)
	for i := range flows {
		stops = append(stops,
			l.traffic("leaf", fmt.Sprintf("10.65.1.%d", i+1), "far", fmt.Sprintf("10.65.9.%d", i+1)),
			l.traffic("leaf", fmt.Sprintf("fd65:1::%d", i+1), "far", fmt.Sprintf("fd65:9::%d", i+1)))
	}
	began := time.Now()
	l.end("spine1", syscall.SIGKILL)
	l.ways("spine2")
	t.Logf("%d routes moved %s after the peer's death", fabricRoutes+2, time.Since(began).Round(time.Millisecond))
	l.run("spine1", "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
	l.ways("spine2")
	for _, stop := range stops {
		if sent, lost := stop(); lost != 0 {
			t.Errorf("%d of %d packets lost", lost, sent)
		}
	}
	l.startSpine(1)
	l.ways("spine1", "spine2")

	// A link that goes takes its next hop along, and nothing else.
	l.run("leaf", "ip", "link", "set", "spine2", "down")
	l.ways("spine1")
	l.end("leaf", syscall.SIGKILL)
	l.ways("spine1") // forwarding outlives bgpd
	l.startLeaf()
	l.run("leaf", "ip", "link", "set", "spine2", "up")
	l.run("leaf", "ip", "addr", "add", "fd01:2::2/64", "dev", "spine2") // gone with the link
	l.ways("spine1", "spine2")
	for _, i := range []int{1, 2} {
		l.end(fmt.Sprint("spine", i), syscall.SIGKILL)
	}
	l.ways()
	l.until("the next-hop objects to go", func() (bool, string) {
		out := l.run("leaf", "ip", "nexthop", "show")
		return !strings.Contains(out, "proto 81"), out
	})
}

// showsBothWays: the status names both next hops, and both paths as best.
func (l *lab) showsBothWays() {
	l.t.Helper()
	resp, err := l.status("leaf").Routes(l.t.Context(), &nodestatus.RoutesRequest{Prefix: "10.65.9.0/26"})
	if err != nil {
		l.t.Fatal(err)
	}
	if len(resp.Routes) != 2 {
		l.t.Fatalf("%d paths shown, want 2", len(resp.Routes))
	}
	for _, r := range resp.Routes {
		if !r.Best || r.Kernel != "via 10.1.1.1 dev spine1, via 10.1.2.1 dev spine2" || !strings.Contains(r.Reason, "one of 2 equal paths") {
			l.t.Errorf("shown as %+v", r)
		}
	}
}

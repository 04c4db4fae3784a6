package daemon_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tortie/internal/api"
	"tortie/internal/kernel/kerneltest"
)

// birdConfig makes BIRD what upstream makes of it on node2: a mesh session to
// each other node and family, passive where upstream's rule says so.
const birdConfig = `
log stderr { info, warning, error, fatal };
router id 10.1.1.12;
graceful restart wait 30;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; interface "eth0"; }
protocol kernel k4 { scan time 1; persist; ipv4 { import none; export where source = RTS_BGP; }; graceful restart on; }
protocol kernel k6 { scan time 1; persist; ipv6 { import none; export where source = RTS_BGP; }; graceful restart on; }
protocol static s4 { ipv4; route 10.65.2.0/26 blackhole; route 0.0.0.0/0 via 10.1.1.254; }
protocol static s6 { ipv6; route fd65:2::/122 blackhole; route ::/0 via fd01::fe; }
template bgp mesh {
  graceful restart on; graceful restart time 60;
  connect delay time 1; connect retry time 2; error wait time 1, 3;
}
filter blocks { if net ~ [ 10.65.0.0/16+ ] && source = RTS_STATIC then accept; reject; }
filter blocks6 { if net ~ [ fd65::/16+ ] && source = RTS_STATIC then accept; reject; }
protocol bgp node1v4 from mesh {
  local 10.1.1.12 as 64512; neighbor 10.1.1.11 as 64512; passive on;
  ipv4 { import all; export filter blocks; next hop self; };
}
protocol bgp node1v6 from mesh {
  local fd01::12 as 64512; neighbor fd01::11 as 64512; passive on;
  ipv6 { import all; export filter blocks6; next hop self; };
}
protocol bgp node3v4 from mesh {
  local 10.1.1.12 as 64512; neighbor 10.1.2.13 as 64512; multihop;
  ipv4 { import all; export filter blocks; next hop self; };
}
protocol bgp node3v6 from mesh {
  local fd01::12 as 64512; neighbor fd02::13 as 64512; multihop;
  ipv6 { import all; export filter blocks6; next hop self; };
}
protocol bgp routerv4 from mesh {
  local 10.1.1.12 as 64512; neighbor 10.1.1.254 as 64999;
  ipv4 { import none; export filter blocks; };
}
protocol bgp routerv6 from mesh {
  local fd01::12 as 64512; neighbor fd01::fe as 64999;
  ipv6 { import none; export filter blocks6; };
}
`

func (l *lab) startBIRD(flags ...string) {
	l.t.Helper()
	l.startBIRDWith(birdConfig, flags...)
}

// startBIRDWith starts a BIRD on node2.
func (l *lab) startBIRDWith(config string, flags ...string) {
	l.t.Helper()
	conf := filepath.Join(l.dir, "bird.conf")
	if err := os.WriteFile(conf, []byte(strings.TrimSpace(config)), 0o600); err != nil {
		l.t.Fatal(err)
	}
	args := append([]string{"-f", "-c", conf, "-s", filepath.Join(l.dir, "bird.ctl")}, flags...)
	cmd := exec.Command("bird", args...)
	cmd.Stderr = l.t.Output()
	if err := l.ns["node2"].Do(cmd.Start); err != nil {
		l.t.Fatal(err)
	}
	l.proc["bird"] = cmd
	l.t.Cleanup(func() { l.end("bird", syscall.SIGKILL) })
}

// upBIRD is the lab with BIRD in the place of node2's bgpd.
func upBIRD(t *testing.T, more ...api.Object) (*lab, map[string]string) {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := newLab(t)
	store := stored(t, append(resources(), more...))
	l.startNode("node1", store)
	l.startNode("node3", store)
	l.startRouter()
	l.startBIRD()
	l.birdConverged()
	return l, store
}

func (l *lab) birdc(command ...string) string {
	l.t.Helper()
	return l.run("node2", append([]string{"birdc", "-s", filepath.Join(l.dir, "bird.ctl")}, command...)...)
}

func (l *lab) birdConverged() {
	l.t.Helper()
	l.established("node1", 6)
	l.established("node3", 6)
	l.established("router", 6)
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122", "10.65.3.0/26", "fd65:3::/122")
	l.learned("node3", "10.65.2.0/26", "fd65:2::/122", "10.65.1.0/26", "fd65:1::/122")
	l.until("BIRD's routes", func() (bool, string) {
		out := l.run("node2", "ip", "route", "show", "proto", "bird") + l.run("node2", "ip", "-6", "route", "show", "proto", "bird")
		for _, p := range []string{"10.65.1.0/26", "10.65.3.0/26", "fd65:1::/122", "fd65:3::/122"} {
			if !strings.Contains(out, p+" ") {
				return false, p + " not among\n" + out
			}
		}
		return true, ""
	})
}

func TestMeshWithBIRDReachesAllPods(t *testing.T) {
	l, _ := upBIRD(t)
	for _, to := range []string{"10.65.1.1", "10.65.3.1", "fd65:1::1", "fd65:3::1"} {
		from := "10.65.2.1"
		if strings.Contains(to, ":") {
			from = "fd65:2::1"
		}
		l.run("node2", "ping", "-c1", "-W5", "-I", from, to)
	}
}

// TestBIRDKeepsForwardingWhileBgpdIsKilled: BIRD reads the forwarding bit of
// every session and drops our routes where it is missing.
func TestBIRDKeepsForwardingWhileBgpdIsKilled(t *testing.T) {
	l, store := upBIRD(t)
	stop4 := l.traffic("node2", "10.65.2.1", "node1", "10.65.1.1")
	stop6 := l.traffic("node2", "fd65:2::1", "node3", "fd65:3::1")
	for _, name := range []string{"node1", "node3"} {
		l.end(name, syscall.SIGKILL)
		l.startNode(name, store)
	}
	l.birdConverged()
	l.swept("node1")
	l.swept("node3")
	for session, family := range map[string]string{
		"node1v4": "ipv4", "node1v6": "ipv6", "node3v4": "ipv4", "node3v6": "ipv6",
	} {
		out := l.birdc("show", "protocols", "all", session)
		_, neighbor, _ := strings.Cut(out, "Neighbor capabilities")
		neighbor, _, _ = strings.Cut(neighbor, "Session:")
		if !strings.Contains(neighbor, "Restart recovery") || !strings.Contains(neighbor, "AF preserved: "+family) {
			t.Errorf("%s opened without the restart or forwarding bit:\n%s", session, neighbor)
		}
	}
	for name, stop := range map[string]func() (int, int){"IPv4": stop4, "IPv6": stop6} {
		if sent, lost := stop(); lost != 0 {
			t.Errorf("%s: %d of %d packets lost", name, lost, sent)
		}
	}
}

func TestBgpdKeepsForwardingWhileBIRDIsKilled(t *testing.T) {
	l, _ := upBIRD(t)
	stop4 := l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1")
	stop6 := l.traffic("node3", "fd65:3::1", "node2", "fd65:2::1")
	l.end("bird", syscall.SIGKILL)
	l.until("the loss of BIRD to be seen", func() (bool, string) {
		out := l.run("node1", "ip", "route", "show", "proto", "81")
		return strings.Contains(out, "10.65.2.0/26"), out // and the route to be kept all the same
	})
	l.startBIRD("-R")
	l.birdConverged()
	for name, stop := range map[string]func() (int, int){"IPv4": stop4, "IPv6": stop6} {
		if sent, lost := stop(); lost != 0 {
			t.Errorf("%s: %d of %d packets lost", name, lost, sent)
		}
	}
}

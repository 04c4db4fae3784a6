package serviceloop

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kernel/kerneltest/podworld"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestRangesAreWhatIsAnnouncedLessPodsAndNodes(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state State
		want  ruleset.Contents
	}{
		{"nothing announced", State{Others: prefixes("10.65.0.0/16")}, nil},
		{"both versions", State{Services: prefixes("10.96.0.0/12", "fd00:96::/112")}, ruleset.Contents{
			"service-ranges-ipv4": {"10.96.0.0/12"}, "service-ranges-ipv6": {"fd00:96::/112"},
		}},
		{"overlaps", State{Services: prefixes("10.96.0.0/12", "10.96.1.7/24")}, ruleset.Contents{"service-ranges-ipv4": {"10.96.0.0/12"}}},
		{"a node in the range", State{Services: prefixes("192.0.2.0/30"), Others: prefixes("192.0.2.1/32")}, ruleset.Contents{
			"service-ranges-ipv4": {"192.0.2.0/32", "192.0.2.2/31"},
		}},
		{"all of it pods", State{Services: prefixes("10.65.1.0/24"), Others: prefixes("10.65.0.0/16")}, nil},
	} {
		if diff := cmp.Diff(tc.want, contentsOf(tc.state)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestDisabledWritesNothing(t *testing.T) {
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	g := New(Config{NFT: nft})
	g.Set(State{Mode: Disabled, Services: prefixes("10.96.0.0/12")})
	if err := g.Apply(t.Context()); err != nil || nft.Table != nil {
		t.Errorf("%v, table %v", err, nft.Table)
	}
}

// circle is a node and a router that lead what neither knows to one another.
type circle struct {
	podworld.World
	*testing.T
}

const (
	unused, unused6 = "10.67.0.9", "fd00:67::9"
	packetWait      = 5 * time.Second
)

func newCircle(t *testing.T) circle {
	c := circle{podworld.New(t), t}
	router := kerneltest.Open(t, c.Outside)
	podworld.Check(t, router.SetSysctls([]kernel.Setting{
		{Name: "ipv4/conf/all/forwarding", Value: "1"}, {Name: "ipv6/conf/all/forwarding", Value: "1"},
	}))
	node := kerneltest.Open(t, c.Node)
	up, err := node.LinkByName("eth0")
	podworld.Check(t, err)
	for dst, via := range map[string]string{"0.0.0.0/0": podworld.Outside, "::/0": podworld.Outside6} {
		podworld.Check(t, node.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolStatic, Link: up.Index, Gateway: netip.MustParseAddr(via),
		}))
	}
	return c
}

// ask sends a packet from pod A to an address and returns the ICMP error that
// comes back.
func (c circle) ask(address string) error {
	c.Helper()
	var conn *net.UDPConn
	podworld.Check(c.T, c.PodA.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(address), Port: 9})
		return err
	}))
	defer conn.Close()
	raw, err := conn.SyscallConn()
	podworld.Check(c.T, err)
	podworld.Check(c.T, raw.Control(func(fd uintptr) {
		if strings.Contains(address, ":") {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, 1)
		} else {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVERR, 1)
		}
	}))
	podworld.Check(c.T, err)
	_, err = conn.Write([]byte("?"))
	podworld.Check(c.T, err)
	podworld.Check(c.T, conn.SetReadDeadline(time.Now().Add(packetWait)))
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestPacketToAnUnusedServiceAddressGoesRoundUntilItIsRejected(t *testing.T) {
	c := newCircle(t)
	g := New(Config{})
	for _, address := range []string{unused, unused6} {
		if err := c.ask(address); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%s: %v, want its hops to be exhausted", address, err)
		}
	}
	announced := State{Mode: Drop, Services: prefixes("10.67.0.0/24", "fd00:67::/112"), Others: prefixes("10.65.0.0/16")}
	g.Set(announced)
	c.InNode(t, g.Apply)
	announced.Mode = Reject // the rules follow, where the ranges are the same
	g.Set(announced)
	c.InNode(t, g.Apply)
	for _, address := range []string{unused, unused6} {
		if err := c.ask(address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want it to be refused", address, err)
		}
	}
	if err := c.ask(podworld.PodB); !errors.Is(err, syscall.ECONNREFUSED) { // by the pod
		t.Errorf("a pod can't be reached any more: %v", err)
	}
	announced.Mode = Disabled
	g.Set(announced)
	c.InNode(t, g.Apply)
	if err := c.ask(unused); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("still refused though that is switched off: %v", err)
	}
}

// TestDroppedPacketGoesNoFurther: one that goes round is forwarded some thirty
// times.
func TestDroppedPacketGoesNoFurther(t *testing.T) {
	c := newCircle(t)
	g := New(Config{})
	g.Set(State{Mode: Drop, Services: prefixes("10.67.0.0/24")})
	c.InNode(t, g.Apply)
	before := c.forwarded()
	podworld.Check(t, c.PodA.Do(func() error {
		conn, err := net.Dial("udp", net.JoinHostPort(unused, "9"))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("?"))
		return err
	}))
	if err := c.ask(podworld.PodB); !errors.Is(err, syscall.ECONNREFUSED) { // it comes behind the other
		t.Fatal(err)
	}
	// Some kernels count a packet before it meets the rules.
	if n := c.forwarded() - before; n > 3 {
		t.Errorf("%d packets were forwarded, want the two to and from a pod, and the dropped one at most once", n)
	}
}

// forwarded is how many IPv4 packets the node has forwarded.
func (c circle) forwarded() int {
	c.Helper()
	var text []byte
	podworld.Check(c.T, c.Node.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}))
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != "Ip:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "ForwDatagrams" {
				n, err := strconv.Atoi(fields[i])
				podworld.Check(c.T, err)
				return n
			}
		}
	}
	c.Fatal("the kernel doesn't count forwarded packets")
	return 0
}

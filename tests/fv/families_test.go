package fv

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tortie/tests/lab"
	"tortie/tests/lab/agentwire"
)

// TestIPv4IsEnough and TestIPv6IsEnough: everything works in a cluster with addresses of
// one version of IP, and nothing has one of the other.
func TestIPv4IsEnough(t *testing.T) {
	oneFamily(t, family{
		name: "ipv4", other: "-6", gateway: "169.254.1.1", pool: "{name: pool-v4}\nspec: {cidr: 10.65.0.0/16, blockSize: 26",
		drop: func(s *lab.Spec) { s.PoolV6 = netip.Prefix{} }, noPeers: "No IPv6 peers found.",
	})
}

func TestIPv6IsEnough(t *testing.T) {
	oneFamily(t, family{
		name: "ipv6", other: "-4", gateway: "fe80::ecee:eeff:feee:eeee", pool: "{name: pool-v6}\nspec: {cidr: 'fd65::/48', blockSize: 122",
		drop: func(s *lab.Spec) { s.PoolV4, s.Env = netip.Prefix{}, append(s.Env, "IP=none") }, noPeers: "No IPv4 peers found.",
	})
}

// family is a version of IP.
type family struct {
	name, other   string // other is the flag of ip(8) for what there must be nothing of
	gateway, pool string
	drop          func(*lab.Spec)
	noPeers       string
}

func oneFamily(t *testing.T, f family) {
	l := upWith(t, f.name, 3, f.drop)
	addPods(t, l, 4, 2)
	mapped, err := l.AddPod(t.Context(), lab.PodSpec{Name: "mapped", Node: "node3", Containers: 1, RuntimeConfig: map[string]any{
		"portMappings": []map[string]any{{"hostPort": hostPort, "containerPort": agentwire.Port, "protocol": "tcp"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	mustConverge(t, l)
	hasNothingOf(t, l, f.other)
	t.Run("hostPort", func(t *testing.T) { leadsToThePod(t, l, mapped) })
	t.Run("service", func(t *testing.T) { serviceLeadsToThePod(t, l, mapped) })
	t.Run("gateway", func(t *testing.T) { gatewayAnswers(t, l, f.gateway) })
	t.Run("killed", func(t *testing.T) {
		demandNoLossWhileKilled(t, l, []string{"felix", "bgpd"}, []string{"node1", "node2", "node3"})
	})
	t.Run("status", func(t *testing.T) {
		out := run(t, l, "", "calicoctl", "node", "status")
		if !strings.Contains(out, f.noPeers) || strings.Count(out, "| up ") != 3 || strings.Contains(out, "Problems") {
			t.Errorf("%s", out)
		}
	})
	waitStoreSound(t, l, len(l.Pods()))
	for _, spec := range []string{"natOutgoing: false", "natOutgoing: true", "natOutgoing: true, vxlanMode: CrossSubnet"} {
		t.Run(spec, func(t *testing.T) {
			tr := startTraffic(t, l)
			apply(t, l, manifestHead+"kind: IPPool\nmetadata: "+f.pool+", "+spec+"}\n")
			mustConverge(t, l)
			time.Sleep(500 * time.Millisecond) // whatever is taken away late goes in this time
			tr.stopAndDemandNoLoss(t)
		})
	}
	hasNothingOf(t, l, f.other)
}

// hasNothingOf: no node and no pod has an address or a route of the other version of IP,
// but for those of loopback devices, and what the kernel gives every device.
func hasNothingOf(t *testing.T, l *lab.Lab, other string) {
	t.Helper()
	look := func(who string, ask func(args ...string) (string, error)) {
		for _, args := range [][]string{{"ip", other, "-o", "address", "show", "scope", "global"}, {"ip", other, "route", "show", "table", "main"}} {
			out, err := ask(args...)
			if err != nil {
				t.Fatalf("%s: %v: %v", who, args, err)
			}
			for line := range strings.Lines(out) {
				if !strings.HasPrefix(line, "fe80::/64 ") {
					t.Errorf("%s: %s: %s", who, strings.Join(args, " "), line)
				}
			}
		}
	}
	for _, n := range l.Topology().Nodes {
		look(n.Name, func(args ...string) (string, error) {
			var out strings.Builder
			err := l.Exec(n.Name, args, lab.Stdio{Out: &out, Err: io.Discard})
			return out.String(), err
		})
	}
	for _, p := range l.Pods() {
		look(p.Name, func(args ...string) (string, error) { return inPod(l, p, args...) })
		if len(p.Addrs) != 1 {
			t.Errorf("%s has the addresses %v", p.Name, p.Addrs)
		}
	}
}

func inPod(l *lab.Lab, p *lab.Pod, args ...string) (string, error) {
	var out strings.Builder
	err := l.PodExec(p, 0, args, lab.Stdio{Out: &out, Err: &out})
	return out.String(), err
}

const hostPort = 18080

// leadsToThePod: the port of the pod's node leads to it, from outside, from every node and
// from every other pod, and no other node's does.
func leadsToThePod(t *testing.T, l *lab.Lab, pod *lab.Pod) {
	t.Helper()
	from := []string{l.Topology().Outside.Name}
	for _, n := range l.Topology().Nodes {
		from = append(from, n.Name)
	}
	for _, p := range l.Pods() {
		if p != pod {
			from = append(from, p.Agent(0))
		}
	}
	for _, n := range l.Topology().Nodes {
		want := ""
		if n.Name == pod.Node {
			want = pod.Agent(0)
		}
		for _, agent := range from {
			answers(t, l, agent, netip.AddrPortFrom(n.Addresses()[0].Addr(), hostPort), want)
		}
	}
}

// answers: what is sent from an agent to an address is answered by that one, or by nobody,
// who sees the address it is seen from.
func answers(t *testing.T, l *lab.Lab, from string, at netip.AddrPort, by string) (seen netip.Addr) {
	t.Helper()
	resp, err := l.Ask(t.Context(), from, agentwire.Request{Probes: []agentwire.Probe{{Network: "tcp", Target: at, Timeout: 10 * time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	got := resp.Results[0]
	if got.By != by {
		t.Errorf("from %s to %s: answered by %q (%s), want %q", from, at, got.By, got.Err, by)
	}
	return got.Seen
}

// serviceLeadsToThePod: an address that every node rewrites, as kube-proxy has it do, leads
// every other pod and every node to the pod, who sees who it is.
func serviceLeadsToThePod(t *testing.T, l *lab.Lab, pod *lab.Pod) {
	t.Helper()
	family, service := "ip", netip.MustParseAddrPort("10.96.0.1:80")
	if pod.Addrs[0].Is6() {
		family, service = "ip6", netip.MustParseAddrPort("[fd96::1]:80")
	}
	rule := fmt.Sprintf("%s daddr %s tcp dport %d dnat to %s", family, service.Addr(), service.Port(), netip.AddrPortFrom(pod.Addrs[0], agentwire.Port))
	for _, n := range l.Topology().Nodes {
		runOn(t, l, n.Name, "table "+family+" service {\n chain forwarded { type nat hook prerouting priority -100; "+rule+"; }\n chain own { type nat hook output priority -100; "+rule+"; }\n}\n", "nft", "-f", "-")
		if seen := answers(t, l, n.Name, service, pod.Agent(0)); seen != n.Addresses()[0].Addr() {
			t.Errorf("the pod sees %s from %s", seen, n.Name)
		}
	}
	for _, p := range l.Pods() {
		if p == pod {
			continue
		}
		if seen := answers(t, l, p.Agent(0), service, pod.Agent(0)); seen != p.Addrs[0] {
			t.Errorf("the pod sees %s from %s", seen, p.Name)
		}
	}
}

// gatewayAnswers: a pod that forgets its gateway is told its address again by the node
// (ARP, or NDP), and goes on.
func gatewayAnswers(t *testing.T, l *lab.Lab, gateway string) {
	t.Helper()
	for _, p := range l.Pods() {
		if out, err := inPod(l, p, "ip", "neigh", "del", gateway, "dev", "eth0"); err != nil {
			t.Fatalf("%s: %v: %s", p.Name, err, out)
		}
	}
	everyPathWorks(t, l)
	for _, p := range l.Pods() {
		out, err := inPod(l, p, "ip", "neigh", "show", gateway)
		if err != nil || !strings.Contains(out, "lladdr ee:ee:ee:ee:ee:ee") || strings.Contains(out, "PERMANENT") {
			t.Errorf("%s: the gateway is %q (%v)", p.Name, out, err)
		}
	}
}

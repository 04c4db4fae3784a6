package daemon_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// podBIRD is BIRD in a pod: it announces a block of a cluster within, and what a pod may
// not. 192.0.2.1 stands for a next hop that is not the pod.
const podBIRD = `
log stderr { warning, error, fatal };
router id 10.65.1.5;
protocol device { scan time 1; }
protocol static s4 { ipv4; route 10.123.0.0/26 blackhole; route 10.65.2.0/26 blackhole; route 10.1.1.12/32 blackhole; route 10.124.0.0/24 blackhole; }
protocol static s6 { ipv6; route fd12:3::/64 blackhole; }
filter own { if source != RTS_STATIC then reject; if net = 10.124.0.0/24 then bgp_next_hop = 10.1.1.254; accept; }
template bgp node {
  local as 65401; multihop; connect delay time 1; connect retry time 2; error wait time 1, 3;
}
protocol bgp v4 from node { source address 10.65.1.5; neighbor 169.254.0.179 as 64512; ipv4 { import all; export filter own; }; }
protocol bgp v6 from node { source address fd65:1::5; neighbor fd00:0:0:b9::1 as 64512; ipv6 { import all; export filter own; }; }
`

// addPod makes a pod of node1 as felix makes it, and as felix/peering adds to it.
func (l *torLab) addPod(name, v4, v6, device string) {
	l.t.Helper()
	l.ns[name] = kerneltest.NewNetns(l.t)
	h := kerneltest.Open(l.t, l.ns["node1"])
	if _, err := h.CreateVeth(kernel.VethSpec{Host: device, Peer: "eth0", PeerNetns: l.ns[name]}); err != nil {
		l.t.Fatal(err)
	}
	for _, argv := range [][]string{
		{name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.eth0.accept_dad=0"},
		{name, "ip", "link", "set", "lo", "up"},
		{name, "ip", "addr", "add", v4 + "/32", "dev", "eth0"},
		{name, "ip", "addr", "add", v6 + "/128", "dev", "eth0", "nodad"},
		{"node1", "sysctl", "-qw", "net.ipv4.conf." + device + ".proxy_arp=1", "net.ipv4.neigh." + device + ".proxy_delay=0"},
		{"node1", "ip", "link", "set", device, "up"},
		{name, "ip", "link", "set", "eth0", "up"},
		{"node1", "ip", "-6", "addr", "add", "fe80::ecee:eeff:feee:eeee/64", "dev", device, "nodad"},
		{"node1", "ip", "addr", "add", "169.254.0.179/32", "dev", device, "scope", "host"},
		{"node1", "ip", "-6", "addr", "add", "fd00:0:0:b9::1/128", "dev", device, "preferred_lft", "0", "nodad"},
		{"node1", "ip", "route", "add", v4, "dev", device, "scope", "link", "proto", "80"},
		{"node1", "ip", "-6", "route", "add", v6, "dev", device, "proto", "80"},
		{name, "ip", "route", "add", "169.254.1.1", "dev", "eth0"},
		{name, "ip", "route", "add", "default", "via", "169.254.1.1"},
		{name, "ip", "-6", "route", "add", "default", "via", "fe80::ecee:eeff:feee:eeee", "dev", "eth0"},
	} {
		l.run(argv[0], argv[1:]...)
	}
}

func endpoint(name, color, device string, networks ...string) *api.WorkloadEndpoint {
	return &api.WorkloadEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "node1-k8s-" + name + "-eth0", Labels: map[string]string{"color": color}},
		Spec: api.WorkloadEndpointSpec{
			Orchestrator: "k8s", Node: "node1", Pod: name, Workload: name, Endpoint: "eth0", InterfaceName: device, IPNetworks: networks,
		},
	}
}

// TestPodIsAPeerAgainstBIRD: BIRD in a pod connects to the node's peering address and
// announces a prefix, which is routed through the pod's device. It speaks for nobody
// else, and a pod that is not selected has no session.
func TestPodIsAPeerAgainstBIRD(t *testing.T) {
	off := false
	pods := &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v3.BGPPeerSpec{LocalWorkloadSelector: "color == 'red'", ASNumber: 65401}}
	l := newTorLab(t, "",
		&v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{
			NodeToNodeMeshEnabled: &off, LocalWorkloadPeeringIPV4: "169.254.0.179", LocalWorkloadPeeringIPV6: "fd00:0:0:b9::1",
		}},
		endpoint("red", "red", "cali00000000red", "10.65.1.5/32", "fd65:1::5/128"), endpoint("blue", "blue", "cali0000000blue", "10.65.1.6/32", "fd65:1::6/128"),
		torPeer("tor", "10.1.1.12", nil))
	l.addPod("red", "10.65.1.5", "fd65:1::5", "cali00000000red")
	l.addPod("blue", "10.65.1.6", "fd65:1::6", "cali0000000blue")
	l.run("red", "ip", "addr", "add", "10.123.0.1/32", "dev", "lo")
	l.startBIRDOf("red", podBIRD)
	l.startBIRDOf("blue", strings.NewReplacer("1.5", "1.6", "::5", "::6", "10.123.", "10.125.").Replace(podBIRD))
	l.startNode("node1", l.content())
	l.peer("the other session to be known", "node2", func(*nodestatus.Peer) bool { return true })
	l.have(pods)
	l.write()
	for _, address := range []string{"10.65.1.5", "fd65:1::5"} {
		l.peer("the session with the pod", address, func(p *nodestatus.Peer) bool { return isUp(p) && p.Name == "pods" })
	}
	l.learned("node1", "10.123.0.0/26 via 10.65.1.5 dev cali00000000red", "fd12:3::/64 via fd65:1::5 dev cali00000000red")
	l.run("node1", "ping", "-c1", "-W5", "10.123.0.1")
	if out := l.run("node1", "ip", "route", "get", "10.65.1.5"); strings.Contains(out, "169.254") {
		t.Errorf("the peering address is the source of the node's packets: %s", out)
	}
	l.run("red", "ping", "-c1", "-W5", "169.254.0.179")
	for prefix, why := range map[string]string{
		"10.65.2.0/26": "overlaps the block 10.65.2.0/26", "10.1.1.12/32": "overlaps 10.1.1.0/24, a segment of this node", "10.124.0.0/24": "is not the pod 10.65.1.5",
	} {
		l.until("the refusal of "+prefix, func() (bool, string) {
			routes, err := l.status("node1").Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: prefix, Table: nodestatus.Table_ADJ_IN})
			return err == nil && len(routes.Routes) == 1 && strings.Contains(routes.Routes[0].Reason, why), routes.String()
		})
		l.notLearned("node1", prefix)
	}
	l.notLearned("node1", "10.125.0.0/26")
	l.until("what the pod has heard", func() (bool, string) {
		out := l.run("red", "birdc", "-s", filepath.Join(l.dir, "red.ctl"), "show", "route")
		return strings.Contains(out, "10.65.1.0/26"), out
	})
	if out := l.run("blue", "birdc", "-s", filepath.Join(l.dir, "blue.ctl"), "show", "protocols"); strings.Contains(out, "Established") {
		t.Errorf("a pod that is not selected has a session:\n%s", out)
	}

	// The import filter of the BGPPeer holds for pods, too.
	none := &api.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: api.BGPFilterSpec{ImportV4: []api.BGPFilterRule{{Action: v3.Reject}}}}
	filtered := pods.DeepCopy()
	filtered.Spec.Filters = []string{"none"}
	l.have(none, filtered)
	l.write()
	l.until("the filter to take the route away", func() (bool, string) {
		out := l.run("node1", "ip", "route", "show", "proto", "81")
		return !strings.Contains(out, "10.123.0.0/26"), out
	})
	l.learned("node1", "fd12:3::/64 via fd65:1::5 dev cali00000000red")

	// A pod that is gone, and one that is selected no more, has no session.
	delete(l.objects, "*v3.BGPPeer pods")
	l.write()
	l.until("the sessions to end", func() (bool, string) {
		peers, err := l.status("node1").Peers(t.Context(), &nodestatus.PeersRequest{})
		return err == nil && len(peers.Peers) == 1, peers.String()
	})
}

// startBIRDOf starts the BIRD of a namespace.
func (l *lab) startBIRDOf(ns, config string) {
	l.t.Helper()
	path := filepath.Join(l.dir, ns+".conf")
	if err := os.WriteFile(path, []byte(strings.TrimSpace(config)), 0o600); err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("bird", "-f", "-c", path, "-s", filepath.Join(l.dir, ns+".ctl"))
	cmd.Stderr = l.t.Output()
	if err := l.ns[ns].Do(cmd.Start); err != nil {
		l.t.Fatal(err)
	}
	l.proc["bird of "+ns] = cmd
	l.t.Cleanup(func() { l.end("bird of "+ns, syscall.SIGKILL) })
}

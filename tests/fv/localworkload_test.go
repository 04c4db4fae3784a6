package fv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tortie/internal/kernel/kerneltest"
	"tortie/tests/lab"
)

// podRouter is BIRD in a pod, which announces the prefixes of a cluster within.
const podRouter = `
log stderr { warning, error, fatal };
router id %[1]s;
protocol device { scan time 1; }
protocol static s4 { ipv4; route 10.123.0.0/26 blackhole; }
protocol static s6 { ipv6; route fd12:3::/64 blackhole; }
template bgp node {
  local as 65401; multihop; connect delay time 1; connect retry time 2; error wait time 1, 3;
}
protocol bgp v4 from node { source address %[1]s; neighbor 169.254.0.179 as 64512; ipv4 { import all; export where source = RTS_STATIC; }; }
protocol bgp v6 from node { source address %[2]s; neighbor fd00:0:0:b9::1 as 64512; ipv6 { import all; export where source = RTS_STATIC; }; }
`

// TestPodIsABGPPeerOfItsNode: felix has the peering addresses on the device of the pod
// that is selected, also after its restart; bgpd has the sessions and routes what BIRD in
// the pod announces through that device; and all of it goes when it is no longer wanted.
func TestPodIsABGPPeerOfItsNode(t *testing.T) {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := up(t, "localworkload", 1)
	addPods(t, l, 2, 1)
	mustConverge(t, l)
	pod := l.Pods()[0]
	startPodRouter(t, l, pod)
	const config = manifestHead + "kind: BGPConfiguration\nmetadata: {name: default}\nspec: {localWorkloadPeeringIPV4: 169.254.0.179, localWorkloadPeeringIPV6: 'fd00:0:0:b9::1'}\n"
	peer := manifestHead + "kind: BGPPeer\nmetadata: {name: pods}\nspec: {node: node1, asNumber: 65401, localWorkloadSelector: role == 'router'}\n"
	apply(t, l, config+"---\n"+peer)
	name := ""
	for _, field := range strings.Fields(run(t, l, "", "calicoctl", "get", "workloadendpoints", "-n", pod.Namespace, "-o", "yaml")) {
		if strings.HasPrefix(field, "node1-") && strings.Contains(field, strings.ReplaceAll(pod.Name, "-", "--")) {
			name = field
		}
	}
	run(t, l, "", "calicoctl", "label", "workloadendpoints", name, "-n", pod.Namespace, "role=router")
	device := strings.Fields(run(t, l, "", "ip", "-o", "route", "show", pod.Addr(false).String()))[2]
	want := map[string]string{"10.123.0.0/26": pod.Addr(false).String(), "fd12:3::/64": pod.Addr(true).String()}
	for prefix, hop := range want {
		routed(t, l, prefix, fmt.Sprintf("via %s dev %s", hop, device))
	}
	peers := run(t, l, "", "calicoctl", "bgp", "peers")
	if strings.Count(peers, "pods") != 2 {
		t.Errorf("other peers than the pod's two:\n%s", peers)
	}
	if out := run(t, l, "", "ip", "-o", "addr"); strings.Count(out, "169.254.0.179/32") != 1 || strings.Count(out, "fd00:0:0:b9::1/128") != 1 {
		t.Errorf("the peering addresses are not on one device each:\n%s", out)
	}
	for _, a := range pod.Addrs {
		if out := run(t, l, "", "ip", "route", "get", a.String()); strings.Contains(out, "src 169.254") || strings.Contains(out, "src fd00:0:0:b9") {
			t.Errorf("the node speaks to the pod from the peering address: %s", out)
		}
	}

	// A felix that is gone and back changes nothing; the sessions stay.
	if err := l.KillDaemon("felix", "node1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon("felix", "node1"); err != nil {
		t.Fatal(err)
	}
	until(t, "felix to be back", func() (bool, string) {
		err := l.FelixReady(t.Context(), "node1")
		return err == nil, fmt.Sprint(err)
	})
	for prefix, hop := range want {
		routed(t, l, prefix, fmt.Sprintf("via %s dev %s", hop, device))
	}
	run(t, l, peer, "calicoctl", "delete", "-f", "-")
	for prefix := range want {
		routed(t, l, prefix, "")
	}
	until(t, "the peering addresses to go", func() (bool, string) {
		out := run(t, l, "", "ip", "-o", "addr")
		return !strings.Contains(out, "169.254.0.179") && !strings.Contains(out, "fd00:0:0:b9::1"), out
	})
}

// startPodRouter runs BIRD in a pod until the test ends.
func startPodRouter(t *testing.T, l *lab.Lab, pod *lab.Pod) {
	t.Helper()
	dir := t.TempDir()
	conf, pid := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.pid")
	if err := os.WriteFile(conf, fmt.Appendf(nil, podRouter, pod.Addr(false), pod.Addr(true)), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	args := []string{"bird", "-c", conf, "-s", filepath.Join(dir, "bird.ctl"), "-P", pid}
	if err := l.PodExec(pod, 0, args, lab.Stdio{In: strings.NewReader(""), Out: &out, Err: &out}); err != nil {
		t.Fatalf("bird: %v\n%s", err, &out)
	}
	t.Cleanup(func() {
		text, err := os.ReadFile(pid)
		var n int
		if _, scanned := fmt.Sscan(string(text), &n); err == nil && scanned == nil && n > 1 {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	})
}

// routed waits until node1 has such a route of bgpd's to a prefix; none where want is empty.
func routed(t *testing.T, l *lab.Lab, prefix, want string) {
	t.Helper()
	until(t, "the route to "+prefix, func() (bool, string) {
		out := run(t, l, "", "ip", "route", "show", prefix, "proto", "81")
		if strings.Contains(prefix, ":") {
			out = run(t, l, "", "ip", "-6", "route", "show", prefix, "proto", "81")
		}
		return want == "" && out == "" || want != "" && strings.Contains(out, want), out
	})
}

func until(t *testing.T, what string, met func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ok, why := met()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still waiting for %s: %s", what, why)
		}
	}
}

package fv

import (
	"strings"
	"testing"
	"time"

	"tortie/internal/kernel/kerneltest"
	"tortie/tests/lab"
)

// setMode gives the IPv4 pool an encapsulation, or none.
func setMode(t *testing.T, l *lab.Lab, encapsulation string) {
	t.Helper()
	apply(t, l, manifestHead+"kind: IPPool\nmetadata: {name: pool-v4}\nspec: {cidr: 10.65.0.0/16, blockSize: 26, natOutgoing: true, "+encapsulation+"}\n")
}

// TestIPIPCarriesAsThePoolsModeSaysAndIsChangedUnderTraffic goes from mode to mode, also
// to VXLAN and back: no packet is lost, every path works, by the right next hop, and what is
// on the wire between the nodes is what the mode says. What is changed by hand comes
// back, daemons that are killed lose no packet, and in the end nothing is left. It is one
// lab: a second takes its time on an emulated processor.
func TestIPIPCarriesAsThePoolsModeSaysAndIsChangedUnderTraffic(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPIP)
	l := upWith(t, "ipip", 3, func(s *lab.Spec) {
		s.Env = append(s.Env, "FELIX_CNITIMEOUT=60") // of an emulated processor
	})
	addPods(t, l, 3, 1)
	mustConverge(t, l)
	for _, tt := range []struct {
		mode string
		// On the wire of node1 and node2, on that of node3 behind the router, and between
		// the first two.
		near, behind, between heard
	}{
		{"ipipMode: Always", heard{IPIP: true}, heard{IPIP: true}, heard{IPIP: true}},
		{"vxlanMode: Always", heard{VXLAN: true}, heard{VXLAN: true}, heard{VXLAN: true}},
		{"ipipMode: Never", heard{Plain: true}, heard{Plain: true}, heard{}},
		{"vxlanMode: CrossSubnet", heard{Plain: true, VXLAN: true}, heard{VXLAN: true}, heard{}},
		{"ipipMode: CrossSubnet", heard{Plain: true, IPIP: true}, heard{IPIP: true}, heard{}},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			tr := startTrafficEvery(t, l, slowInterval)
			setMode(t, l, tt.mode)
			mustConverge(t, l)
			time.Sleep(500 * time.Millisecond) // whatever is taken away late goes in this time
			w := listen(t, l)
			mustConverge(t, l)
			seen := w.stop()
			for on, want := range map[string]heard{
				"node1 IPv4": tt.near, "node2 IPv4": tt.near, "node3 IPv4": tt.behind, "between node1 and node2": tt.between, "node3 IPv6": {Plain: true},
			} {
				if got := seen[on]; got != want {
					t.Errorf("%s: %+v, want %+v", on, got, want)
				}
			}
			tr.stopAndDemandNoLoss(t)
		})
	}
	t.Run("mended", func(t *testing.T) {
		run(t, l, "", "sh", "-c", "ip address flush dev tunl0; ip link set tunl0 mtu 1000; ip link set tunl0 down")
		mustConverge(t, l)
		if out := run(t, l, "", "ip", "-o", "link", "show", "dev", "tunl0", "up"); !strings.Contains(out, "mtu 1480") {
			t.Errorf("the device is %q", out)
		}
	})
	t.Run("killed", func(t *testing.T) {
		tr := startTrafficEvery(t, l, slowInterval)
		killAndRestart(t, l, []string{"felix", "bgpd"}, []string{"node1", "node2", "node3"})
		tr.stopAndDemandNoLoss(t)
		mustConverge(t, l)
	})
	t.Run("out of use when no pool asks", func(t *testing.T) {
		tr := startTrafficEvery(t, l, slowInterval)
		setMode(t, l, "ipipMode: Never")
		for end := time.Now().Add(lab.Patience(patience)); ; time.Sleep(time.Second) {
			left := whatIsLeftOfIPIP(t, l)
			if left == "" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("there is still %s", left)
			}
		}
		tr.stopAndDemandNoLoss(t)
		waitStoreSound(t, l, 3)
		mustConverge(t, l)
	})
}

// whatIsLeftOfIPIP names one thing, or nothing.
func whatIsLeftOfIPIP(t *testing.T, l *lab.Lab) string {
	t.Helper()
	if nodes := run(t, l, "", "calicoctl", "get", "nodes", "-o", "yaml"); strings.Contains(nodes, "IPIPTunnelAddr") {
		return "a tunnel in the Nodes"
	}
	if out := run(t, l, "", "ip", "-o", "address", "show", "dev", "tunl0"); strings.TrimSpace(out) != "" {
		return "an address: " + out
	}
	if out := run(t, l, "", "ip", "-o", "link", "show", "dev", "tunl0", "up"); strings.TrimSpace(out) != "" {
		return "a device: " + out
	}
	return ""
}

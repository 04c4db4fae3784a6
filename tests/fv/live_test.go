package fv

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"tortie/tests/lab"
	"tortie/tests/lab/matrix"
)

// apply gives a manifest to calicoctl on the first node.
func apply(t *testing.T, l *lab.Lab, manifest string) {
	t.Helper()
	run(t, l, manifest, "calicoctl", "apply", "-f", "-")
}

func run(t *testing.T, l *lab.Lab, stdin string, args ...string) string {
	t.Helper()
	return runOn(t, l, "node1", stdin, args...)
}

func runOn(t *testing.T, l *lab.Lab, node, stdin string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	err := l.Exec(node, args, lab.Stdio{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	if err != nil {
		t.Fatalf("%s: %v: %s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// waitChecks waits until the checks are as wanted.
func waitChecks(t *testing.T, l *lab.Lab, what string, wanted func([]matrix.Check) bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		checks, err := l.CheckAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if wanted(checks) {
			return
		}
		if time.Now().After(end) {
			for _, c := range checks {
				if c.Failure != "" {
					t.Log(c)
				}
			}
			t.Fatalf("%s: not so after 30 s", what)
		}
	}
}

// TestMeshSwitchedOffAndOn changes the BGPConfiguration live. Without the mesh the
// router still carries packets, so only the next hops tell: the check must see it.
func TestMeshSwitchedOffAndOn(t *testing.T) {
	l := up(t, "mesh", 3)
	addPods(t, l, 3, 1)
	mustConverge(t, l)
	mesh := func(on string) {
		apply(t, l, manifestHead+"kind: BGPConfiguration\nmetadata: {name: default}\nspec: {asNumber: 64512, nodeToNodeMeshEnabled: "+on+"}\n")
	}
	mesh("false")
	waitChecks(t, l, "same-segment pods no longer reach one another directly", func(checks []matrix.Check) bool {
		wrong := 0
		for _, c := range checks {
			if c.Path == matrix.PathSameSegment && strings.Contains(c.Failure, "instead of") {
				wrong++
			}
		}
		return wrong == 8
	})
	mesh("true")
	mustConverge(t, l)
}

// TestNATOutgoingIsSwitchedLive changes a pool and looks at what the outside sees.
func TestNATOutgoingIsSwitchedLive(t *testing.T) {
	l := up(t, "nat", 1)
	addPods(t, l, 1, 1)
	mustConverge(t, l)
	for _, on := range []string{"false", "true"} {
		apply(t, l, manifestHead+"kind: IPPool\nmetadata: {name: pool-v4}\nspec: {cidr: 10.65.0.0/16, blockSize: 26, natOutgoing: "+on+"}\n")
		// The check itself asks the pool what the outside must see.
		mustConverge(t, l)
	}
}

// TestEveryKindIsReadBackAsItWasApplied sends each kind of operator's resource
// through the real store and back.
func TestEveryKindIsReadBackAsItWasApplied(t *testing.T) {
	l := up(t, "kinds", 1)
	for kind, manifest := range map[string]string{
		"bgppeer":             "kind: BGPPeer\nmetadata: {name: x}\nspec: {peerIP: 192.0.2.9, asNumber: 64513}\n",
		"bgpfilter":           "kind: BGPFilter\nmetadata: {name: x}\nspec: {exportV4: [{cidr: 10.65.0.0/16, matchOperator: In, action: Accept}]}\n",
		"felixconfiguration":  "kind: FelixConfiguration\nmetadata: {name: x}\nspec: {logSeverityScreen: Debug}\n",
		"globalnetworkpolicy": "kind: GlobalNetworkPolicy\nmetadata: {name: x}\nspec: {selector: all(), ingress: [{action: Allow}]}\n",
		"globalnetworkset":    "kind: GlobalNetworkSet\nmetadata: {name: x}\nspec: {nets: [192.0.2.0/24]}\n",
		"hostendpoint":        "kind: HostEndpoint\nmetadata: {name: x}\nspec: {node: node1, interfaceName: eth0}\n",
		"ippool":              "kind: IPPool\nmetadata: {name: x}\nspec: {cidr: 10.80.0.0/24}\n",
		"ipreservation":       "kind: IPReservation\nmetadata: {name: x}\nspec: {reservedCIDRs: [10.65.0.0/30]}\n",
		"networkpolicy":       "kind: NetworkPolicy\nmetadata: {name: x, namespace: default}\nspec: {selector: all(), egress: [{action: Allow}]}\n",
		"networkset":          "kind: NetworkSet\nmetadata: {name: x, namespace: default}\nspec: {nets: [192.0.2.0/24]}\n",
		"node":                "kind: Node\nmetadata: {name: x}\nspec: {bgp: {ipv4Address: 192.0.2.7/24}}\n",
		"profile":             "kind: Profile\nmetadata: {name: x}\nspec: {labelsToApply: {a: b}}\n",
		"tier":                "kind: Tier\nmetadata: {name: x}\nspec: {order: 7}\n",
	} {
		t.Run(kind, func(t *testing.T) {
			apply(t, l, manifestHead+manifest)
			args := []string{"calicoctl", "get", kind, "x", "-o", "yaml"}
			first := run(t, l, "", args...)
			if again := run(t, l, first, "calicoctl", "apply", "-f", "-"); !strings.Contains(again, "1") {
				t.Errorf("apply of what get printed: %s", again)
			}
			run(t, l, "", "calicoctl", "label", kind, "x", "colour=red")
			if out := run(t, l, "", args...); !strings.Contains(out, "colour: red") {
				t.Errorf("after label:\n%s", out)
			}
			run(t, l, "", "calicoctl", "delete", kind, "x")
			var out, errs bytes.Buffer
			err := l.Exec("node1", args, lab.Stdio{Out: &out, Err: &errs})
			mustBeOneLine(t, err, out.String(), errs.String(), "x")
		})
	}
}

// TestPodsOutliveTheirPool deletes the IPv6 pool under its pods: no more addresses
// from it, but those in use stay reachable from everywhere.
func TestPodsOutliveTheirPool(t *testing.T) {
	l := up(t, "pool", 3)
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	tr := startTraffic(t, l)
	run(t, l, "", "calicoctl", "delete", "ippool", "pool-v6")
	time.Sleep(3 * time.Second) // whatever withdraws and sweeps has done so by now
	tr.stopAndDemandNoLoss(t)
	mustConverge(t, l)
}

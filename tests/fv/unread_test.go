package fv

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tortie/internal/api"
	"tortie/tests/lab"
	"tortie/tests/lab/agentwire"
)

// problemsOf are the lines that node1's status has under Problems.
func problemsOf(t *testing.T, l *lab.Lab) (lines []string) {
	t.Helper()
	_, after, _ := strings.Cut(run(t, l, "", "calicoctl", "node", "status"), "\nProblems\n")
	for line := range strings.Lines(after) {
		if text, ok := strings.CutPrefix(line, "  "); ok {
			lines = append(lines, strings.TrimSpace(text))
		}
	}
	return lines
}

// TestWhatCantBeReadAnyMoreHoldsOn: somebody has written past calicoctl what nobody can read.
// Traffic goes on, masqueraded as before, pods come and go, one line says what is wrong and what
// to do, and doing that mends it.
func TestWhatCantBeReadAnyMoreHoldsOn(t *testing.T) {
	l := up(t, "unread", 3)
	setVXLANMode(t, l, "CrossSubnet") // and natOutgoing
	const configuration = manifestHead + "kind: FelixConfiguration\nmetadata: {name: default}\nspec: {floatingIPs: Enabled, healthPort: 9100}\n"
	apply(t, l, configuration)
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	start := problemsOf(t, l)
	store := newRawStore(t, l)
	for _, tt := range []struct {
		name             string
		kind             api.Kind
		object           string
		text, with       string
		says             string
		manifest, repair string
	}{
		{"a field of a pool", api.KindIPPool, "pool-v4", `"natOutgoing":true`, `"natOutgoing":"true"`, "IPPool(pool-v4): can't be read: spec.natOutgoing: want true or false", "ippool", "apply"},
		{"a pool that is no JSON", api.KindIPPool, "pool-v4", `"kind"`, `"kind`, "IPPool(pool-v4): can't be read: broken JSON", "ippool", "replace"},
		{"a Node", api.KindNode, "node1", `"bgp":{`, `"bgp":{"asNumber":"abc",`, "Node(node1): can't be read: spec.bgp.asNumber: ", "node", "apply"},
		{"another's Node", api.KindNode, "node2", `"bgp":{`, `"bgp":{"asNumber":"abc",`, "Node(node2): can't be read: spec.bgp.asNumber: ", "node", "apply"},
		{"a field of felix' configuration", api.KindFelixConfiguration, "default", `"healthPort":9100`, `"healthPort":"x"`, `FelixConfiguration default: spec.healthPort: `, "felixconfiguration", "apply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			manifest := withoutVersion(run(t, l, "", "calicoctl", "get", tt.manifest, tt.object, "-o", "yaml"))
			tr := startTraffic(t, l)
			store.change(tt.kind, tt.object, "", tt.text, tt.with)
			statusSays(t, l, tt.says, true)
			said := slices.DeleteFunc(problemsOf(t, l), func(line string) bool { return slices.Contains(start, line) })
			if len(said) != 1 {
				t.Errorf("status says\n%s\nwant one line", strings.Join(said, "\n"))
			}
			if _, err := l.AddPod(t.Context(), lab.PodSpec{Name: "new", Node: "node1", Containers: 1}); err != nil {
				t.Errorf("no pod can be made: %v", err)
			} else if err := l.DelPod(t.Context(), "new"); err != nil {
				t.Error(err)
			}
			leavesMasqueraded(t, l)
			time.Sleep(2 * time.Second) // long enough for what would be taken away to be missed
			tr.stopAndDemandNoLoss(t)
			run(t, l, manifest, "calicoctl", tt.repair, "-f", "-")
			statusSays(t, l, tt.says, false)
			mustConverge(t, l)
			if left := slices.DeleteFunc(problemsOf(t, l), func(line string) bool { return slices.Contains(start, line) }); len(left) != 0 {
				t.Errorf("mended, and the status says\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

// TestFelixThatStartsWithAPoolThatCantBeReadBlamesNothingElse: it says so in one line, names it
// as the cause where a pod gets no address, and goes on when it is written anew.
func TestFelixThatStartsWithAPoolThatCantBeReadBlamesNothingElse(t *testing.T) {
	l := up(t, "unreadstart", 2)
	setVXLANMode(t, l, "CrossSubnet")
	addPods(t, l, 2, 1)
	mustConverge(t, l)
	start := problemsOf(t, l)
	manifest := withoutVersion(run(t, l, "", "calicoctl", "get", "ippool", "pool-v4", "-o", "yaml"))
	newRawStore(t, l).change(api.KindIPPool, "pool-v4", "", `"natOutgoing":true`, `"natOutgoing":"true"`)
	if err := l.KillDaemon("felix", "node1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon("felix", "node1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience(10*time.Second)) // which isn't ready without pool
	defer cancel()
	if err := l.WaitReady(ctx); err == nil || !strings.Contains(err.Error(), "CNI error 50: IP pool pool-v4 can't be read: spec.natOutgoing") {
		t.Errorf("STATUS says %v, want the pool as the cause", err)
	}
	const says = `IPPool(pool-v4): can't be read: spec.natOutgoing: want true or false, got the string "true"; nothing of it counts`
	statusSays(t, l, says, true)
	if said := slices.DeleteFunc(problemsOf(t, l), func(line string) bool { return slices.Contains(start, line) }); len(said) != 1 {
		t.Errorf("status says\n%s\nwant one line", strings.Join(said, "\n"))
	}
	if _, err := l.AddPod(t.Context(), lab.PodSpec{Name: "new", Node: "node1", Containers: 1}); err == nil || !strings.Contains(err.Error(), "pool-v4: can't be read: spec.natOutgoing") {
		t.Errorf("ADD says %v, want the pool as the cause", err)
	}
	run(t, l, manifest, "calicoctl", "apply", "-f", "-")
	statusSays(t, l, says, false)
	mustConverge(t, l)
}

// leavesMasqueraded: the outside sees a pod of each node under the address of its node.
func leavesMasqueraded(t *testing.T, l *lab.Lab) {
	t.Helper()
	pods := netip.MustParsePrefix("10.65.0.0/16")
	target := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.10"), agentwire.Port)
	for _, p := range l.Pods() {
		resp, err := l.Ask(t.Context(), p.Agent(0), agentwire.Request{Probes: []agentwire.Probe{{Network: "tcp", Target: target, Timeout: 5 * time.Second}}})
		if err != nil || len(resp.Results) != 1 || resp.Results[0].Err != "" || pods.Contains(resp.Results[0].Seen) {
			t.Errorf("%s to the outside: %+v, %v; want it seen under its node's address", p.Name, resp, err)
		}
	}
}

// withoutVersion is a manifest that may be written over whatever is there.
func withoutVersion(manifest string) string {
	var kept []string
	for line := range strings.Lines(manifest) {
		if !strings.HasPrefix(strings.TrimSpace(line), "resourceVersion:") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

package lab

import (
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tortie/tests/vm"
)

func TestEveryThirdNodeIsBehindTheRouter(t *testing.T) {
	spec := DefaultSpec()
	spec.Nodes = 6
	topo, err := Plan(spec)
	if err != nil {
		t.Fatal(err)
	}
	var on []string
	for _, n := range topo.Nodes {
		on = append(on, n.Name+" "+n.Segment)
	}
	want := "node1 seg-a, node2 seg-a, node3 seg-b, node4 seg-a, node5 seg-a, node6 seg-b"
	if got := strings.Join(on, ", "); got != want {
		t.Errorf("nodes are on %s, want %s", got, want)
	}
}

func TestPlanGivesEveryHostItsOwnAddressOnItsSegment(t *testing.T) {
	spec := DefaultSpec()
	spec.Nodes = maxNodes
	topo, err := Plan(spec)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]string{}
	for _, h := range append([]Host{topo.Etcd, topo.Outside}, topo.Nodes...) {
		s := topo.Segment(h.Segment)
		for _, p := range []netip.Prefix{h.V4, h.V6} {
			if other := seen[p.Addr()]; other != "" {
				t.Errorf("%s and %s both have %s", h.Name, other, p.Addr())
			}
			seen[p.Addr()] = h.Name
			if p.Masked() != s.V4 && p.Masked() != s.V6 {
				t.Errorf("%s has %s, which is not on %s", h.Name, p, s.Name)
			}
			if p.Addr() == s.Router || p.Addr() == s.RouterV6 {
				t.Errorf("%s has the router's address %s", h.Name, p.Addr())
			}
		}
	}
}

func TestPlanRefusesANumberOfNodesThatHasNoAddresses(t *testing.T) {
	for _, n := range []int{-1, 0, maxNodes + 1} {
		spec := DefaultSpec()
		spec.Nodes = n
		if _, err := Plan(spec); err == nil {
			t.Errorf("%d nodes: no error", n)
		}
	}
}

// TestLabOfOneVersionOfIPHasNoAddressOfTheOther, in the plan, the resources and what pods
// are asked for.
func TestLabOfOneVersionOfIPHasNoAddressOfTheOther(t *testing.T) {
	for name, tt := range map[string]struct {
		drop  func(*Spec)
		other []string
	}{
		"IPv4": {func(s *Spec) { s.PoolV6 = netip.Prefix{} }, []string{"fd65", "fd10", "ipv6Address", "pool-v6", "-v6", `"assign_ipv6": "true"`}},
		"IPv6": {func(s *Spec) { s.PoolV4 = netip.Prefix{} }, []string{"10.65", "10.10", "ipv4Address", "pool-v4", "-v4", `"assign_ipv4": "true"`}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := DefaultSpec()
			tt.drop(&spec)
			topo, err := Plan(spec)
			if err != nil {
				t.Fatal(err)
			}
			text := resources(spec, topo) + conflist(spec)
			for _, h := range append([]Host{topo.Etcd, topo.Outside}, topo.Nodes...) {
				if len(h.Addresses()) != 1 || len(topo.Segment(h.Segment).routers()) != 1 {
					t.Errorf("%s has %v, its router %v", h.Name, h.Addresses(), topo.Segment(h.Segment).routers())
				}
			}
			if len(routerDesired(topo).Peers) != spec.Nodes {
				t.Errorf("the router's peers are %v", routerDesired(topo).Peers)
			}
			for _, other := range append(tt.other, "invalid") {
				if strings.Contains(text, other) {
					t.Errorf("there is %q in\n%s", other, text)
				}
			}
		})
	}
	if _, err := Plan(Spec{Nodes: 1}); err == nil {
		t.Error("a lab without a pool is planned")
	}
}

// TestEmulatedProcessorIsWaitedForLonger, and no other.
func TestEmulatedProcessorIsWaitedForLonger(t *testing.T) {
	for emulated, want := range map[string]time.Duration{"": time.Second, "1": emulatedFactor * time.Second} {
		t.Setenv(vm.Emulated, emulated)
		if got := Patience(time.Second); got != want {
			t.Errorf("%q: %v, want %v", emulated, got, want)
		}
	}
}

// TestReusedPIDIsNotTouched: a process is its PID and its start time.
func TestReusedPIDIsNotTouched(t *testing.T) {
	p, err := start(command{name: "sleep", path: "/bin/sleep", args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stopAll([]Process{p}, time.Second)
	stranger := p
	stranger.Start++
	if stranger.Alive() {
		t.Error("a process with another start time counts as ours")
	}
	if err := stranger.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if !p.Alive() {
		t.Error("the stranger was killed")
	}
	stopAll([]Process{p}, time.Second)
	if p.Alive() {
		t.Error("ours still runs")
	}
}

func TestNamespacesAreJoinedForOneCallOnly(t *testing.T) {
	p, err := start(command{name: "sleep", path: "/bin/sleep", args: []string{"60"}, clone: unix.CLONE_NEWNET})
	if err != nil {
		t.Fatal(err)
	}
	defer stopAll([]Process{p}, time.Second)
	netns := func() string {
		s, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		return s
	}
	home, inside := netns(), ""
	if err := inNetns(p.Netns(), func() error { inside = netns(); return nil }); err != nil {
		t.Fatal(err)
	}
	if inside == home || netns() != home {
		t.Errorf("home %s, inside %s, afterwards %s", home, inside, netns())
	}
}

func TestExternalEtcdMustBePlainHTTP(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://127.0.0.1:2379": "127.0.0.1:2379",
		"http://[::1]":          "[::1]:2379",
		"https://127.0.0.1":     "",
		"127.0.0.1:2379":        "",
		"":                      "",
	} {
		got, err := etcdHostPort(endpoint)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", endpoint, got, err)
		}
	}
}

// TestStrangerIsFoundWhenWhoMadeItsNamespaceHasEnded, as `lab pod exec` may leave one in a
// pod's; nobody is found by the number of a namespace that is the caller's own.
func TestStrangerIsFoundWhenWhoMadeItsNamespaceHasEnded(t *testing.T) {
	sleep := func(c command) Process {
		t.Helper()
		c.name, c.path, c.args = "sleep", "/bin/sleep", []string{"60"}
		p, err := start(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stopAll([]Process{p}, time.Second) })
		return p
	}
	pod := &Pod{Name: "web", Pause: sleep(command{clone: unix.CLONE_NEWNET})}
	pod.Containers = []Process{sleep(command{net: pod.Pause.Netns()})}
	left, other := sleep(command{net: pod.Pause.Netns()}), sleep(command{})
	if got := pod.strangers(); len(got) != 1 || got[0].PID != left.PID {
		t.Errorf("in the pod: %+v, want %d", got, left.PID)
	}
	within := pin([]Process{pod.Pause, other})
	defer within.release()
	stopAll(pod.processes(), time.Second)
	got := within.strangers(nil)
	if len(got) != 1 || got[0].PID != left.PID || got[0].Start != left.Start {
		t.Errorf("found %+v, want %d", got, left.PID)
	}
}

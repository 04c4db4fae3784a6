package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	steadyRoutes = 20_000
	flappingOnes = 1_000
	// warmUp flaps have memory grow to what flapping takes; moreFlaps, as many as a
	// minute of 1,000 changes a second has, must not need more.
	warmUp, moreFlaps = 20, 60
)

// flappingPeer announces steady routes, and those that are told to come and go.
func flappingPeer() string {
	var steady, flapping strings.Builder
	for i := range steadyRoutes {
		fmt.Fprintf(&steady, "route 10.%d.%d.%d/32 blackhole;\n", 100+i>>16, i>>8&255, i&255)
	}
	for i := range flappingOnes {
		fmt.Fprintf(&flapping, "route 10.99.%d.%d/32 blackhole;\n", i>>8, i&255)
	}
	return `
router id 10.1.1.1;
protocol device {}
protocol static steady { ipv4;
` + steady.String() + `}
protocol static flapping { ipv4;
` + flapping.String() + `}
protocol bgp leaf4 {
  local 10.1.1.1 as 64999; neighbor 10.1.1.2 as 64512; connect delay time 1;
  ipv4 { import none; export all; };
}
`
}

// TestPeerThatFlapsCostsBoundedMemory: while a peer's routes come and go, as fast as the
// kernel follows, memory stays as it is; in the end the kernel has what the peer said
// last.
func TestPeerThatFlapsCostsBoundedMemory(t *testing.T) {
	l := newFabric(t)
	l.bird("spine1", flappingPeer())
	base := l.mainRoutes("leaf")
	l.startLeaf()
	has := func(want int) {
		t.Helper()
		l.until(fmt.Sprint(want, " routes"), func() (bool, string) {
			n := l.mainRoutes("leaf") - base
			return n == want, fmt.Sprint(n)
		})
	}
	flap := func(times int) {
		for range times {
			l.run("spine1", "birdc", "-s", filepath.Join(l.dir, "spine1.ctl"), "disable", "flapping")
			has(steadyRoutes)
			l.run("spine1", "birdc", "-s", filepath.Join(l.dir, "spine1.ctl"), "enable", "flapping")
			has(steadyRoutes + flappingOnes)
		}
	}
	has(steadyRoutes + flappingOnes)
	flap(warmUp)
	before := l.resident("leaf")
	flap(moreFlaps)
	after := l.resident("leaf")
	t.Logf("resident memory %d MB, after %d more changes %d MB", before>>20, 2*moreFlaps*flappingOnes, after>>20)
	if after > before+before/2 {
		t.Errorf("memory has grown from %d to %d MB", before>>20, after>>20)
	}
}

// mainRoutes is how many IPv4 routes are in the main table of a namespace.
func (l *lab) mainRoutes(ns string) int {
	l.t.Helper()
	_, main, _ := strings.Cut(l.run(ns, "cat", "/proc/self/net/fib_triestat"), "Main:")
	_, rest, _ := strings.Cut(main, "Prefixes:")
	var n int
	if _, err := fmt.Sscan(rest, &n); err != nil {
		l.t.Fatal(err)
	}
	return n
}

// resident is the memory of a process, in bytes.
func (l *lab) resident(name string) int {
	l.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.proc[name].Process.Pid))
	if err != nil {
		l.t.Fatal(err)
	}
	var kilobytes int
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
		l.t.Fatal(err)
	}
	return kilobytes << 10
}

package kerneltest

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"tortie/internal/kernel"
)

// LeadAway has what goes from a namespace to addresses led into a device behind which nobody
// is, as felix leads what nodes send each other into WireGuard: all but packets with
// [kernel.MarkClear].
func LeadAway(t testing.TB, ns *kernel.Netns, to ...netip.Addr) {
	t.Helper()
	Require(t, Veth, IPRoute2)
	h := Open(t, ns)
	wg, err := h.CreateVeth(kernel.VethSpec{Host: "wg", Peer: "nobody", PeerNetns: NewNetns(t)})
	if err == nil {
		err = h.SetUp(wg.Index)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range to {
		err := h.AddRoute(kernel.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Table: 1, Protocol: kernel.ProtocolFelix, Scope: kernel.ScopeLink, Link: wg.Index})
		if err == nil {
			err = h.AddRule(kernel.Rule{
				Family: kernel.FamilyOf(a), Priority: 99, Table: 1, Protocol: kernel.ProtocolFelix,
				Mark: kernel.MarkClear, Mask: kernel.MarkClear, Not: true,
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		var way []byte
		_ = ns.Do(func() error {
			way, err = exec.Command("ip", "route", "get", a.String()).CombinedOutput()
			return nil
		})
		if !strings.Contains(string(way), "dev wg") {
			t.Fatalf("what goes to %s is not led away: %s (%v)", a, way, err)
		}
	}
}

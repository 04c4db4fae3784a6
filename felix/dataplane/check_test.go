package dataplane_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tortie/felix/calc"
	"tortie/internal/kernel"
)

func TestCheckNamesEachRouteThatIsNotAsItShouldBe(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		other := w.device(if2)
		w.startInSync(calc.State{})
		ep := endpoint("a", "c1", if1, "10.65.0.1", "10.65.0.2", "fd00:65::1")
		w.upsert(ep)
		w.wantDifferences(ep)
		w.stop() // else it puts right what is changed below
		w.changeRoute(other.Index, "10.65.0.1/32")
		w.changeRoute(0, "fd00:65::1/128")
		w.wantDifferences(ep, "the node's route to 10.65.0.1 is", "felix's route to fd00:65::1 is missing on the node")
	})
}

// TestCheckNamesTheRouteToAFloatingAddress, unless another endpoint has the address.
func TestCheckNamesTheRouteToAFloatingAddress(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.device(if2)
		ep, other := endpoint("a", "c1", if1, "10.65.0.1"), endpoint("b", "c2", if2, "10.65.9.8")
		for _, external := range []string{"10.65.9.8", "10.65.9.9"} {
			ep.Floating = append(ep.Floating, calc.Floating{External: netip.MustParseAddr(external), Internal: ep.Addrs[0]})
		}
		w.startInSync(state(ep, other))
		w.upsert(ep)
		w.upsert(other)
		w.wantDifferences(ep)
		w.stop()
		w.changeRoute(0, "10.65.9.9/32")
		w.wantDifferences(ep, "felix's route to 10.65.9.9 is missing on the node")
	})
}

// TestCheckNamesPacketRulesThatAreNotAsTheyShouldBe, also where the endpoint's interface is
// gone, and whatever else can't be read.
func TestCheckNamesPacketRulesThatAreNotAsTheyShouldBe(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.startInSync(calc.State{})
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		w.upsert(ep)
		w.nat.find("the rules for natOutgoing are not as they should be")
		w.wantDifferences(ep, "the rules for natOutgoing")
		ep.Interface = if2
		have, err := w.loop.Check(w.Context(), ep)
		if !errors.Is(err, kernel.ErrNotFound) || len(have) != 1 {
			w.Errorf("without the interface: %q, %v", have, err)
		}
	})
}

// changeRoute leads the route to a destination over another link; 0 deletes it.
func (w *world) changeRoute(link int, dst string) {
	w.Helper()
	list, err := w.kern.Routes(w.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
	i := slices.IndexFunc(list, func(r kernel.Route) bool { return r.Dst.String() == dst })
	if err != nil || i < 0 {
		w.Fatalf("route to %s: %v", dst, err)
	}
	err = w.kern.DeleteRoute(list[i])
	if err == nil && link != 0 {
		list[i].Link = link
		err = w.kern.AddRoute(list[i])
	}
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) wantDifferences(ep calc.Endpoint, want ...string) {
	w.Helper()
	have, err := w.loop.Check(w.Context(), ep)
	if err != nil {
		w.Fatal(err)
	}
	if !slices.EqualFunc(have, want, strings.HasPrefix) {
		w.Errorf("differences %q, want %q", have, want)
	}
}

package fakekernel_test

import (
	"net/netip"
	"testing"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

func hop(link int, gateway string) kernel.NextHop {
	return kernel.NextHop{Link: link, Gateway: netip.MustParseAddr(gateway)}
}

// second is another underlay, eth1 with 198.51.100.1/24 and 2001:db8:1::1/64.
func (w world) second(t testing.TB) kernel.Link {
	t.Helper()
	return w.segment(t, kernel.VethSpec{Host: "eth1", Peer: "far1"}, "198.51.100.1/24", "2001:db8:1::1/64")
}

func (w world) objects(t testing.TB) []kernel.NextHopObject {
	t.Helper()
	return must(w.NextHopObjects(t.Context(), kernel.ProtocolFelix))(t)
}

// applied is the first error of changes.
func (w world) applied(changes ...kernel.Change) error {
	for _, err := range w.Apply(changes...) {
		if err != nil {
			return err
		}
	}
	return nil
}

func single(id int, h kernel.NextHop) kernel.NextHopChange {
	return kernel.NextHopChange{Op: kernel.Add, Object: kernel.NextHopObject{ID: id, Protocol: kernel.ProtocolFelix, NextHop: h}}
}

func group(op kernel.RouteOp, id int, members ...kernel.GroupMember) kernel.NextHopChange {
	return kernel.NextHopChange{Op: op, Object: kernel.NextHopObject{ID: id, Protocol: kernel.ProtocolFelix, Group: members}}
}

func families(a, b kernel.Link) map[string]struct {
	dst  string
	hops [2]kernel.NextHop
} {
	return map[string]struct {
		dst  string
		hops [2]kernel.NextHop
	}{
		"IPv4": {"10.65.0.0/26", [2]kernel.NextHop{hop(a.Index, "192.0.2.2"), hop(b.Index, "198.51.100.2")}},
		"IPv6": {"fd65::/122", [2]kernel.NextHop{hop(a.Index, "2001:db8::2"), hop(b.Index, "2001:db8:1::2")}},
	}
}

func TestRouteOfSeveralNextHopsReadsBackAsWritten(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		for name, f := range families(w.underlay(t), w.second(t)) {
			t.Run(name, func(t *testing.T) {
				weighted := f.hops[1]
				weighted.Weight = 3
				r := kernel.Route{Dst: netip.MustParsePrefix(f.dst), Protocol: kernel.ProtocolFelix, NextHops: kernel.NewNextHops(weighted, f.hops[0])}
				ok(t, w.AddRoute(r))
				diff(t, "routes", []kernel.Route{r.Normal()}, w.ours(t))
				wantClass(t, w.AddRoute(r), kernel.ErrExists)
				one := kernel.Route{Dst: r.Dst, Protocol: kernel.ProtocolFelix, NextHops: kernel.NewNextHops(f.hops[0])}
				ok(t, w.ReplaceRoute(one))
				diff(t, "routes", []kernel.Route{one.Normal()}, w.ours(t))
				ok(t, w.ReplaceRoute(r))
				ok(t, w.DeleteRoute(r))
				diff(t, "routes", []kernel.Route(nil), w.ours(t))
			})
		}
	})
}

func TestRoutesOfAGroupFollowIt(t *testing.T) {
	kerneltest.Require(t, kerneltest.NextHops)
	onBoth(t, func(t *testing.T, w world) {
		for name, f := range families(w.underlay(t), w.second(t)) {
			t.Run(name, func(t *testing.T) {
				r := kernel.Route{Dst: netip.MustParsePrefix(f.dst), Protocol: kernel.ProtocolFelix, NextHopID: 9}
				wantClass(t, w.AddRoute(r), kernel.ErrInvalid)
				ok(t, w.applied(single(1, f.hops[0]), single(2, f.hops[1]), group(kernel.Add, 9, kernel.GroupMember{ID: 2}, kernel.GroupMember{ID: 1, Weight: 2})))
				wantClass(t, w.applied(single(1, f.hops[0])), kernel.ErrExists)
				ok(t, w.AddRoute(r))
				weighted := f.hops[0]
				weighted.Weight = 2
				shown := r
				shown.NextHops = kernel.NewNextHops(weighted, f.hops[1])
				diff(t, "routes", []kernel.Route{shown.Normal()}, w.ours(t))
				diff(t, "as written", r.Normal(), w.ours(t)[0].ByObject())

				ok(t, w.applied(group(kernel.Replace, 9, kernel.GroupMember{ID: 2})))
				shown.NextHops = kernel.NewNextHops(f.hops[1])
				diff(t, "routes after one has left", []kernel.Route{shown.Normal()}, w.ours(t))
				wantClass(t, w.applied(kernel.NextHopChange{Op: kernel.Replace, Object: single(9, f.hops[0]).Object}), kernel.ErrInvalid)
				ok(t, w.applied(group(kernel.Delete, 9), group(kernel.Delete, 9), group(kernel.Delete, 1), group(kernel.Delete, 2)))
				diff(t, "routes of a group that is gone", []kernel.Route(nil), w.ours(t))
				diff(t, "objects", []kernel.NextHopObject(nil), w.objects(t))
			})
		}
	})
}

func TestNextHopsOfALinkThatGoesDownLeaveTheirGroups(t *testing.T) {
	kerneltest.Require(t, kerneltest.NextHops)
	onBoth(t, func(t *testing.T, w world) {
		a, b := w.underlay(t), w.second(t)
		f := families(a, b)["IPv4"]
		ok(t, w.applied(single(1, f.hops[0]), single(2, f.hops[1]), group(kernel.Add, 9, kernel.GroupMember{ID: 1}, kernel.GroupMember{ID: 2})))
		r := kernel.Route{Dst: netip.MustParsePrefix(f.dst), Protocol: kernel.ProtocolFelix, NextHopID: 9}
		ok(t, w.AddRoute(r))
		ok(t, w.SetDown(a.Index))
		diff(t, "objects", []kernel.NextHopObject{single(2, f.hops[1]).Object, group(kernel.Add, 9, kernel.GroupMember{ID: 2}).Object.Normal()}, w.objects(t))
		shown := r
		shown.NextHops = kernel.NewNextHops(f.hops[1])
		diff(t, "routes", []kernel.Route{shown.Normal()}, w.ours(t))
		ok(t, w.SetDown(b.Index))
		diff(t, "objects", []kernel.NextHopObject(nil), w.objects(t))
		diff(t, "routes", []kernel.Route(nil), w.ours(t))
		wantClass(t, w.applied(single(1, f.hops[0])), kernel.ErrLinkDown)
	})
}

// TestRouteOfAnyKindReplacesOneOfAnother: with one next hop, several, or an object.
func TestRouteOfAnyKindReplacesOneOfAnother(t *testing.T) {
	kerneltest.Require(t, kerneltest.NextHops)
	onBoth(t, func(t *testing.T, w world) {
		for name, f := range families(w.underlay(t), w.second(t)) {
			t.Run(name, func(t *testing.T) {
				ok(t, w.applied(single(1, f.hops[0]), group(kernel.Add, 9, kernel.GroupMember{ID: 1})))
				base := kernel.Route{Dst: netip.MustParsePrefix(f.dst), Protocol: kernel.ProtocolFelix}
				one, several, object := base, base, base
				one.NextHops = kernel.NewNextHops(f.hops[1])
				several.NextHops = kernel.NewNextHops(f.hops[:]...)
				object.NextHopID = 9
				kinds := []kernel.Route{one.Normal(), several.Normal(), object.Normal()}
				for _, from := range kinds {
					for _, to := range kinds {
						ok(t, w.ReplaceRoute(from))
						ok(t, w.ReplaceRoute(to))
						if got := w.ours(t); len(got) != 1 || got[0].ByObject() != to {
							t.Errorf("%s after %s: routes %v", to, from, got)
						}
					}
				}
				ok(t, w.DeleteRoute(w.ours(t)[0]))
				ok(t, w.applied(group(kernel.Delete, 9), group(kernel.Delete, 1)))
			})
		}
	})
}

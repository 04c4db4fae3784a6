package podnet_test

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
)

func hop(dst, via string) podnet.Hop {
	return podnet.Hop{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)}
}

// answered is what the runtime is told of an attachment's side.
func answered(a podnet.Attachment, change func(*podnet.Told)) *podnet.Told {
	t := &podnet.Told{MAC: a.MAC, MTU: a.MTU, Addrs: a.Addrs, Routes: []podnet.Hop{
		hop("0.0.0.0/0", "169.254.1.1"), hop("::/0", "fe80::ecee:eeff:feee:eeee"),
	}}
	if change != nil {
		change(t)
	}
	return t
}

// TestCheckHoldsThePodsSideAgainstTheResult: what a later plugin changed and put into the
// result is right, and what is otherwise is named, each by itself.
func TestCheckHoldsThePodsSideAgainstTheResult(t *testing.T) {
	const mac = "02:00:00:00:00:07"
	others := kernel.MAC{2, 0, 0, 0, 0, 8}
	setMAC := func(e ends) error { return e.pod.SetMAC(e.peer, others) }
	const noNeighbour4, noNeighbour6 = "the permanent neighbour 169.254.1.1 is missing or has another MAC address than ee:ee:ee:ee:ee:ee",
		"the permanent neighbour fe80::ecee:eeff:feee:eeee is missing or has another MAC address than ee:ee:ee:ee:ee:ee"
	setMTU := func(mtu int) func(ends) error { return func(e ends) error { return e.pod.SetMTU(e.peer, mtu) } }
	route := func(op func(kernel.Route) error, peer int, dst, via string) error {
		r := kernel.Route{Dst: netip.MustParsePrefix(dst), Gateway: netip.MustParseAddr(via), Link: peer, Protocol: kernel.ProtocolBoot}
		return op(r)
	}
	for name, tt := range map[string]struct {
		told   func(*podnet.Told)
		change func(e ends) error
		says   []string
	}{
		"as attached":     {nil, func(ends) error { return nil }, nil},
		"MAC as told":     {func(t *podnet.Told) { t.MAC = others.String() }, setMAC, nil},
		"MAC in capitals": {func(t *podnet.Told) { t.MAC = "02-00-00-00-00-08" }, setMAC, nil},
		"MAC, not told":   {nil, setMAC, []string{"eth0 has MAC address 02:00:00:00:00:08 instead of 02:00:00:00:00:07", noNeighbour4, noNeighbour6}},
		"MAC not as told": {func(t *podnet.Told) { t.MAC = "02:00:00:00:00:09" }, setMAC, []string{"eth0 has MAC address 02:00:00:00:00:08 instead of 02:00:00:00:00:09"}},
		"told of no MAC":  {func(t *podnet.Told) { t.MAC = "" }, setMAC, []string{"eth0 has MAC address 02:00:00:00:00:08 instead of 02:00:00:00:00:07", noNeighbour4, noNeighbour6}},
		"MAC as told, another's neighbour": {func(t *podnet.Told) { t.MAC = others.String() }, func(e ends) error {
			return errors.Join(setMAC(e), cmp.Or(e.pod.Apply(kernel.Neighbour{Link: e.peer, IP: netip.MustParseAddr("169.254.1.1"), MAC: others})...))
		}, []string{noNeighbour4}},
		"MTU as told":      {func(t *podnet.Told) { t.MTU = 1400 }, setMTU(1400), nil},
		"MTU not as told":  {func(t *podnet.Told) { t.MTU = 1400 }, setMTU(1350), []string{"eth0 has MTU 1350 instead of 1400"}},
		"MTU not lowered":  {func(t *podnet.Told) { t.MTU = 1400 }, setMTU(1450), []string{"eth0 has MTU 1450 instead of 1400"}},
		"lower, as tuning": {nil, setMTU(1400), nil},
		"higher":           {nil, setMTU(1500), []string{"eth0 has MTU 1500, more than the 1450 of its other end"}},
		"told of no MTU":   {func(t *podnet.Told) { t.MTU = 0 }, setMTU(1500), []string{"eth0 has MTU 1500, more than the 1450 of its other end"}},
		"address of another plugin": {
			func(t *podnet.Told) { t.Addrs = append(addrs("192.0.2.9"), t.Addrs...) },
			func(e ends) error { return e.pod.AddAddress(e.peer, netip.MustParsePrefix("192.0.2.9/32")) }, nil,
		},
		"address that is only told": {
			func(t *podnet.Told) { t.Addrs = append(addrs("192.0.2.9"), t.Addrs...) },
			func(ends) error { return nil },
			[]string{"eth0 does not have the address 192.0.2.9"},
		},
		"route of another plugin": {
			func(t *podnet.Told) { t.Routes = append(t.Routes, hop("192.0.2.0/24", "169.254.1.1")) },
			func(e ends) error { return route(e.pod.AddRoute, e.peer, "192.0.2.0/24", "169.254.1.1") }, nil,
		},
		"route that is only told": {
			func(t *podnet.Told) { t.Routes = append(t.Routes, hop("192.0.2.0/24", "169.254.1.1")) },
			func(ends) error { return nil },
			[]string{"the route 192.0.2.0/24 via 169.254.1.1 of the result is missing"},
		},
		"default route gone": {
			nil, func(e ends) error { return route(e.pod.DeleteRoute, e.peer, "0.0.0.0/0", "169.254.1.1") },
			[]string{"the route default via 169.254.1.1 dev eth0 is missing"},
		},
		"default route gone, nothing told of routes": {
			func(t *podnet.Told) { t.Routes = nil }, func(e ends) error { return route(e.pod.DeleteRoute, e.peer, "0.0.0.0/0", "169.254.1.1") },
			[]string{"the route default via 169.254.1.1 dev eth0 is missing"},
		},
		"default route taken away by another plugin": {
			func(t *podnet.Told) { t.Routes = t.Routes[1:] },
			func(e ends) error { return route(e.pod.DeleteRoute, e.peer, "0.0.0.0/0", "169.254.1.1") }, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			p := w.newPod()
			a := attachment(p, 1)
			a.MAC = mac
			host := w.add(a).HostIndex
			link, err := p.LinkByName(ifName)
			if err == nil {
				err = tt.change(ends{node: w.node, pod: p.Handle, host: host, peer: link.Index})
			}
			if err != nil {
				t.Fatal(err)
			}
			err = w.net.Check(context.Background(), a, answered(a, tt.told))
			var says []string
			if drift, ok := errors.AsType[*podnet.DriftError](err); ok {
				says = drift.Differences
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tt.says, says); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMendLeavesThePodsSideToOthers: a later plugin may have changed it on purpose.
func TestMendLeavesThePodsSideToOthers(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	a := attachment(p, 1)
	w.add(a)
	link, err := p.LinkByName(ifName)
	if err == nil {
		err = errors.Join(p.SetMAC(link.Index, kernel.MAC{2, 0, 0, 0, 0, 8}), p.SetMTU(link.Index, 1400))
	}
	if err != nil {
		t.Fatal(err)
	}
	if mended, err := w.net.Mend(a); len(mended) > 0 || err != nil {
		t.Errorf("mended %q, %v", mended, err)
	}
	if l, err := p.LinkByName(ifName); err != nil || l.MTU != 1400 || l.MAC != (kernel.MAC{2, 0, 0, 0, 0, 8}) {
		t.Errorf("interface %+v, %v", l, err)
	}
}

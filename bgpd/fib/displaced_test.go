package fib

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
)

// TestRouteOfAnotherProgramIsLeftAloneAndNamed: to have no place is no failure. It is said
// once, and not tried again before something changes.
func TestRouteOfAnotherProgramIsLeftAloneAndNamed(t *testing.T) {
	fx := newFixture(t)
	var log bytes.Buffer
	fx.f.log = slog.New(slog.NewTextHandler(&log, nil))
	fx.f.Record(NewHistory(nowIsStart))
	theirs := kernel.Route{Dst: pfx("10.65.2.0/26"), Protocol: kernel.ProtocolStatic, Link: fx.eth0, Gateway: router}
	must(t, fx.k.AddRoute(theirs))
	fx.expect(near)
	fx.f.Update(best("10.65.2.0/26", near), start)
	fx.f.Update(best("10.65.3.0/26", near), start)
	adds := 0
	fx.k.SetFault(func(op fakekernel.Op) error {
		if op.Name == "add route" {
			adds++
		}
		return nil
	})
	for range 3 {
		fx.apply(start)
	}
	fx.want("10.65.3.0/26 via 10.1.1.12")
	if adds != 2 {
		t.Errorf("%d routes were tried to be added, want one attempt for each of the two", adds)
	}
	const holder = "another program's route holds its place: via 10.1.1.254 dev eth0 proto 4 (static); remove it, or have its owner use another metric"
	if e := fx.entry("10.65.2.0/26"); e.Problem != holder || e.Kernel != "" || e.Wanted != "via 10.1.1.12 dev eth0" {
		t.Errorf("entry %+v", e)
	}
	if n := strings.Count(log.String(), "another program's route"); n != 1 {
		t.Errorf("said %d times, want once: %s", n, log.String())
	}
	if got := fx.f.Tally(); got.Best[kernel.IPv4] != 2 || got.Installed[kernel.IPv4] != 1 || got.Without[kernel.IPv4] != 1 {
		t.Errorf("tally %+v", got)
	}
	must(t, fx.k.DeleteRoute(theirs))
	fx.f.PlaceChanged(theirs.Dst)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.3.0/26 via 10.1.1.12")
	if e := fx.entry("10.65.2.0/26"); e.Problem != "" || e.Kernel != "via 10.1.1.12 dev eth0" || len(fx.f.Problems()) != 0 {
		t.Errorf("entry %+v, problems %q", e, fx.f.Problems())
	}
	var changes []string
	for _, c := range fx.f.history.Of(pfx("10.65.2.0/26")) {
		changes = append(changes, c.Text)
	}
	want := []string{"via 10.1.1.12 dev eth0, from peer 10.1.1.12", "not installed: " + holder + ", from peer 10.1.1.12", "via 10.1.1.12 dev eth0, from peer 10.1.1.12"}
	if strings.Join(changes, "\n") != strings.Join(want, "\n") {
		t.Errorf("changes %q, want %q", changes, want)
	}
}

// TestWhoHoldsAPlaceIsKnownThoughOtherRoutesFail, and stays so until it is known to be free.
func TestWhoHoldsAPlaceIsKnownThoughOtherRoutesFail(t *testing.T) {
	fx := newFixture(t)
	must(t, fx.k.AddRoute(kernel.Route{Dst: pfx("10.65.2.0/26"), Protocol: kernel.ProtocolStatic, Link: fx.eth0, Gateway: router}))
	fx.k.SetFault(func(op fakekernel.Op) error {
		if op.Name == "add route" && strings.HasPrefix(op.Object, "10.65.3.0/26") {
			return syscall.ENOMEM
		}
		return nil
	})
	fx.expect(near)
	fx.f.Update(best("10.65.2.0/26", near), start)
	fx.f.Update(best("10.65.3.0/26", near), start)
	for range 2 {
		if err := fx.f.Apply(t.Context(), start); !errors.Is(err, syscall.ENOMEM) {
			t.Fatalf("error %v, want the other route's", err)
		}
		if e := fx.entry("10.65.2.0/26"); e.Wanted == "" || e.Kernel != "" {
			t.Errorf("entry %+v", e)
		}
		// Who holds it now can't be found out.
		fx.f.PlaceChanged(pfx("10.65.2.0/26"))
		fx.k.SetFault(func(op fakekernel.Op) error {
			if op.Name == "read routes" || op.Name == "add route" && strings.HasPrefix(op.Object, "10.65.3.0/26") {
				return syscall.ENOMEM
			}
			return nil
		})
	}
}

// TestPlaceIsTakenWhenTheLinkOfItsHolderGoes: the kernel says nothing of the routes that
// go with a link.
func TestPlaceIsTakenWhenTheLinkOfItsHolderGoes(t *testing.T) {
	fx := newFixture(t)
	other, err := fx.k.CreateVeth(kernel.VethSpec{Host: "eth9", Peer: "wire9"})
	must(t, err)
	must(t, fx.k.SetUp(other.PeerIndex))
	must(t, fx.k.AddRoute(kernel.Route{Dst: pfx("10.65.2.0/26"), Protocol: kernel.ProtocolStatic, Link: other.Index}))
	fx.expect(near)
	fx.f.Update(best("10.65.2.0/26", near), start)
	fx.apply(start)
	fx.want()
	must(t, fx.k.SetDown(other.Index))
	fx.f.LinkChanged(other.Index)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12")
}

// TestDisplacedRoutesAreNamedButNotAll: another program may hold very many places.
func TestDisplacedRoutesAreNamedButNotAll(t *testing.T) {
	fx := newFixture(t)
	fx.expect(near)
	for i := range told + 5 {
		dst := fmt.Sprintf("10.65.%d.0/26", i)
		must(t, fx.k.AddRoute(kernel.Route{Dst: pfx(dst), Protocol: kernel.ProtocolStatic, Link: fx.eth0, Gateway: router}))
		fx.f.Update(best(dst, near), start)
	}
	fx.apply(start)
	got := fx.f.Problems()
	if len(got) != told+1 || got[told] != "5 more routes are not installed because another program's route holds the place" {
		t.Errorf("problems %q", got)
	}
}

// TestDecidingAnewMakesNoWords: with a link that flaps all routes are decided anew, and
// the history compares each before and after.
func TestDecidingAnewMakesNoWords(t *testing.T) {
	fx := newFixture(t)
	fx.f.Record(NewHistory(nowIsStart))
	fx.expect(near, far)
	p := speaker.Path{Prefix: pfx("10.65.2.0/26"), NextHop: near, Peer: near, Best: true}
	unreachable := speaker.Path{Prefix: p.Prefix, NextHop: netip.MustParseAddr("fd09::1"), Peer: far}
	p.Equals = []speaker.Path{{Prefix: p.Prefix, NextHop: far, Peer: far}, unreachable}
	fx.f.Update(speaker.Changes{Best: map[netip.Prefix]*speaker.Path{p.Prefix: &p}}, start)
	fx.apply(start)
	if e := fx.entry("10.65.2.0/26"); e.Kernel == "" || e.Lacking == "" {
		t.Fatalf("entry %+v: want several ways, and one that lacks", e)
	}
	with := testing.AllocsPerRun(100, func() { fx.f.decide(p.Prefix) })
	fx.f.history = nil
	without := testing.AllocsPerRun(100, func() { fx.f.decide(p.Prefix) })
	if with != without {
		t.Errorf("deciding anew allocates %v times with a history, %v without", with, without)
	}
}

package podnet_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
)

var errInjected = errors.New("injected")

// faults counts requests to the kernel and has one of them fail.
type faults struct {
	seen, failAt int
	failed       string
	// late has the request carried out before it fails, as when the answer is lost.
	late bool
}

func (f *faults) do(name string, request func() error) error {
	f.seen++
	if f.seen != f.failAt {
		return request()
	}
	f.failed = name
	if f.late {
		_ = request()
	}
	return errInjected
}

// apply counts each change as a request of its own: the one that fails does not keep
// the others back, as in the kernel.
func (f *faults) apply(changes []kernel.Change, request func(...kernel.Change) []error) []error {
	errs := make([]error, len(changes))
	var sent []kernel.Change
	var place []int
	for i, c := range changes {
		op, _ := c.Subject()
		errs[i] = f.do(op, func() error { return nil })
		if errs[i] == nil || f.late {
			sent, place = append(sent, c), append(place, i)
		}
	}
	for j, err := range request(sent...) {
		if errs[place[j]] == nil {
			errs[place[j]] = err
		}
	}
	return errs
}

// host and inside are the kernel as podnet sees it, with faults.
type host struct {
	podnet.Host
	f *faults
}

type inside struct {
	podnet.Pod
	f *faults
}

func (h host) CreateVeth(spec kernel.VethSpec) (l kernel.Link, err error) {
	err = h.f.do("create veth", func() (err error) { l, err = h.Host.CreateVeth(spec); return err })
	return l, err
}

func (h host) Configure(l kernel.Link, s []kernel.Setting) error {
	return h.f.do("configure host", func() error { return h.Host.Configure(l, s) })
}

func (h host) Apply(changes ...kernel.Change) []error { return h.f.apply(changes, h.Host.Apply) }

func (p inside) LinkByIndex(index int) (l kernel.Link, err error) {
	err = p.f.do("pod link", func() (err error) { l, err = p.Pod.LinkByIndex(index); return err })
	return l, err
}

func (p inside) IsUp(name string) (up bool, err error) {
	err = p.f.do("is up", func() (err error) { up, err = p.Pod.IsUp(name); return err })
	return up, err
}

func (p inside) SwapSysctls(s []kernel.Setting) (old []kernel.Setting, err error) {
	err = p.f.do("pod sysctls", func() (err error) { old, err = p.Pod.SwapSysctls(s); return err })
	return old, err
}

func (p inside) Apply(changes ...kernel.Change) []error { return p.f.apply(changes, p.Pod.Apply) }

func (p inside) AddRoute(r kernel.Route) error {
	return p.f.do("add route", func() error { return p.Pod.AddRoute(r) })
}

// TestFailureAtAnyRequestLeavesNothing fails each request to the kernel in turn,
// once refused and once carried out but not answered.
func TestFailureAtAnyRequestLeavesNothing(t *testing.T) {
	for _, late := range []bool{false, true} {
		f := &faults{late: late}
		w := newWorld(t, func(cfg *podnet.Config) {
			cfg.Kernel = host{cfg.Kernel, f}
			cfg.OpenPod = func(ns *kernel.Netns) (podnet.Pod, error) {
				h, err := ns.Open()
				return inside{h, f}, err
			}
		})
		p := w.newPod()
		if err := p.SetSysctl("ipv4/ip_forward", "1"); err != nil {
			t.Fatal(err)
		}
		node, before := w.picture(w.node), w.picture(p.Handle)
		failures := 0
		for f.failAt = 1; ; f.failAt++ {
			f.seen, f.failed = 0, ""
			_, err := w.net.Add(context.Background(), attachment(p, 1))
			if err == nil {
				break
			}
			failures++
			if !errors.Is(err, errInjected) {
				t.Fatalf("request %d, %s: %v", f.failAt, f.failed, err)
			}
			if strings.Contains(err.Error(), "undo") {
				t.Errorf("request %d, %s: %v", f.failAt, f.failed, err)
			}
			if got := w.picture(w.node); got != node {
				t.Fatalf("request %d, %s: node before:\n%safter:\n%s", f.failAt, f.failed, node, got)
			}
			if got := w.picture(p.Handle); got != before {
				t.Fatalf("request %d, %s: pod before:\n%safter:\n%s", f.failAt, f.failed, before, got)
			}
		}
		if failures < 15 {
			t.Errorf("only %d requests were seen", failures)
		}
		if err := w.net.Check(context.Background(), attachment(p, 1), nil); err != nil {
			t.Errorf("late %v: the ADD after all failures: %v", late, err)
		}
	}
}

func TestFailedCompletionLeavesTheOldAttachment(t *testing.T) {
	f := &faults{}
	w := newWorld(t, func(cfg *podnet.Config) { cfg.Kernel = host{cfg.Kernel, f} })
	a := attachment(w.newPod(), 1)
	w.add(a)
	f.seen, f.failAt = 0, 2 // the create that says "exists" is the first
	if _, err := w.net.Add(context.Background(), a); !errors.Is(err, errInjected) {
		t.Fatalf("error %v", err)
	}
	if err := w.net.Check(context.Background(), a, nil); err != nil {
		t.Error(err)
	}
}

func TestAddGivesUpWhenItsContextEnds(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.net.Add(ctx, attachment(w.newPod(), 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := w.links(w.node); len(got) != 1 {
		t.Errorf("left on the node: %v", got)
	}
}

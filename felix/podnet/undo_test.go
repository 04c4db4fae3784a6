package podnet_test

import (
	"context"
	"errors"
	"net/netip"
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

func (h host) SetSysctls(s []kernel.Setting) error {
	return h.f.do("host sysctls", func() error { return h.Host.SetSysctls(s) })
}

func (h host) SetUp(index int) error {
	return h.f.do("host up", func() error { return h.Host.SetUp(index) })
}

func (h host) AddAddress(link int, prefix netip.Prefix) error {
	return h.f.do("host address", func() error { return h.Host.AddAddress(link, prefix) })
}

func (p inside) LinkByIndex(index int) (l kernel.Link, err error) {
	err = p.f.do("pod link", func() (err error) { l, err = p.Pod.LinkByIndex(index); return err })
	return l, err
}

func (p inside) Sysctl(name string) (v string, err error) {
	err = p.f.do("read "+name, func() (err error) { v, err = p.Pod.Sysctl(name); return err })
	return v, err
}

func (p inside) SetSysctls(s []kernel.Setting) error {
	return p.f.do("pod sysctls", func() error { return p.Pod.SetSysctls(s) })
}

func (p inside) SetUp(index int) error {
	return p.f.do("pod up", func() error { return p.Pod.SetUp(index) })
}

func (p inside) AddAddress(link int, prefix netip.Prefix) error {
	return p.f.do("add address", func() error { return p.Pod.AddAddress(link, prefix) })
}

func (p inside) SetNeighbour(n kernel.Neighbour) error {
	return p.f.do("set neighbour", func() error { return p.Pod.SetNeighbour(n) })
}

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
		if err := w.net.Check(context.Background(), attachment(p, 1)); err != nil {
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
	if err := w.net.Check(context.Background(), a); err != nil {
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

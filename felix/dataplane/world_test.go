package dataplane_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tortie/felix/calc"
	"tortie/felix/dataplane"
	"tortie/felix/podnet"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/routetable"
)

// kern is a kernel, real or fake.
type kern interface {
	dataplane.Kernel
	routetable.Kernel
	CreateVeth(kernel.VethSpec) (kernel.Link, error)
	AddRoute(kernel.Route) error
	AddAddress(link int, prefix netip.Prefix) error
	DeleteRoute(kernel.Route) error
	LinkByIndex(int) (kernel.Link, error)
	SetUp(int) error
	SetDown(int) error
	Rename(int, string) error
	DeleteLink(int) error
}

// onEachKernel runs one test on the fake kernel and on a real one.
func onEachKernel(t *testing.T, test func(*world)) {
	t.Run("fake", func(t *testing.T) { test(newWorld(t, fakekernel.New())) })
	t.Run("real", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6)
		test(newWorld(t, kerneltest.New(t)))
	})
}

// world is a node with a Loop.
type world struct {
	*testing.T
	kern kern
	loop *dataplane.Loop
	stop func()
	nat  *fakeRules
	cfg  dataplane.Config
}

func newWorld(t *testing.T, k kern) *world {
	w := &world{T: t, kern: k, nat: &fakeRules{}}
	w.cfg = dataplane.Config{
		Kernel: k, Rules: []dataplane.Rules{w.nat}, Devices: devices{k}, Log: slog.New(slog.DiscardHandler),
		RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond,
	}
	return w
}

// start starts a Loop, as a felix that knows nothing yet.
func (w *world) start() {
	w.Helper()
	w.cfg.Routes = routetable.New(routetable.Config{Kernel: w.kern, Protocol: kernel.ProtocolFelix})
	loop, err := dataplane.New(w.cfg)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	stopped := false
	w.loop, w.stop = loop, func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.Errorf("run: %v", err)
		}
	}
	w.Cleanup(w.stop)
}

// startInSync starts a Loop that knows the datastore.
func (w *world) startInSync(s calc.State) {
	w.Helper()
	w.start()
	w.loop.SetState(s)
	w.loop.InSync()
}

// device makes the host end of a pod's veth pair.
func (w *world) device(name string) kernel.Link {
	w.Helper()
	l, err := w.kern.CreateVeth(kernel.VethSpec{Host: name, Peer: "p" + name[len(name)-5:]})
	if err != nil {
		w.Fatal(err)
	}
	if err := w.kern.SetUp(l.PeerIndex); err != nil {
		w.Fatal(err)
	}
	return l
}

func (w *world) upsert(ep calc.Endpoint) {
	w.Helper()
	if err := w.loop.Upsert(w.Context(), ep, 0); err != nil {
		w.Fatal(err)
	}
}

func (w *world) remove(ep calc.Endpoint) {
	w.Helper()
	if err := w.loop.Remove(w.Context(), ep.ID, ep.ContainerID); err != nil {
		w.Fatal(err)
	}
}

const probeIf = "cali99999999999"

// barrier returns when the Loop has acted on everything asked for before.
func (w *world) barrier() {
	w.Helper()
	if _, err := w.kern.LinkByName(probeIf); errors.Is(err, kernel.ErrNotFound) {
		w.device(probeIf)
	}
	probe := endpoint("probe", "c", probeIf, "10.99.0.1")
	w.upsert(probe)
	w.remove(probe)
}

// routes are those of protocol 80 in the main table, as text.
func (w *world) routes() []string {
	w.Helper()
	list, err := w.kern.Routes(w.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
	if err != nil {
		w.Fatal(err)
	}
	links, err := w.kern.Links()
	if err != nil {
		w.Fatal(err)
	}
	out := []string{}
	for _, r := range list {
		s := r.Dst.String()
		if r.Type == kernel.RouteBlackhole {
			s = "blackhole " + s
		}
		for _, l := range links {
			if l.Index == r.Link {
				s += " " + l.Name
			}
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func (w *world) wantRoutes(want ...string) {
	w.Helper()
	slices.Sort(want)
	if have := w.routes(); !slices.Equal(have, want) {
		w.Errorf("routes %q, want %q", have, want)
	}
}

// becomes waits until the routes are as wanted, looking after each event.
func (w *world) becomes(want ...string) {
	w.Helper()
	slices.Sort(want)
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	events, err := w.kern.Subscribe(ctx, kernel.LinkEvents|kernel.RouteEvents)
	if err != nil {
		w.Fatal(err)
	}
	for {
		have := w.routes()
		if slices.Equal(have, want) {
			return
		}
		if _, ok := <-events; !ok {
			w.Fatalf("routes stay %q, want %q", have, want)
		}
	}
}

func endpoint(name, container, iface string, ips ...string) calc.Endpoint {
	ep := calc.Endpoint{ID: calc.EndpointID{Namespace: "ns1", Name: name}, ContainerID: container, Interface: iface}
	for _, ip := range ips {
		ep.Addrs = append(ep.Addrs, netip.MustParseAddr(ip))
	}
	return ep
}

func state(eps ...calc.Endpoint) calc.State {
	s := calc.State{Endpoints: map[calc.EndpointID]calc.Endpoint{}}
	for _, ep := range eps {
		s.Endpoints[ep.ID] = ep
	}
	return s
}

// devices is the part of podnet that a Loop uses, on either kernel.
type devices struct{ kern kern }

func (d devices) Devices(context.Context) ([]podnet.Device, error) {
	links, err := d.kern.Links()
	var out []podnet.Device
	for _, l := range links {
		if strings.HasPrefix(l.Name, calc.InterfacePrefix) {
			out = append(out, podnet.Device{Name: l.Name, Index: l.Index, Up: l.Up})
		}
	}
	return out, err
}

func (d devices) RemoveDevice(_ context.Context, dev podnet.Device) error {
	return d.kern.DeleteLink(dev.Index)
}

// fakeRules keeps what it was told, and fails on demand.
type fakeRules struct {
	mu               sync.Mutex
	desired, applied calc.State
	err              error
	applies, resyncs int
	differences      []string // that Check finds
}

func (n *fakeRules) Set(s calc.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.desired = s
}

func (n *fakeRules) QueueResync() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resyncs++
}

func (n *fakeRules) Apply(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applies++
	if n.err == nil {
		n.applied = n.desired
	}
	return n.err
}

func (n *fakeRules) Check(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.differences, n.err
}

// find has Check find that.
func (n *fakeRules) find(differences ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.differences = differences
}

// fail has every attempt from now on answer err.
func (n *fakeRules) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

// look is how often Apply was called, and what the kernel would have.
func (n *fakeRules) look() (applies int, applied calc.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.applies, n.applied
}

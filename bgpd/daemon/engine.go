package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"tortie/bgpd/bfd/server"
	"tortie/bgpd/fib"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/kernel"
)

// Kernel is what the engine needs of [kernel.Handle].
type Kernel interface {
	fib.Kernel
	SubscribeExcept(ctx context.Context, topics kernel.Topics, ignore kernel.Ignore) (<-chan kernel.Event, error)
}

const (
	// settle gathers the kernel events of one change, such as a link that comes up.
	settle = 50 * time.Millisecond
	// readPace bounds how often the kernel is read while events keep coming, as on a
	// node where another network's containers come and go.
	readPace = 250 * time.Millisecond
	// together is the time in which what follows a change of best paths is gathered: a table
	// of very many routes comes one by one, and each look at the kernel's state has its price.
	together = 5 * time.Millisecond
	// tick is how often something that failed is tried again, and how exactly the
	// restart timers are kept.
	tick = time.Second
	// resyncEvery bounds how long a route that someone else changed stays changed.
	resyncEvery = time.Minute
)

// plan is what the node has to be, and what of the datastore can't be read, which
// the Syncer has logged.
type plan struct {
	topology.Output
	unreadable []string
}

// engine carries plans to the speaker and what the speaker learns into the
// kernel. Everything happens in the goroutine of run; others ask through do.
type engine struct {
	kernel   Kernel
	speaker  speaker.Speaker
	detector detector
	live     *liveness
	fib      *fib.FIB
	log      *slog.Logger
	now      func() time.Time
	calls    chan func()
	started  time.Time

	// reader reads the kernel for those who ask: in their goroutines, and not by the socket
	// that routes are written by.
	reader  routeReader
	plan    plan
	planned bool      // plan is a plan
	takenAt time.Time // when it became the present one
	readAt  time.Time // when the kernel was last read
	names   map[netip.Addr]topology.Peer
	history *fib.History
	waits   *convergence
	loading *loading
	flaps   map[kind]uint64 // sessions that went down, since the start
	links   []speaker.Link  // as the speaker was told
	// Why the last attempt failed; retried until nil.
	speakerErr, readErr, kernelErr error
	missing                        string   // as last logged
	logged                         []string // problems, as last logged
}

func newEngine(k Kernel, s speaker.Speaker, log *slog.Logger, now func() time.Time) *engine {
	e := &engine{
		kernel: k, reader: k, speaker: s, detector: server.New(log), live: newLiveness(), fib: fib.New(k, log), log: log, now: now,
		calls: make(chan func()), started: now(), names: map[netip.Addr]topology.Peer{},
		history: fib.NewHistory(now), waits: newConvergence(), loading: newLoading(), flaps: map[kind]uint64{},
	}
	e.fib.Record(e.history)
	return e
}

// do runs f in the engine's goroutine.
func (e *engine) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case e.calls <- func() { defer close(done); f() }:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// run returns when ctx is done, with routes and sessions as they are: what ends
// here goes on at the next start.
func (e *engine) run(ctx context.Context, plans <-chan plan) error {
	// What felix does for its pods resolves no next hop, and would wake bgpd a dozen
	// times with each. A link-local next hop is found by its link alone. Nor is there
	// anything to learn from our own routes, of which there may be very many.
	ignore := kernel.Pods()
	ignore.Self = true
	events, err := e.kernel.SubscribeExcept(ctx, kernel.LinkEvents|kernel.AddressEvents|kernel.RouteEvents, ignore)
	if err != nil {
		return err
	}
	if err := e.fib.Read(ctx); err != nil {
		return err
	}
	ticker, resync := time.NewTicker(tick), time.NewTicker(resyncEvery)
	defer ticker.Stop()
	defer resync.Stop()
	e.loading.begin()
	defer e.loading.stop()
	var settled, gathered <-chan time.Time
	changed := e.speaker.Changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-e.calls:
			f()
			continue
		case plan := <-plans:
			e.take(ctx, plan)
		case <-changed:
			e.learn(ctx, e.speaker.Take())
			changed, gathered = nil, time.After(together)
		case <-e.loading.over():
			e.loading.done()
			continue
		case <-gathered:
			changed, gathered = e.speaker.Changed(), nil
			continue
		case <-e.detector.Changed():
			e.detect(ctx)
		case ev, ok := <-events:
			if ctx.Err() != nil {
				return nil // which ends the events as well
			}
			if !ok {
				return errors.New("watch the kernel: it says nothing more")
			}
			if e.event(ev) && settled == nil {
				settled = time.After(max(settle, e.readAt.Add(readPace).Sub(e.now())))
			}
			continue
		case <-settled:
			settled = nil
			e.read(ctx)
		case <-ticker.C:
			if e.speakerErr == nil && e.readErr == nil && e.kernelErr == nil && e.fib.Settled() {
				continue
			}
			e.retry(ctx)
		case <-resync.C:
			e.fib.QueueResync()
			e.read(ctx)
		}
		e.apply(ctx)
	}
}

// take makes a plan the present one.
func (e *engine) take(ctx context.Context, plan plan) {
	if plan.Missing != "" {
		if e.planned {
			plan.Missing = lostNode(plan)
		}
		if e.missing != plan.Missing {
			e.log.Warn("waiting for this node's resource", "cause", plan.Missing)
		}
		e.missing = plan.Missing
		// What runs goes on: a Node that was deleted by mistake must not cost traffic.
		e.plan.Missing, e.plan.Problems, e.plan.unreadable = plan.Missing, plan.Problems, plan.unreadable
		return
	}
	e.missing = ""
	e.logProblems(plan.Problems)
	e.logChanges(plan)
	e.waits.expect(e.plan.Output, plan.Output, e.planned, e.now())
	e.plan, e.planned, e.takenAt = plan, true, e.now()
	clear(e.names)
	for _, p := range plan.Peers {
		e.names[p.Address] = p
	}
	e.fib.Reach(plan.Gateways())
	e.fib.Expect(plan.Desired().Peers, plan.Scope(), e.now())
	e.live.expect(plan.Peers)
	e.watch()
	e.tell(ctx)
}

// lostNode says that what was there before is no longer.
func lostNode(plan plan) string {
	what := "this node's Node resource can no longer be used"
	if plan.NoNode {
		what = "this node's Node resource is gone"
	}
	return what + ": " + plan.Missing + "; until then sessions and exports stay as they were"
}

// logChanges logs what a new plan changes in the sessions.
func (e *engine) logChanges(plan plan) {
	if !e.planned {
		e.log.Info("configuration read", "asn", plan.Global.ASN, "router-id", plan.Global.RouterID, "mesh", plan.Mesh)
	}
	switch {
	case !e.planned:
	case plan.Mesh && !e.plan.Mesh:
		e.log.Info("node-to-node mesh switched on")
	case !plan.Mesh && e.plan.Mesh:
		e.log.Info("node-to-node mesh switched off")
	}
	if e.planned && plan.Shutdown != e.plan.Shutdown {
		e.log.Info("graceful shutdown", "asked-for", plan.Shutdown, "label", api.LabelGracefulShutdown)
	}
	still := map[netip.Addr]bool{}
	for _, p := range plan.Peers {
		still[p.Address] = true
		old, known := e.names[p.Address]
		switch {
		case !known:
			e.log.Info("peer added", "name", p.Name, "peer", p.Address, "asn", p.ASN, "type", string(p.Type))
		case old.Peer != p.Peer && old.SameSession(p.Peer):
			e.log.Info("peer changed, its session goes on", "name", p.Name, "peer", p.Address)
		case old.Peer != p.Peer:
			e.log.Info("peer changed, its session starts anew", "name", p.Name, "peer", p.Address, "asn", p.ASN, "type", string(p.Type))
		case !reflect.DeepEqual(old.Filter, p.Filter):
			e.log.Info("filter of a peer changed, its session stays", "name", p.Name, "peer", p.Address)
		}
	}
	for _, p := range e.plan.Peers {
		if !still[p.Address] {
			e.log.Info("peer removed", "name", p.Name, "peer", p.Address)
		}
	}
}

// logProblems logs what is new. While the node waits for its resource that is the
// one thing logged.
func (e *engine) logProblems(now []string) {
	for _, p := range now {
		if !slices.Contains(e.logged, p) {
			e.log.Warn("problem in the configuration", "problem", p)
		}
	}
	e.logged = now
}

// tell gives the plan to the speaker.
func (e *engine) tell(ctx context.Context) {
	d := e.plan.Desired()
	e.links = e.linksFor(d)
	d.Links = e.links
	err := e.speaker.Apply(ctx, d)
	if isNews(e.speakerErr, err) {
		e.log.Error("BGP speaker is not as configured, trying again", "err", err)
	}
	e.speakerErr = err
}

// isNews lets an error be logged once, however often it comes back.
func isNews(old, err error) bool {
	return err != nil && (old == nil || old.Error() != err.Error())
}

func (e *engine) learn(ctx context.Context, c speaker.Changes) {
	e.fib.Update(c, e.now())
	e.bgpChanged(c.Peers)
	e.waits.changes += uint64(len(c.Best))
	e.loading.learned(c.Peers, e.fib.Len())
	var down []netip.Addr
	pods := false
	for addr, s := range c.Peers {
		pods = pods || s.Established && e.names[addr].Workload != ""
		switch {
		case s.Removed:
		case s.Established:
			e.log.Info("BGP session up", "peer", addr, "name", e.names[addr].Name, "end-of-rib", s.EndOfRIB)
		default:
			down = append(down, addr)
			e.flaps[kindOf(e.peer(addr))]++
		}
	}
	if pods {
		e.read(ctx) // the kernel doesn't tell of the routes to pods
	}
	if len(down) == 0 {
		return
	}
	states, err := e.speaker.Peers(ctx)
	if err != nil {
		return
	}
	for _, s := range states {
		if slices.Contains(down, s.Peer.Address) {
			e.log.Warn("BGP session down", "peer", s.Peer.Address, "name", e.names[s.Peer.Address].Name, "cause", because(e.live.dead()[s.Peer.Address], s.Info))
		}
	}
}

// peer is the configured peer at an address; what is no longer one has no type.
func (e *engine) peer(addr netip.Addr) topology.Peer {
	p := e.names[addr]
	p.Address = addr
	return p
}

// event reports whether the kernel has to be read again. What we do ourselves
// changes nothing here.
func (e *engine) event(ev kernel.Event) bool {
	switch ev := ev.(type) {
	case kernel.LinkEvent:
		e.fib.LinkChanged(ev.Link.Index)
		return true
	case kernel.RouteEvent:
		if ev.Route.Protocol == kernel.ProtocolBGP {
			// Ours are taken away by others only: we delete none that we desire.
			taken := ev.Gone && e.fib.Installed(ev.Route.Dst)
			if taken {
				e.fib.QueueResync()
			}
			return taken
		}
		if ev.Route.Table == kernel.TableMain {
			e.fib.PlaceChanged(ev.Route.Dst)
		}
		return ev.Route.Table == kernel.TableMain
	case kernel.Resync:
		e.fib.QueueResync()
	case kernel.AddressEvent:
		// Every pod's device gets a link-local one; no next hop is resolved by those.
		if ev.Address.Prefix.Addr().IsLinkLocalUnicast() {
			return false
		}
		// The IPv4 routes that go with an address go without an event.
		e.fib.QueueResync()
	}
	return true
}

func (e *engine) read(ctx context.Context) {
	e.readAt = e.now()
	err := e.fib.Read(ctx)
	if isNews(e.readErr, err) {
		e.log.Error("the kernel's routes can't be read, trying again", "err", err)
	}
	e.readErr = err
	e.watch()
	if e.planned && !slices.Equal(e.links, e.linksFor(e.plan.Desired())) {
		e.tell(ctx)
	}
}

// linksFor are the host's subnets, if a filter asks for devices.
func (e *engine) linksFor(d speaker.Desired) []speaker.Link {
	asks := func(r speaker.Rule) bool { return r.Interface != "" }
	for _, f := range d.Filters {
		if slices.ContainsFunc(f.Import, asks) || slices.ContainsFunc(f.Export, asks) {
			return e.fib.Links()
		}
	}
	return nil
}

func (e *engine) retry(ctx context.Context) {
	if e.speakerErr != nil {
		e.tell(ctx)
	}
	if e.readErr != nil || e.kernelErr != nil {
		e.read(ctx)
	}
}

func (e *engine) apply(ctx context.Context) {
	if !e.planned {
		return // nothing in the kernel is changed before there is a plan
	}
	err := e.fib.Apply(ctx, e.now())
	if ctx.Err() != nil {
		return
	}
	if isNews(e.kernelErr, err) {
		e.log.Error("routes are not as learned, trying again", "err", err)
	}
	e.kernelErr = err
	if err == nil {
		e.waits.installed(e.fib.Entry, e.now())
	}
}

// problems are the conditions someone should look at.
func (e *engine) problems() []string {
	var out []string
	if e.plan.Missing != "" {
		out = append(out, e.plan.Missing)
	}
	for _, err := range []error{e.speakerErr, e.readErr, e.kernelErr} {
		if err != nil {
			out = append(out, strings.Split(err.Error(), "\n")...)
		}
	}
	if problem := e.detector.Problem(); problem != "" {
		out = append(out, strings.Split(problem, "\n")...)
	}
	out = append(out, e.plan.Problems...)
	out = append(out, e.plan.unreadable...)
	out = append(out, e.fib.Problems()...)
	if t := e.fib.Tally(); t.Unreachable > 0 {
		out = append(out, fmt.Sprintf("%d learned routes are not installed because their next hop is unreachable, first %s", t.Unreachable, t.Example))
	}
	return out
}

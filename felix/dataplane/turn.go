package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tortie/felix/calc"
	"tortie/internal/kernel"
	"tortie/internal/routetable"
)

// idle is the pause when nothing is due: something wakes the Loop first.
const idle = 24 * time.Hour

// work is what one turn is about, taken out of the Loop at its start. Whoever
// calls later is served by the next turn.
type work struct {
	waiters []*waiter
	hints   hints
	inSync  bool
	hold    bool        // devices may not be swept
	rules   *calc.State // for Rules; nil: as before
	// tunnels, remotes: what should be of them has changed.
	tunnels, remotes bool
}

// turn makes the kernel agree with what is asked for now, answers those who wait
// and returns when to come again. retry says that the pause after a failure is
// over.
func (l *Loop) turn(ctx context.Context, retry bool) time.Duration {
	w := l.take()
	linkErr := l.refreshLinks(&w.hints)
	if linkErr != nil && !l.links.read {
		// Never read so far: every pod would count as gone, and its routes go.
		return l.putOff(&w, linkErr)
	}
	overlayErr := l.applyTunnels(ctx, &w, retry)
	l.declare(&w)
	overlayErr = errors.Join(overlayErr, l.declareRemotes(ctx, &w, retry))
	l.cfg.Routes.HoldStale(!w.inSync || l.remotes.unknown(overlayErr))
	if w.hints.resync {
		l.cfg.Routes.QueueResync()
	}
	routeErr := errors.Join(linkErr, l.cfg.Routes.Apply(ctx))
	l.suspectLinks(routeErr)
	l.answer(ctx, w.waiters, routeErr)
	err := errors.Join(routeErr, overlayErr, l.applyRules(ctx, &w, retry))
	if ctx.Err() != nil {
		return idle
	}
	next := min(l.untold(), l.nextRetirement())
	if w.inSync && l.cfg.Devices != nil {
		next = min(next, l.sweepDevices(ctx, &w))
	}
	l.report(&w, err)
	if err == nil {
		l.retry.reset()
		return next
	}
	return min(next, l.retry.next())
}

// putOff ends a turn that must not touch the kernel: what it was about is there for
// the next, and those who wait are told why.
func (l *Loop) putOff(w *work, err error) time.Duration {
	l.mu.Lock()
	l.hints.resync, l.hints.rules = l.hints.resync || w.hints.resync, l.hints.rules || w.hints.rules
	l.rulesDue = l.rulesDue || w.rules != nil
	l.tunnelsDue, l.remotesDue = l.tunnelsDue || w.tunnels, l.remotesDue || w.remotes
	l.mu.Unlock()
	for _, waiter := range w.waiters {
		waiter.done <- err
	}
	l.report(w, err)
	return l.retry.next()
}

func (l *Loop) take() work {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := work{
		waiters: l.waiters, hints: l.hints, inSync: l.inSync, hold: l.state.HoldDevices,
	}
	l.waiters, l.hints = nil, newHints()
	if l.inSync {
		w.tunnels, w.remotes = l.tunnelsDue, l.remotesDue
		l.tunnelsDue, l.remotesDue = false, false
	}
	if l.rulesDue && l.inSync {
		l.rulesDue = false
		state := l.state
		w.rules = &state
	}
	return w
}

// declare tells the route table what changed about what should be. Before InSync
// that is what CNI calls asked for, on top of what is found in the kernel.
func (l *Loop) declare(w *work) {
	l.mu.Lock()
	desired, missing := l.desiredRoutes(w.inSync)
	before := l.desired
	l.desired = desired
	l.mu.Unlock()
	for dst := range before {
		if _, still := desired[dst]; !still {
			l.giveUp(dst)
		}
	}
	for dst, c := range desired {
		if before[dst].route != c.route {
			l.cfg.Routes.Update(c.route)
		}
	}
	for _, waiter := range w.waiters {
		for _, a := range waiter.endpoint.Addrs {
			if _, wanted := desired[host(a)]; waiter.removed && !wanted {
				l.giveUp(host(a)) // also one that an earlier process wrote
			}
		}
	}
	l.reportMissing(missing)
}

// claim is a desired route and the endpoint it is for; a blackhole is for none.
type claim struct {
	route kernel.Route
	id    calc.EndpointID
	fresh bool // asked for by a CNI call that the datastore does not show yet
}

// yields reports whether a claim gives way to another of the same address. An
// endpoint of a CNI call is younger than one of the datastore.
func (c claim) yields(to claim) bool {
	if c.fresh != to.fresh {
		return to.fresh
	}
	return to.id.String() < c.id.String()
}

// desiredRoutes is called with the lock held.
func (l *Loop) desiredRoutes(inSync bool) (map[netip.Prefix]claim, map[calc.EndpointID]calc.Endpoint) {
	routes := make(map[netip.Prefix]claim, len(l.desired)+1)
	missing := map[calc.EndpointID]calc.Endpoint{}
	l.endpoints.all(func(ep calc.Endpoint, fresh bool) {
		if !fresh && !inSync {
			return
		}
		link, ok := l.links.up(ep.Interface)
		if !ok {
			missing[ep.ID] = ep
			return
		}
		for _, a := range ep.Addrs {
			dst := host(a)
			mine := claim{route: workloadRoute(dst, link), id: ep.ID, fresh: fresh}
			if other, taken := routes[dst]; !taken || other.yields(mine) {
				routes[dst] = mine
			}
		}
	})
	if !inSync {
		return routes, missing
	}
	for _, block := range l.state.Blocks {
		if _, taken := routes[block]; !taken {
			routes[block] = claim{route: blackhole(block)}
		}
	}
	return routes, missing
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func workloadRoute(dst netip.Prefix, link int) kernel.Route {
	return kernel.Route{
		Dst: dst, Table: kernel.TableMain, Protocol: kernel.ProtocolFelix,
		Type: kernel.RouteUnicast, Scope: kernel.ScopeLink, Link: link,
	}.Normal()
}

// blackhole keeps packets to an address of a local block that no workload has
// from going back out by the default route, and around in circles.
func blackhole(block netip.Prefix) kernel.Route {
	return kernel.Route{
		Dst: block, Table: kernel.TableMain, Protocol: kernel.ProtocolFelix, Type: kernel.RouteBlackhole,
	}.Normal()
}

// suspectLinks has the links read again over which the kernel refused routes.
func (l *Loop) suspectLinks(err error) {
	var gone *routetable.LinkError
	if !errors.As(err, &gone) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hints.allLinks = true
}

// answer tells each waiter what became of its endpoint. When something failed, the
// kernel is asked whether it was theirs.
func (l *Loop) answer(ctx context.Context, waiters []*waiter, applyErr error) {
	var inKernel map[kernel.Route]struct{}
	if applyErr != nil && len(waiters) > 0 {
		routes, err := l.cfg.Kernel.Routes(ctx, kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
		if err == nil {
			inKernel = make(map[kernel.Route]struct{}, len(routes))
			for _, r := range routes {
				inKernel[r] = struct{}{}
			}
		}
	}
	for _, w := range waiters {
		w.done <- l.outcome(w, inKernel, applyErr)
	}
}

func (l *Loop) outcome(w *waiter, inKernel map[kernel.Route]struct{}, applyErr error) error {
	link, up := l.links.up(w.endpoint.Interface)
	if !w.removed && !up {
		return fmt.Errorf("%s: %w", w.endpoint.Interface, ErrNoInterface)
	}
	for _, a := range w.endpoint.Addrs {
		want, dst := workloadRoute(host(a), link), host(a)
		l.mu.Lock()
		declared, isDeclared := l.desired[dst]
		l.mu.Unlock()
		if w.removed {
			if isDeclared {
				continue // it belongs to another endpoint by now
			}
			if applyErr != nil && (inKernel == nil || anyTo(inKernel, dst)) {
				return errorFor(applyErr, dst)
			}
			continue
		}
		if !isDeclared || declared.route != want {
			return fmt.Errorf("%s was given to another endpoint, or taken away, meanwhile", a)
		}
		if _, there := inKernel[want]; applyErr != nil && !there {
			return errorFor(applyErr, dst)
		}
	}
	return nil
}

func anyTo(routes map[kernel.Route]struct{}, dst netip.Prefix) bool {
	for r := range routes {
		if r.Dst == dst {
			return true
		}
	}
	return false
}

// errorFor picks out of the errors of an Apply the one about a destination; all of
// them where none says that it is.
func errorFor(err error, dst netip.Prefix) error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	for _, e := range list.Unwrap() {
		var conflict *routetable.ConflictError
		var gone *routetable.LinkError
		if errors.As(e, &conflict) && conflict.Desired.Dst == dst {
			return conflict
		}
		if errors.As(e, &gone) && slices.Contains(gone.Dsts, dst) {
			return gone
		}
	}
	return err
}

// applyRules leaves a failed attempt alone until the pause after it is over, so that
// it does not slow every CNI call down.
func (l *Loop) applyRules(ctx context.Context, w *work, retry bool) error {
	if !w.inSync {
		return nil
	}
	resync := w.hints.resync || w.hints.rules
	for _, rules := range l.cfg.Rules {
		if w.rules != nil {
			rules.Set(*w.rules)
		}
		if resync {
			rules.QueueResync()
		}
	}
	if w.rules == nil && !resync && !(l.ruleErr != nil && retry) {
		return l.ruleErr
	}
	var errs []error
	for _, rules := range l.cfg.Rules {
		errs = append(errs, rules.Apply(ctx))
	}
	l.ruleErr = errors.Join(errs...)
	return l.ruleErr
}

// absence is an interface that an endpoint waits for.
type absence struct {
	since time.Time
	told  bool
}

// absenceTold is how long an interface must be missing before that is said: during
// an ADD the datastore is often ahead of the kernel.
const absenceTold = 10 * time.Second

// reportMissing says once of an endpoint that its interface is missing, and once
// that it is there.
func (l *Loop) reportMissing(now map[calc.EndpointID]calc.Endpoint) {
	for id, ep := range now {
		a, known := l.missing[id]
		if !known {
			a = &absence{since: time.Now()}
			l.missing[id] = a
		}
		if !a.told && time.Since(a.since) >= absenceTold {
			a.told = true
			l.log.Warn("endpoint waits for its interface", "workload", id.String(), "iface", ep.Interface)
		}
	}
	for id, a := range l.missing {
		if _, still := now[id]; still {
			continue
		}
		delete(l.missing, id)
		if a.told {
			l.log.Info("endpoint no longer waits for its interface", "workload", id.String())
		}
	}
}

// untold is when there will be something to say of a missing interface.
func (l *Loop) untold() time.Duration {
	next := idle
	for _, a := range l.missing {
		if !a.told {
			next = min(next, max(absenceTold-time.Since(a.since), time.Millisecond))
		}
	}
	return next
}

// report keeps the status and logs what changed about the error.
func (l *Loop) report(w *work, err error) {
	pending := l.cfg.Routes.Pending()
	waiting := make([]calc.EndpointID, 0, len(l.missing))
	for id := range l.missing {
		waiting = append(waiting, id)
	}
	slices.SortFunc(waiting, func(a, b calc.EndpointID) int { return cmp.Compare(a.String(), b.String()) })
	l.mu.Lock()
	s := &l.status
	before := s.LastError
	s.LastApply, s.LastError, s.PendingRoutes, s.Waiting = time.Now(), err, pending, waiting
	s.Applies++
	if err != nil {
		s.Failures++
	}
	if w.hints.resync {
		s.Resyncs++
	}
	l.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		l.log.Warn("kernel is not as it should be yet", "err", err, "pending-routes", pending)
	case err == nil && before != nil:
		l.log.Info("kernel is as it should be again")
	}
}

// backoff is the pause before a retry.
type backoff struct {
	min, max, now time.Duration
}

func (b *backoff) next() time.Duration {
	b.now = min(max(2*b.now, b.min), b.max)
	return b.now
}

func (b *backoff) reset() { b.now = 0 }

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"tortie/felix/calc"
	"tortie/internal/kernel"
)

// Check reads an endpoint's routes and limits from the kernel, and the packet rules, which
// are the node's, and names what is not as it should be; none is a success. What can't be
// read keeps nothing else from being looked at. It changes nothing: what was changed by a
// stranger is put back by the loop, which is told of it.
func (l *Loop) Check(ctx context.Context, ep calc.Endpoint) (differences []string, err error) {
	differences, err = l.checkEndpoint(ctx, ep)
	errs := []error{err}
	for _, rules := range l.cfg.Rules {
		wrong, err := rules.Check(ctx)
		differences, errs = append(differences, wrong...), append(errs, err)
	}
	return differences, errors.Join(errs...)
}

// checkEndpoint reads only felix's routes: the whole table may be a fabric's.
func (l *Loop) checkEndpoint(ctx context.Context, ep calc.Endpoint) (differences []string, err error) {
	have, err := l.cfg.Kernel.Routes(ctx, kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
	if err != nil {
		return nil, fmt.Errorf("check routes of %s: %w", ep.ID, err)
	}
	link, err := l.cfg.Kernel.LinkByName(ep.Interface)
	if err != nil {
		return nil, fmt.Errorf("check routes of %s: %w", ep.ID, err)
	}
	for _, a := range append(slices.Clone(ep.Addrs), l.floating(ep, link.Index)...) {
		want := workloadRoute(host(a), link.Index)
		if slices.Contains(have, want) {
			continue
		}
		i := slices.IndexFunc(have, func(r kernel.Route) bool { return r.Dst == want.Dst })
		if i < 0 {
			differences = append(differences, fmt.Sprintf("felix's route to %s is missing on the node", a))
			continue
		}
		differences = append(differences, fmt.Sprintf("the node's route to %s is %q, want %q", a, have[i], want))
	}
	if ep.Limits == nil {
		return differences, nil
	}
	wrong, err := l.checkLimits(ctx, Limited{Interface: ep.Interface, Link: link.Index, Limits: ep.Limits})
	return append(differences, wrong...), err
}

// floating are the floating addresses of an endpoint that no other has as its own, nor as a
// floating one instead.
func (l *Loop) floating(ep calc.Endpoint, link int) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []netip.Addr
	if stored := l.state.Endpoints[ep.ID]; stored.ContainerID == ep.ContainerID {
		for _, f := range stored.Floating {
			if l.desired[host(f.External)].route == workloadRoute(host(f.External), link) {
				out = append(out, f.External)
			}
		}
	}
	return out
}

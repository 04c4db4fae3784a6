package dataplane

import (
	"context"
	"fmt"
	"slices"

	"tortie/felix/calc"
	"tortie/internal/kernel"
)

// Check reads an endpoint's routes and limits from the kernel and names each that is not as
// it should be; none is a success. Only felix's routes are read, for the whole table
// may be a fabric's. It changes nothing: what was changed by a
// stranger is put back by the loop, which is told of it.
func (l *Loop) Check(ctx context.Context, ep calc.Endpoint) (differences []string, err error) {
	have, err := l.cfg.Kernel.Routes(ctx, kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
	if err != nil {
		return nil, fmt.Errorf("check routes of %s: %w", ep.ID, err)
	}
	link, err := l.cfg.Kernel.LinkByName(ep.Interface)
	if err != nil {
		return nil, fmt.Errorf("check routes of %s: %w", ep.ID, err)
	}
	for _, a := range ep.Addrs {
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

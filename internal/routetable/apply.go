package routetable

import (
	"context"
	"errors"
	"fmt"

	"tortie/internal/kernel"
)

// read replaces what is believed of the kernel by what it says.
func (t *Table) read(ctx context.Context) error {
	actual, err := t.dump(ctx, t.cfg.Protocol)
	if err != nil {
		return err
	}
	drifted := 0
	for k, r := range t.routes.AllActual() {
		if actual[k] != r {
			drifted++
		}
	}
	if t.everRead && drifted > 0 {
		t.cfg.Log.Warn("routes changed behind our back", "protocol", t.cfg.Protocol,
			"table", t.cfg.Table, "routes", drifted)
	}
	t.routes.ReplaceActual(actual)
	clear(t.conflicts)
	t.needsRead, t.everRead = false, true
	return nil
}

// dump reads the table; of two routes in one place the first, which the kernel
// prefers, counts.
func (t *Table) dump(ctx context.Context, protocol kernel.Protocol) (map[key]kernel.Route, error) {
	found := map[key]kernel.Route{}
	for _, family := range t.cfg.Families {
		routes, err := t.cfg.Kernel.Routes(ctx, kernel.RouteFilter{
			Family: family, Table: t.cfg.Table, Protocol: protocol,
		})
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if _, ok := found[keyOf(r)]; !ok {
				found[keyOf(r)] = r
			}
		}
	}
	return found, nil
}

// write makes every desired route that is missing or different. A place that is
// believed empty is only ever added to, so that a stranger's route in it is
// noticed instead of replaced.
func (t *Table) write(ctx context.Context, failed *failures) {
	var taken []kernel.Route
	for k, r := range t.routes.PendingUpdates() {
		if ctx.Err() != nil {
			return
		}
		var err error
		if _, ours := t.routes.Actual(k); ours {
			err = t.cfg.Kernel.ReplaceRoute(r)
		} else {
			err = t.cfg.Kernel.AddRoute(r)
		}
		if errors.Is(err, kernel.ErrExists) {
			// Looking at the whole table once for each conflict is enough.
			if c, known := t.conflicts[k]; known {
				failed.add(r, &ConflictError{Conflict: c})
			} else {
				taken = append(taken, r)
			}
			continue
		}
		t.wrote(k, r, err, failed)
	}
	if len(taken) > 0 {
		t.takeOver(ctx, taken, failed)
	}
}

func (t *Table) wrote(k key, r kernel.Route, err error, failed *failures) {
	if err != nil {
		failed.add(r, err)
		return
	}
	delete(t.conflicts, k)
	t.routes.SetActual(k, r)
}

// takeOver looks who sits in the places that were believed empty: a route of our
// own, from a former life, is replaced; another program's is left alone.
func (t *Table) takeOver(ctx context.Context, taken []kernel.Route, failed *failures) {
	there, err := t.dump(ctx, 0)
	if err != nil {
		failed.add(taken[0], fmt.Errorf("find out who holds its place: %w", err))
		return
	}
	for _, r := range taken {
		k := keyOf(r)
		occupant, ok := there[k]
		switch {
		case ctx.Err() != nil:
			return
		case !ok:
			t.wrote(k, r, t.cfg.Kernel.AddRoute(r), failed)
		case occupant == r:
			t.wrote(k, r, nil, failed)
		case occupant.Protocol == t.cfg.Protocol:
			t.wrote(k, r, t.cfg.Kernel.ReplaceRoute(r), failed)
		default:
			t.conflicts[k] = Conflict{Desired: r, Occupant: occupant}
			failed.add(r, &ConflictError{Conflict: t.conflicts[k]})
		}
	}
}

// sweep removes what is ours and not desired.
func (t *Table) sweep(ctx context.Context, failed *failures) {
	for k, r := range t.routes.PendingDeletes() {
		if ctx.Err() != nil {
			return
		}
		if t.held(k) {
			continue
		}
		if err := t.cfg.Kernel.DeleteRoute(r); err != nil {
			failed.add(r, err)
			continue
		}
		t.routes.DeleteActual(k)
		t.restore(k, failed)
	}
}

// restore makes up for a trap: to the kernel an IPv4 deletion of metric 0 means
// any metric, so had the route gone behind our back, the desired one of another
// metric went in its stead.
func (t *Table) restore(deleted key, failed *failures) {
	metric, wanted := t.metrics[deleted.dst]
	if !wanted || deleted.priority != 0 || !deleted.dst.Addr().Is4() {
		return
	}
	k := key{deleted.dst, metric}
	if r, there := t.routes.Actual(k); there {
		if err := t.cfg.Kernel.ReplaceRoute(r); err != nil {
			t.routes.DeleteActual(k)
			failed.add(r, err)
		}
	}
}

// ConflictError says that another program's route holds the place of a desired
// one.
type ConflictError struct {
	Conflict
}

// Error names both routes and what to do.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("add route %s: a route of protocol %d holds its place (%s metric %d): "+
		"remove it, or have its owner use another metric",
		e.Desired, e.Occupant.Protocol, e.Occupant, e.Occupant.Priority)
}

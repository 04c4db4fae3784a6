package routetable

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"tortie/internal/kernel"
)

// read replaces what is believed of the kernel by what it says.
func (t *Table) read(ctx context.Context) error {
	actual, err := t.dump(ctx, t.cfg.Protocol)
	if err != nil {
		return err
	}
	drifted := 0
	for k, v := range t.routes.AllActual() {
		if actual[k] != v {
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
func (t *Table) dump(ctx context.Context, protocol kernel.Protocol) (map[key]rest, error) {
	found := map[key]rest{}
	for _, family := range t.cfg.Families {
		routes, err := t.cfg.Kernel.Routes(ctx, kernel.RouteFilter{
			Family: family, Table: t.cfg.Table, Protocol: protocol,
		})
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			r = r.ByObject()
			if _, ok := found[keyOf(r)]; !ok {
				found[keyOf(r)] = t.restOf(r)
			}
		}
	}
	return found, nil
}

// chunk is how many routes are written between two looks at the context.
const chunk = 256

// change has the kernel work off changes and hands each result to done. What a
// cancelled context cuts off stays pending.
func (t *Table) change(ctx context.Context, changes iter.Seq[kernel.RouteChange], done func(kernel.RouteChange, error)) {
	part := t.part[:0]
	flush := func() bool {
		if ctx.Err() != nil {
			return false
		}
		for i, err := range t.cfg.Kernel.ChangeRoutes(part) {
			done(part[i], err)
		}
		t.part, part = part, part[:0]
		return true
	}
	for c := range changes {
		if part = append(part, c); len(part) == chunk && !flush() {
			return
		}
	}
	if len(part) > 0 {
		flush()
	}
}

// write makes every desired route that is missing or different. A place that is
// believed empty is only ever added to, so that a stranger's route in it is
// noticed instead of replaced. (One who takes the place of a route of ours
// between two reads is not noticed: the kernel has no "replace if it is mine".)
func (t *Table) write(ctx context.Context, failed *failures) {
	var taken []kernel.Route
	t.change(ctx, t.missing(), func(c kernel.RouteChange, err error) {
		conflict, known := t.conflicts[keyOf(c.Route)]
		switch {
		case !errors.Is(err, kernel.ErrExists):
			t.wrote(c, err, failed)
		case known:
			// Looking at the whole table once for each conflict is enough.
			failed.add(c.Route, &ConflictError{Conflict: conflict})
		default:
			taken = append(taken, c.Route)
		}
	})
	if len(taken) > 0 {
		t.takeOver(ctx, taken, failed)
	}
}

// missing are the changes that make every desired route. A gateway may be reached by
// another of these routes, so those with one come last.
func (t *Table) missing() iter.Seq[kernel.RouteChange] {
	return func(yield func(kernel.RouteChange) bool) {
		for _, far := range []bool{false, true} {
			for k, v := range t.routes.PendingUpdates() {
				r := routeOf(k, v)
				if _, conflict := t.conflicts[k]; isFar(r) != far || conflict && t.cfg.Wait {
					continue
				}
				op := kernel.Add
				if _, ours := t.routes.Actual(k); ours {
					op = kernel.Replace
				}
				if !yield(kernel.RouteChange{Op: op, Route: r}) {
					return
				}
			}
		}
	}
}

// isFar reports that a route leads to a gateway first.
func isFar(r kernel.Route) bool { return r.Gateway.IsValid() || several(r) }

func (t *Table) wrote(c kernel.RouteChange, err error, failed *failures) {
	if err != nil {
		failed.add(c.Route, err)
		return
	}
	delete(t.conflicts, keyOf(c.Route))
	t.routes.SetActual(keyOf(c.Route), t.restOf(c.Route))
}

// takeOver looks who sits in the places that were believed empty: a route of our
// own, from a former life, is replaced; another program's is left alone.
func (t *Table) takeOver(ctx context.Context, taken []kernel.Route, failed *failures) {
	there, err := t.dump(ctx, 0)
	if err != nil {
		failed.add(taken[0], fmt.Errorf("add route %s: find out who holds its place: %w", taken[0], err))
		return
	}
	var changes []kernel.RouteChange
	for _, r := range taken {
		held, ok := there[keyOf(r)]
		var occupant kernel.Route
		if ok {
			occupant = routeOf(keyOf(r), held)
		}
		switch {
		case !ok:
			changes = append(changes, kernel.RouteChange{Op: kernel.Add, Route: r})
		case occupant == r:
			t.wrote(kernel.RouteChange{Route: r}, nil, failed)
		case occupant.Protocol == t.cfg.Protocol:
			changes = append(changes, kernel.RouteChange{Op: kernel.Replace, Route: r})
		default:
			conflict := Conflict{Desired: r, Occupant: occupant}
			t.conflicts[keyOf(r)] = conflict
			if !t.cfg.Wait {
				failed.add(r, &ConflictError{Conflict: conflict})
			}
		}
	}
	t.change(ctx, slices.Values(changes), func(c kernel.RouteChange, err error) { t.wrote(c, err, failed) })
}

// sweep removes what is ours and not desired.
func (t *Table) sweep(ctx context.Context, failed *failures) {
	var restore []kernel.RouteChange
	t.change(ctx, t.surplus(), func(c kernel.RouteChange, err error) {
		if err != nil {
			failed.add(c.Route, err)
			return
		}
		t.routes.DeleteActual(keyOf(c.Route))
		if r, ok := t.endangeredBy(c.Route); ok {
			restore = append(restore, kernel.RouteChange{Op: kernel.Replace, Route: r})
		}
	})
	t.change(ctx, slices.Values(restore), func(c kernel.RouteChange, err error) {
		if err != nil {
			t.routes.DeleteActual(keyOf(c.Route))
		}
		t.wrote(c, err, failed)
	})
}

// surplus are the changes that remove what is ours and not desired.
func (t *Table) surplus() iter.Seq[kernel.RouteChange] {
	return func(yield func(kernel.RouteChange) bool) {
		for k, v := range t.routes.PendingDeletes() {
			if !t.held(k) && !yield(kernel.RouteChange{Op: kernel.Delete, Route: routeOf(k, v)}) {
				return
			}
		}
	}
}

// endangeredBy is the desired route that a deletion may have hit instead of its
// own: to the kernel an IPv4 deletion of metric 0 means any metric, so had the
// route gone behind our back, the one of another metric went in its stead.
func (t *Table) endangeredBy(deleted kernel.Route) (kernel.Route, bool) {
	metric, wanted := t.metric(deleted.Dst)
	if !wanted || deleted.Priority != 0 || !deleted.Dst.Addr().Is4() {
		return kernel.Route{}, false
	}
	k := key{deleted.Dst, metric}
	v, there := t.routes.Actual(k)
	if !there {
		return kernel.Route{}, false
	}
	return routeOf(k, v), true
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

package routetable

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"unique"

	"tortie/internal/delta"
	"tortie/internal/kernel"
)

// Kernel is what a Table needs of [kernel.Handle].
type Kernel interface {
	Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error)
	ChangeRoutes(changes []kernel.RouteChange) []error
}

// Config says which routes a Table owns.
type Config struct {
	Kernel   Kernel
	Protocol kernel.Protocol // whose routes are ours; must not be 0
	Table    int             // 0 for the main table
	Families []kernel.Family // none for both
	Log      *slog.Logger    // nil for no log
	// Wait makes a place that another program holds no failure: the route waits for it,
	// among the Conflicts, until PlaceChanged tells of it or the kernel is read again.
	Wait bool
}

// Table reconciles the routes of one protocol in one routing table. There is at
// most one desired route to a destination; its metric is part of what is
// desired. All methods may be called from any goroutine; while one Apply runs the
// others wait.
type Table struct {
	cfg Config

	mu     sync.Mutex
	routes *delta.Tracker[key, rest]
	// last was asked for last; see restOf.
	last struct {
		route kernel.Route
		rest  rest
	}
	part []kernel.RouteChange // the room for what is written at once
	// metrics has the metric of the one desired route to a destination, where it is not 0.
	metrics map[netip.Prefix]int
	// needsRead: the kernel is read before anything is written.
	needsRead bool
	// everRead: the kernel has been read, so a difference found later is drift.
	everRead bool
	// holding: routes that were found and never spoken of are left alone.
	holding bool
	// spoken has the destinations that were removed while holding.
	spoken    map[netip.Prefix]struct{}
	conflicts map[key]Conflict
}

// key is what the kernel tells the routes of one table apart by.
type key struct {
	dst      netip.Prefix
	priority int
}

func keyOf(r kernel.Route) key { return key{dst: r.Dst, priority: r.Priority} }

// rest is what a route says besides its key. Routes that lead the same way share it: of
// a hundred thousand most do.
type rest = unique.Handle[kernel.Route]

// restOf is called with mu held.
func (t *Table) restOf(r kernel.Route) rest {
	r.Dst, r.Priority = netip.Prefix{}, 0
	if t.last.route != r || t.last.rest == (rest{}) {
		t.last.route, t.last.rest = r, unique.Make(r)
	}
	return t.last.rest
}

// routeOf puts together what restOf and keyOf have taken apart.
func routeOf(k key, v rest) kernel.Route {
	r := v.Value()
	r.Dst, r.Priority = k.dst, k.priority
	return r
}

// New makes a Table. Nothing is read or written before the first Apply.
func New(cfg Config) *Table {
	if cfg.Table == 0 {
		cfg.Table = kernel.TableMain
	}
	if len(cfg.Families) == 0 {
		cfg.Families = []kernel.Family{kernel.IPv4, kernel.IPv6}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Table{
		cfg:       cfg,
		routes:    delta.New[key, rest](),
		metrics:   map[netip.Prefix]int{},
		needsRead: true,
		spoken:    map[netip.Prefix]struct{}{},
		conflicts: map[key]Conflict{},
	}
}

// Set makes exactly these routes desired. Their Table and Protocol are the
// Table's, whatever they say; of two routes to one destination the last counts.
func (t *Table) Set(routes []kernel.Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := make(map[netip.Prefix]kernel.Route, len(routes))
	for _, r := range routes {
		r = t.own(r)
		wanted[r.Dst] = r
	}
	var gone []netip.Prefix
	for k := range t.routes.AllDesired() {
		if _, ok := wanted[k.dst]; !ok {
			gone = append(gone, k.dst)
		}
	}
	for _, dst := range gone {
		t.remove(dst)
	}
	for _, r := range wanted {
		t.update(r)
	}
}

// Update makes a route the desired one to its destination.
func (t *Table) Update(r kernel.Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.update(t.own(r))
}

// Remove makes no route to dst desired. Unlike a route that was merely never
// spoken of, it goes at the next Apply even while stale routes are held.
func (t *Table) Remove(dst netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(kernel.Route{Dst: dst}.Normal().Dst)
}

// own gives a route the Table's mark and its normal form, the one it is compared
// in with what the kernel says.
func (t *Table) own(r kernel.Route) kernel.Route {
	r.Table, r.Protocol = t.cfg.Table, t.cfg.Protocol
	return r.Normal()
}

func (t *Table) update(r kernel.Route) {
	if r.Priority != 0 || len(t.metrics) > 0 { // else both are 0
		if metric, ok := t.metric(r.Dst); ok && metric != r.Priority {
			t.forget(key{r.Dst, metric})
		}
	}
	if c, ok := t.conflicts[keyOf(r)]; ok && c.Desired != r {
		delete(t.conflicts, keyOf(r))
	}
	if r.Priority != 0 {
		t.metrics[r.Dst] = r.Priority
	}
	t.routes.SetDesired(keyOf(r), t.restOf(r))
}

func (t *Table) remove(dst netip.Prefix) {
	if metric, ok := t.metric(dst); ok {
		t.forget(key{dst, metric})
	}
	if t.holding {
		t.spoken[dst] = struct{}{}
	}
}

// metric is that of the desired route to a destination; it is not ok when there is none.
func (t *Table) metric(dst netip.Prefix) (metric int, ok bool) {
	if metric, ok = t.metrics[dst]; ok {
		return metric, true
	}
	_, ok = t.routes.Desired(key{dst, 0})
	return 0, ok
}

func (t *Table) forget(k key) {
	delete(t.metrics, k.dst)
	t.routes.DeleteDesired(k)
	delete(t.conflicts, k)
}

// HoldStale says whether routes of ours that were found in the kernel, and that
// nobody has spoken of since, are left alone. bgpd holds them from its start
// until End-of-RIB (RFC 4724 section 4.1), so that traffic flows on meanwhile.
func (t *Table) HoldStale(hold bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if hold == t.holding {
		return
	}
	t.holding = hold
	clear(t.spoken)
}

// QueueResync makes the next Apply read the kernel before it writes.
func (t *Table) QueueResync() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.needsRead = true
}

// rereadAbove is the number of routes over a link above which reading the kernel
// again is cheaper than finding out by writing each.
const rereadAbove = 32

// LinkChanged tells that a link appeared, vanished, or went up or down: the
// kernel drops the routes of a link that goes down without a word, so the next
// Apply makes sure of those that are desired over it. Of routes by next-hop objects
// only their owner knows the links: it calls QueueResync.
func (t *Table) LinkChanged(index int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var doubtful []key
	for k, v := range t.routes.AllDesired() {
		if r := v.Value(); r.Link == index || r.NextHops.Over(index) {
			doubtful = append(doubtful, k)
		}
	}
	if len(doubtful) > rereadAbove {
		t.needsRead = true
		return
	}
	for _, k := range doubtful {
		t.routes.DeleteActual(k)
	}
	for k, c := range t.conflicts {
		if c.Occupant.Link == index || c.Occupant.NextHops.Over(index) {
			delete(t.conflicts, k)
		}
	}
}

// PlaceChanged tells that another program's route to dst came, went or changed: if the
// desired one waits for the place, the next Apply looks whether it is free.
func (t *Table) PlaceChanged(dst netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.conflicts) == 0 {
		return
	}
	if metric, ok := t.metric(dst); ok {
		delete(t.conflicts, key{dst, metric})
	}
}

// several reports that a route's next hops are more than its Link and Gateway say.
func several(r kernel.Route) bool { return r.NextHopID != 0 || r.NextHops.Len() > 0 }

// NextHopIDs are the next-hop objects that routes of ours in the kernel refer to, as far
// as is known.
func (t *Table) NextHopIDs() map[int]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := map[int]bool{}
	for _, v := range t.routes.AllActual() {
		if id := v.Value().NextHopID; id != 0 {
			ids[id] = true
		}
	}
	return ids
}

// Pending is how many routes are not yet as desired; held ones do not count.
func (t *Table) Pending() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.routes.NumUpdates()
	for k := range t.routes.PendingDeletes() {
		if !t.held(k) {
			n++
		}
	}
	return n
}

// Stale is how many routes are held: they are in the kernel, ours, and nobody
// has spoken of them.
func (t *Table) Stale() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for k := range t.routes.PendingDeletes() {
		if t.held(k) {
			n++
		}
	}
	return n
}

// held reports that a route that is not desired is left alone for now: nobody has spoken
// of its destination, be it with another metric.
func (t *Table) held(k key) bool {
	if !t.holding {
		return false
	}
	if _, removed := t.spoken[k.dst]; removed {
		return false
	}
	_, desired := t.metric(k.dst)
	return !desired
}

// Conflict is a desired route that cannot be written because another program
// holds its place.
type Conflict struct {
	Desired  kernel.Route
	Occupant kernel.Route
}

// Conflicts are the desired routes whose place the last Apply found taken, in
// the order of their destinations.
func (t *Table) Conflicts() []Conflict {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Conflict, 0, len(t.conflicts))
	for _, c := range t.conflicts {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Conflict) int { return a.Desired.Dst.Compare(b.Desired.Dst) })
	return out
}

// Apply makes the kernel's routes as desired. What fails stays pending for the
// next Apply and the rest proceeds. The error joins one for each failed route, up
// to ten ([*kernel.Error], and [*ConflictError] unless the Table is to Wait), and one for each link that routes
// wait for ([*LinkError]). The first Apply, and the one after QueueResync,
// read the kernel first and change nothing when that fails.
func (t *Table) Apply(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.needsRead {
		if err := t.read(ctx); err != nil {
			return err
		}
	}
	var failed failures
	// A destination that moves to another metric keeps a route throughout,
	// because the new one is there before the old one goes.
	t.write(ctx, &failed)
	t.sweep(ctx, &failed)
	return errors.Join(append(failed.errs(), ctx.Err())...)
}

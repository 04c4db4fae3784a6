package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tortie/bgpd/filter"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
	"tortie/internal/nexthop"
	"tortie/internal/overlay"
	"tortie/internal/routetable"
)

// Kernel is what a FIB needs of [kernel.Handle].
type Kernel interface {
	routetable.Kernel
	nexthop.Kernel
	Links() ([]kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
}

// FIB holds the best paths and keeps the kernel's routes of protocol 81 as they
// say. It is used from one goroutine.
type FIB struct {
	kernel Kernel
	log    *slog.Logger
	tables map[kernel.Family]*routetable.Table
	// objects are the kernel's next-hop groups, one for each of groups; see multipath.go.
	objects *nexthop.Table
	groups  *groups
	lost    map[netip.Addr]bool // peers whose paths count only where there are no others

	best     map[netip.Prefix]*dest
	scope    filter.Scope // without Segments and the links' addresses
	picture  picture
	resolver *Resolver
	filter   filter.Scope // scope and what was read of the kernel
	restart  *restart
	keep     *keep
	dead     map[netip.Addr]string // neighbours to which nothing is sent, and why
	reach    reach
	history  *History // nil: nobody wants to know
	// displaced are the routes whose place another program's route holds, with that one in
	// words; as of the last Apply.
	displaced map[netip.Prefix]string
	// lastFate is the latest that came about; see share. undecided is that of a new prefix.
	lastFate  *fate
	undecided fate
	// wasRead and wasTold: before the kernel has been read and the scope is known,
	// no decision could be right, and a wrong one would take a held route away.
	wasRead, wasTold bool
	// stale: the kernel may be another than the picture of it; the next Read decides anew.
	stale bool
}

// Entry is what has become of a best path.
type Entry struct {
	Path speaker.Path
	// Kernel is the route as desired in the kernel, "via 10.1.0.1 dev eth0"; empty
	// when there is none.
	Kernel string
	// Gateway is the router the next hop is reached by; invalid when the next hop
	// is on one of the node's segments, or not reached.
	Gateway netip.Addr
	// Carried says what of felix's carries packets to the prefix instead of a route of
	// bgpd's; empty when nothing does.
	Carried string
	// Problem says why there is no route; empty when there is one.
	Problem string
	// Wanted is the route as desired where another program's route holds its place; Kernel
	// is then empty.
	Wanted string
	// Lacking says which of several equal next hops are not used, and why.
	Lacking string
}

// dest is a prefix with its best path, and what has become of it. Both may be shared
// with other prefixes, of which there may be very many; so the path's Prefix says nothing.
type dest struct {
	path *speaker.Path
	*fate
}

// fate is an Entry without the path.
type fate struct {
	kernel, carried, problem string
	refused                  string // why some of several paths may not be imported
	gateway                  netip.Addr
	group                    *group
}

// words is the route as desired; empty for none.
func (d *dest) words() string {
	if d.group != nil && d.problem == "" {
		return d.group.words
	}
	return d.kernel
}

// to is the path, as one to the prefix.
func (d *dest) to(prefix netip.Prefix) speaker.Path {
	p := *d.path
	p.Prefix = prefix
	return p
}

// share is a pointer to a fate, the same for prefixes of the same fate that are decided
// one after another.
func (f *FIB) share(v fate) *fate {
	if f.lastFate == nil || *f.lastFate != v {
		f.lastFate = new(fate)
		*f.lastFate = v
	}
	return f.lastFate
}

func (d *dest) entry(prefix netip.Prefix) Entry {
	e := Entry{Path: d.to(prefix), Kernel: d.words(), Gateway: d.gateway, Carried: d.carried, Problem: d.problem}
	if d.problem != "" {
		return e
	}
	e.Lacking = d.refused
	if d.group != nil {
		e.Lacking = strings.Join(slices.DeleteFunc([]string{d.group.lacking, d.refused}, func(s string) bool { return s == "" }), "; ")
	}
	return e
}

// New makes a FIB that holds every route of protocol 81 it finds.
func New(k Kernel, log *slog.Logger) *FIB {
	f := &FIB{
		kernel: k, log: log,
		tables:   map[kernel.Family]*routetable.Table{},
		objects:  nexthop.New(k, kernel.ProtocolBGP),
		groups:   newGroups(),
		lost:     map[netip.Addr]bool{},
		best:     map[netip.Prefix]*dest{},
		resolver: NewResolver(nil, nil, nil),
		restart:  newRestart(),
		keep:     newKeep(),
	}
	for _, family := range families() {
		t := routetable.New(routetable.Config{
			Kernel: k, Protocol: kernel.ProtocolBGP, Families: []kernel.Family{family}, Log: log, Wait: true,
		})
		t.HoldStale(true)
		f.tables[family] = t
	}
	return f
}

func families() []kernel.Family { return []kernel.Family{kernel.IPv4, kernel.IPv6} }

// Leftover reports whether the kernel has routes of an earlier run: this start
// is then a restart in the sense of RFC 4724.
func Leftover(ctx context.Context, k Kernel) (bool, error) {
	routes, err := k.Routes(ctx, kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
	return len(routes) > 0, err
}

// Expect tells which peers are configured and what may be imported from them.
func (f *FIB) Expect(peers []speaker.Peer, scope filter.Scope, now time.Time) {
	f.restart.expect(peers, now)
	f.scope, f.wasTold = scope, true
	f.resolveBy(f.picture)
	f.decideAll()
}

// Update takes over what has changed at the speaker.
func (f *FIB) Update(c speaker.Changes, now time.Time) {
	for addr := range c.Lost {
		f.peerLost(addr, true)
	}
	for addr, s := range c.Peers {
		f.restart.session(addr, s, now)
		f.keep.lost(addr, s, now)
		f.peerLost(addr, s.Established && c.Lost[addr] || !s.Established && !s.Restarting && !s.Removed)
	}
	for prefix, path := range c.Best {
		f.setBest(prefix, path)
	}
	for addr, s := range c.Peers {
		f.drop(f.keep.ended(addr, s))
	}
}

// setBest takes over a best path. A path that was withdrawn while its peer
// restarts stays, as stale, unless there is another.
func (f *FIB) setBest(prefix netip.Prefix, path *speaker.Path) {
	before := f.standing(prefix)
	d, known := f.best[prefix]
	switch {
	case path != nil:
		if !known {
			d = &dest{fate: &f.undecided}
			f.best[prefix] = d
		} else if !f.keep.empty() {
			f.keep.overtaken(prefix, pathsTo(prefix, d.path), pathsTo(prefix, path))
		}
		d.path = path
	case known && f.keepSome(prefix, d):
	case known:
		delete(f.best, prefix)
		d = nil
	}
	f.decideFrom(prefix, d, before)
}

// keepSome leaves a prefix what peers that restart have told of it, as stale, if anything.
func (f *FIB) keepSome(prefix netip.Prefix, d *dest) bool {
	if f.keep.empty() {
		return false
	}
	kept := f.keep.withdrawn(prefix, pathsTo(prefix, d.path))
	if len(kept) == 0 {
		return false
	}
	path := kept[0]
	path.Best, path.Stale, path.Equals = true, true, slices.Clone(kept[1:])
	d.path = &path
	return true
}

// pathsTo are all paths to a prefix that are equally good. The best may be shared with
// other prefixes.
func pathsTo(prefix netip.Prefix, best *speaker.Path) []speaker.Path {
	out := append([]speaker.Path{*best}, best.Equals...)
	out[0].Prefix = prefix
	return out
}

// drop takes back what was kept of prefixes, but for what other peers that restart have
// told of them.
func (f *FIB) drop(prefixes []netip.Prefix) {
	for _, p := range prefixes {
		before := f.standing(p)
		d, ok := f.best[p]
		if ok && !f.keepSome(p, d) {
			delete(f.best, p)
			d = nil
		}
		f.decideFrom(p, d, before)
	}
}

// Read looks at the kernel's links, addresses and routes, and resolves all next
// hops anew when something has changed.
func (f *FIB) Read(ctx context.Context) error {
	var p picture
	var err error
	if p.routes, err = f.kernel.Routes(ctx, kernel.RouteFilter{}); err != nil {
		return fmt.Errorf("resolve next hops: %w", err)
	}
	if p.links, err = f.kernel.Links(); err != nil {
		return fmt.Errorf("resolve next hops: %w", err)
	}
	if p.addresses, err = f.kernel.Addresses(0); err != nil {
		return fmt.Errorf("resolve next hops: %w", err)
	}
	if err := f.objects.Read(ctx); err != nil {
		return fmt.Errorf("resolve next hops: %w", err)
	}
	p.routes = slices.DeleteFunc(p.routes, func(r kernel.Route) bool { return r.Protocol == kernel.ProtocolBGP })
	if f.wasRead && !f.stale && p.equal(f.picture) {
		return nil
	}
	p.felix = map[netip.Prefix]kernel.Route{}
	for _, r := range p.routes {
		if r.Protocol == kernel.ProtocolFelix && r.Priority == kernel.MetricOverlay {
			p.felix[r.Dst] = r
		}
	}
	f.picture, f.wasRead, f.stale = p, true, false
	before := f.reach.routes
	f.resolveBy(p)
	for dst := range before {
		f.decide(dst)
	}
	f.decideAll()
	return nil
}

// LinkChanged tells that routes over a link may have gone without a word.
func (f *FIB) LinkChanged(index int) {
	if f.groups.over(index) {
		f.QueueResync()
		return
	}
	for _, t := range f.tables {
		t.LinkChanged(index)
	}
}

// QueueResync makes the next Apply read the kernel's routes of protocol 81.
func (f *FIB) QueueResync() {
	f.objects.QueueResync()
	for _, t := range f.tables {
		t.QueueResync()
	}
}

// Installed reports whether a route of bgpd's to dst is desired.
func (f *FIB) Installed(dst netip.Prefix) bool {
	if _, ok := f.reach.routes[dst]; ok {
		return true
	}
	d, ok := f.best[dst]
	return ok && d.kernel != "" && d.carried == ""
}

// Apply makes the kernel's routes as desired and, when all peers of a family
// have been heard or the restart time is over, sweeps what is left of an earlier
// run.
func (f *FIB) Apply(ctx context.Context, now time.Time) error {
	f.drop(f.keep.expired(now))
	for _, family := range f.restart.step(now) {
		f.log.Info("no longer holding routes of an earlier run",
			"family", family.String(), "stale", f.tables[family].Stale())
		f.tables[family].HoldStale(false)
	}
	for _, key := range f.groups.empty() {
		f.objects.Remove(key)
	}
	// Next hops first: routes refer to them, and those that are there already move by it.
	errs := []error{f.objects.Apply(ctx)}
	for _, family := range families() {
		errs = append(errs, f.tables[family].Apply(ctx))
	}
	err := errors.Join(errs...)
	f.noteDisplaced(err == nil)
	if err != nil {
		f.objects.QueueResync()
		if len(f.groups.byKey) > 0 {
			// The kernel may have dropped objects with a link, or another program taken
			// their numbers.
			f.stale = true
		}
		return err
	}
	f.noteMoved()
	return f.sweepObjects()
}

// sweepObjects deletes the next-hop objects that no route refers to, be it one that is
// held.
func (f *FIB) sweepObjects() error {
	if !f.objects.Idle() {
		return nil
	}
	referred := map[int]bool{}
	for _, t := range f.tables {
		maps.Copy(referred, t.NextHopIDs())
	}
	return f.objects.Sweep(func(id int) bool { return referred[id] })
}

// Holding reports whether routes of an earlier run are still held.
func (f *FIB) Holding() bool {
	if f.restart.done() {
		return false
	}
	for _, t := range f.tables {
		if t.Stale() > 0 {
			return true
		}
	}
	return false
}

// Settled reports whether no restart is going on, ours or a peer's, so that no
// more time has to pass for anything.
func (f *FIB) Settled() bool { return f.restart.done() && f.keep.empty() }

func (f *FIB) decideAll() {
	f.filter = f.scope
	f.filter.Addresses = slices.Clone(f.scope.Addresses)
	f.filter.Segments = nil
	for _, a := range f.picture.addresses {
		if addr := a.Prefix.Addr(); !addr.IsLoopback() {
			f.filter.Addresses = append(f.filter.Addresses, addr)
		}
	}
	for _, l := range f.Links() {
		if !f.ignored(l.Name) {
			f.filter.Segments = append(f.filter.Segments, filter.Segment{Prefix: l.Subnet, Link: l.Name})
		}
	}
	f.settleAll()
	for dst := range f.reach.routes {
		f.decide(dst)
	}
	for prefix := range f.best {
		f.decide(prefix)
	}
}

// decide makes of the best path to a prefix, if any, a desired route, if it may
// be one.
func (f *FIB) decide(prefix netip.Prefix) { f.decideFrom(prefix, f.best[prefix], f.standing(prefix)) }

// decideFrom is decide for a prefix that was before what it may not be any more; d is nil
// when there is no path to it.
func (f *FIB) decideFrom(prefix netip.Prefix, d *dest, before standing) {
	if !f.wasRead || !f.wasTold {
		return
	}
	switch {
	case f.declared(prefix):
		f.groups.leave(prefix)
		if d != nil {
			d.fate = f.share(f.declaredFate(prefix))
		}
	case d == nil:
		f.groups.leave(prefix)
		f.tables[kernel.FamilyOf(prefix.Addr())].Remove(prefix)
	default:
		d.fate = f.share(f.settleFate(d.to(prefix)))
	}
	f.note(prefix, before)
}

// settleFate makes of a best path a desired route, if it may be one, and says what has
// become of it.
func (f *FIB) settleFate(path speaker.Path) fate {
	if way, node := f.filter.Way(path); way.Carrier != overlay.BGP {
		f.groups.leave(path.Prefix)
		return f.leave(path.Prefix, way, node)
	}
	table := f.tables[kernel.FamilyOf(path.Prefix.Addr())]
	paths, refused, ok := f.usable(&path)
	if !ok {
		f.groups.leave(path.Prefix)
		table.Remove(path.Prefix)
		return fate{problem: refused}
	}
	route, out := f.routeVia(&path, paths)
	out.refused = refused
	if out.problem != "" {
		table.Remove(path.Prefix)
		return out
	}
	table.Update(route)
	return out
}

// leave makes way for felix's route, once that is there: until then nothing is said of
// ours, so that one which stands goes on carrying packets.
func (f *FIB) leave(prefix netip.Prefix, way overlay.Way, node string) fate {
	out := fate{carried: fmt.Sprintf("by %s to %s", way.Carrier, node)}
	if way.Carrier == overlay.Segment {
		out.carried = "by felix's route along the segment to " + node
	}
	if way.Carrier == overlay.VXLAN && prefix.IsSingleIP() && prefix.Addr() == way.There.Tunnel {
		// A tunnel's own address, borrowed: felix's IPv6 routes through the tunnel can't be
		// made while its next hop is found elsewhere. No pod has it, so nothing waits.
		f.tables[kernel.FamilyOf(prefix.Addr())].Remove(prefix)
		return out
	}
	route, there := f.picture.felix[prefix]
	if !there {
		out.problem = "felix has not set it up yet"
		return out
	}
	out.kernel = f.resolver.describe(kernel.NextHop{Link: route.Link, Gateway: route.Gateway})
	f.tables[kernel.FamilyOf(prefix.Addr())].Remove(prefix)
	return out
}

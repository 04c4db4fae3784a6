package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"tortie/bgpd/filter"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
	"tortie/internal/routetable"
)

// Kernel is what a FIB needs of [kernel.Handle].
type Kernel interface {
	routetable.Kernel
	Links() ([]kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
}

// FIB holds the best paths and keeps the kernel's routes of protocol 81 as they
// say. It is used from one goroutine.
type FIB struct {
	kernel Kernel
	log    *slog.Logger
	tables map[kernel.Family]*routetable.Table

	best     map[netip.Prefix]speaker.Path
	entries  map[netip.Prefix]Entry // what was made of each best path
	scope    filter.Scope           // without Segments and the links' addresses
	picture  picture
	resolver *Resolver
	filter   filter.Scope // scope and what was read of the kernel
	restart  *restart
	keep     *keep
	history  *History // nil: nobody wants to know
	// wasRead and wasTold: before the kernel has been read and the scope is known,
	// no decision could be right, and a wrong one would take a held route away.
	wasRead, wasTold bool
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
}

// New makes a FIB that holds every route of protocol 81 it finds.
func New(k Kernel, log *slog.Logger) *FIB {
	f := &FIB{
		kernel: k, log: log,
		tables:   map[kernel.Family]*routetable.Table{},
		best:     map[netip.Prefix]speaker.Path{},
		entries:  map[netip.Prefix]Entry{},
		resolver: NewResolver(nil, nil, nil),
		restart:  newRestart(),
		keep:     newKeep(),
	}
	for _, family := range families() {
		t := routetable.New(routetable.Config{
			Kernel: k, Protocol: kernel.ProtocolBGP, Families: []kernel.Family{family}, Log: log,
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
	f.resolver = f.newResolver()
	f.decideAll()
}

// Update takes over what has changed at the speaker.
func (f *FIB) Update(c speaker.Changes, now time.Time) {
	for addr, s := range c.Peers {
		f.restart.session(addr, s, now)
		f.keep.lost(addr, s, now)
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
	old, known := f.best[prefix]
	switch {
	case path != nil:
		f.keep.replaced(prefix)
		f.best[prefix] = *path
	case known && f.keep.keeps(prefix, old.Peer):
		old.Stale = true
		f.best[prefix] = old
	default:
		delete(f.best, prefix)
	}
	f.decide(prefix)
}

func (f *FIB) drop(prefixes []netip.Prefix) {
	for _, p := range prefixes {
		delete(f.best, p)
		f.decide(p)
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
	p.routes = slices.DeleteFunc(p.routes, func(r kernel.Route) bool { return r.Protocol == kernel.ProtocolBGP })
	if f.wasRead && p.equal(f.picture) {
		return nil
	}
	p.felix = map[netip.Prefix]kernel.Route{}
	for _, r := range p.routes {
		if r.Protocol == kernel.ProtocolFelix && r.Gateway.IsValid() {
			p.felix[r.Dst] = r
		}
	}
	f.picture, f.wasRead = p, true
	f.resolver = f.newResolver()
	f.decideAll()
	return nil
}

// LinkChanged tells that routes over a link may have gone without a word.
func (f *FIB) LinkChanged(index int) {
	for _, t := range f.tables {
		t.LinkChanged(index)
	}
}

// QueueResync makes the next Apply read the kernel's routes of protocol 81.
func (f *FIB) QueueResync() {
	for _, t := range f.tables {
		t.QueueResync()
	}
}

// Installed reports whether a route of bgpd's to dst is desired.
func (f *FIB) Installed(dst netip.Prefix) bool {
	e := f.entries[dst]
	return e.Kernel != "" && e.Carried == ""
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
	var errs []error
	for _, family := range families() {
		errs = append(errs, f.tables[family].Apply(ctx))
	}
	return errors.Join(errs...)
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
	for prefix := range f.best {
		f.decide(prefix)
	}
}

// decide makes of the best path to a prefix, if any, a desired route, if it may
// be one.
func (f *FIB) decide(prefix netip.Prefix) {
	if !f.wasRead || !f.wasTold {
		return
	}
	defer f.note(prefix, f.entries[prefix])
	table := f.tables[kernel.FamilyOf(prefix.Addr())]
	path, ok := f.best[prefix]
	if !ok {
		delete(f.entries, prefix)
		table.Remove(prefix)
		return
	}
	if way, node := f.filter.Way(path); way.Carrier != overlay.BGP {
		f.leave(prefix, path, way, node)
		return
	}
	e := Entry{Path: path, Problem: f.filter.Import(path)}
	if e.Problem != "" {
		f.entries[prefix] = e
		table.Remove(prefix)
		return
	}
	v, unreachable := f.resolver.resolve(path.NextHop)
	if unreachable != "" {
		e.Problem = unreachable
		f.entries[prefix] = e
		table.Remove(prefix)
		return
	}
	e.Kernel = f.resolver.describe(v)
	if v.gateway != path.NextHop.WithZone("") {
		e.Gateway = v.gateway
	}
	f.entries[prefix] = e
	table.Update(kernel.Route{
		Dst: prefix, Type: kernel.RouteUnicast, Link: v.link, Gateway: v.gateway, OnLink: v.onLink,
	})
}

// leave makes way for felix's route, once that is there: until then nothing is said of
// ours, so that one which stands goes on carrying packets.
func (f *FIB) leave(prefix netip.Prefix, path speaker.Path, way overlay.Way, node string) {
	e := Entry{Path: path, Carried: "by VXLAN to " + node}
	if way.Carrier == overlay.Segment {
		e.Carried = "by felix's route along the segment to " + node
	}
	if route, there := f.picture.felix[prefix]; there {
		e.Kernel = f.resolver.describe(via{link: route.Link, gateway: route.Gateway, onLink: route.OnLink})
		f.tables[kernel.FamilyOf(prefix.Addr())].Remove(prefix)
	} else {
		e.Problem = "felix has not set it up yet"
	}
	f.entries[prefix] = e
}

// Entries is a copy of what has become of every best path, with the routes whose
// place another program holds marked as problems.
func (f *FIB) Entries() map[netip.Prefix]Entry {
	out := make(map[netip.Prefix]Entry, len(f.entries))
	maps.Copy(out, f.entries)
	for _, t := range f.tables {
		for _, c := range t.Conflicts() {
			e := out[c.Desired.Dst]
			e.Kernel, e.Problem = "", fmt.Sprintf("another program's route holds its place: %s", c.Occupant)
			out[c.Desired.Dst] = e
		}
	}
	return out
}

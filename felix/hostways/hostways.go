// Package hostways leads packets to other nodes' own addresses into WireGuard's devices:
// those that this node itself and its pods send under addresses which the other nodes
// take from it. [Ways] are the routes, in a table of their own, and the rule that has the
// kernel look there first; [Marks] are the packet rules that keep away from it what has
// to go in clear.
package hostways

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"tortie/internal/kernel"
	"tortie/internal/routetable"
)

// Kernel is what Ways see of the node; *kernel.Handle has it all.
type Kernel interface {
	routetable.Kernel
	Rules(ctx context.Context, protocol kernel.Protocol) ([]kernel.Rule, error)
	AddRule(r kernel.Rule) error
	DeleteRule(r kernel.Rule) error
	DeleteRoute(r kernel.Route) error
	SwapSysctls(settings []kernel.Setting) (old []kernel.Setting, err error)
}

// The defaults are upstream's.
const (
	DefaultTable    = 1
	DefaultPriority = 99
)

// Settings are where the ways stand.
type Settings struct {
	Table    int // of the routes
	Priority int // of the rule
}

// Way leads what goes to another node's address out of a device, under this node's own.
type Way struct {
	To, From netip.Addr
	Link     int
}

func (w Way) route(table int) kernel.Route {
	return kernel.Route{
		Dst: netip.PrefixFrom(w.To, w.To.BitLen()), Table: table, Protocol: kernel.ProtocolFelix,
		Type: kernel.RouteUnicast, Scope: kernel.ScopeLink, Link: w.Link, Src: w.From,
	}.Normal()
}

// Ways reconciles the routes and the rules, which are known by felix' protocol. Its methods
// may be called from any goroutine; while Apply runs the others wait.
type Ways struct {
	kernel Kernel
	log    *slog.Logger

	mu       sync.Mutex
	settings Settings
	ways     map[kernel.Family][]Way
	routes   *routetable.Table // of the settings' table
	// idle: nothing is wanted, and nothing was left when that was last looked at.
	idle bool
	// settled: the last Apply made the kernel as desired, so that a difference found
	// later is somebody else's doing.
	settled bool
}

// New makes Ways to nowhere. Nothing is read or written before the first Apply.
func New(k Kernel, log *slog.Logger) *Ways {
	w := &Ways{kernel: k, log: log, ways: map[kernel.Family][]Way{}}
	w.configure(Settings{Table: DefaultTable, Priority: DefaultPriority})
	return w
}

// Configure has the ways stand elsewhere from the next Apply on.
func (w *Ways) Configure(s Settings) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.configure(s)
}

func (w *Ways) configure(s Settings) {
	if w.settings == s {
		return
	}
	w.settings, w.idle, w.settled = s, false, false
	w.routes = w.table(s.Table)
}

func (w *Ways) table(table int) *routetable.Table {
	return routetable.New(routetable.Config{Kernel: w.kernel, Protocol: kernel.ProtocolFelix, Table: table, Log: w.log})
}

// Set makes these the desired ways of a version of IP, and reports whether others were
// before. It keeps ways.
func (w *Ways) Set(v6 bool, ways []Way) (changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	family := familyOf(v6)
	if slices.Equal(w.ways[family], ways) {
		return false
	}
	w.log.Info("packets to other nodes' own addresses go by WireGuard", "version", family, "nodes", len(ways), "before", len(w.ways[family]))
	w.ways[family], w.idle, w.settled = ways, false, false
	return true
}

func familyOf(v6 bool) kernel.Family {
	if v6 {
		return kernel.IPv6
	}
	return kernel.IPv4
}

// Apply reads the kernel and makes it as desired. Routes come before the rule that leads
// to them, and go after it.
func (w *Ways) Apply(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle {
		return nil
	}
	rules, err := w.kernel.Rules(ctx, kernel.ProtocolFelix)
	if err != nil {
		return fmt.Errorf("lead packets to other nodes into WireGuard: %w", err)
	}
	errs := []error{w.ensureMark(), w.removeRules(ctx, rules)}
	w.routes.Set(w.wanted())
	w.routes.QueueResync()
	errs = append(errs, w.routes.Apply(ctx), w.addRules(rules))
	err = errors.Join(errs...)
	if w.settled = err == nil; err != nil {
		return fmt.Errorf("lead packets to other nodes into WireGuard: %w", err)
	}
	w.idle = len(w.ways[kernel.IPv4])+len(w.ways[kernel.IPv6]) == 0
	return nil
}

func (w *Ways) wanted() []kernel.Route {
	var out []kernel.Route
	for _, ways := range w.ways {
		for _, way := range ways {
			out = append(out, way.route(w.settings.Table))
		}
	}
	return out
}

// ensureMark has a strict check of the reverse path ask for packets with the mark of
// [Marks] where the answer to them goes. It stays when the ways are gone: a felix that
// was restarted does not know what it was, without a mark it changes nothing, and others may
// have come to need it.
func (w *Ways) ensureMark() error {
	if len(w.ways[kernel.IPv4]) == 0 {
		return nil
	}
	_, err := w.kernel.SwapSysctls([]kernel.Setting{{Name: "ipv4/conf/all/src_valid_mark", Value: "1"}})
	return err
}

// rule sends all packets but marked ones to the table first.
func (w *Ways) rule(family kernel.Family) kernel.Rule {
	return kernel.Rule{
		Family: family, Priority: w.settings.Priority, Table: w.settings.Table,
		Mark: kernel.MarkClear, Mask: kernel.MarkClear, Not: true, Protocol: kernel.ProtocolFelix,
	}
}

// removeRules takes away those of felix that are not as they should be, and what is in
// tables that they led to and it is not any more.
func (w *Ways) removeRules(ctx context.Context, rules []kernel.Rule) error {
	var errs []error
	for _, r := range rules {
		if len(w.ways[r.Family]) > 0 && r == w.rule(r.Family) {
			continue
		}
		w.report("removed", r)
		errs = append(errs, w.kernel.DeleteRule(r))
		if r.Table != w.settings.Table && r.Table != kernel.TableMain {
			errs = append(errs, w.table(r.Table).Apply(ctx))
		}
	}
	return errors.Join(errs...)
}

func (w *Ways) addRules(there []kernel.Rule) error {
	var errs []error
	for _, family := range []kernel.Family{kernel.IPv4, kernel.IPv6} {
		rule := w.rule(family)
		if len(w.ways[family]) == 0 || slices.Contains(there, rule) {
			continue
		}
		w.report("added", rule)
		errs = append(errs, w.kernel.AddRule(rule))
	}
	return errors.Join(errs...)
}

func (w *Ways) report(done string, r kernel.Rule) {
	if w.settled {
		w.log.Warn("routing rules mended: someone had changed them", "rule", r, "done", done)
		return
	}
	w.log.Info("routing rules changed", "rule", r, "done", done)
}

// Concerns reports whether somebody's change may be of what is kept here: of a routing rule
// that leads to a table, or a route in it, made by a protocol. What others do with that table
// is nothing to this node while no way is wanted.
func (w *Ways) Concerns(table int, by kernel.Protocol) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.idle && (table == w.settings.Table || by == kernel.ProtocolFelix)
}

// Abandon takes away the ways to addresses, those of an earlier process too, until the
// next Apply. It needs no Set, nor Settings.
func (w *Ways) Abandon(ctx context.Context, lost func(netip.Addr) bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	routes, err := Routes(ctx, w.kernel)
	if err != nil {
		return fmt.Errorf("send packets to other nodes in clear: %w", err)
	}
	var errs []error
	for _, r := range routes {
		if lost(r.Dst.Addr()) {
			w.log.Warn("packets to a node that does not answer by WireGuard go in clear, until the datastore can be reached again", "to", r.Dst.Addr())
			errs = append(errs, w.kernel.DeleteRoute(r))
		}
	}
	w.idle, w.settled = false, false
	return errors.Join(errs...)
}

// Reader reads what there is.
type Reader interface {
	Rules(ctx context.Context, protocol kernel.Protocol) ([]kernel.Rule, error)
	Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error)
}

// Routes are those of felix in the tables that its rules lead to.
func Routes(ctx context.Context, k Reader) ([]kernel.Route, error) {
	rules, err := k.Rules(ctx, kernel.ProtocolFelix)
	if err != nil {
		return nil, err
	}
	var out []kernel.Route
	for _, r := range rules {
		routes, err := k.Routes(ctx, kernel.RouteFilter{Family: r.Family, Table: r.Table, Protocol: kernel.ProtocolFelix})
		if err != nil {
			return nil, err
		}
		out = append(out, routes...)
	}
	return out, nil
}

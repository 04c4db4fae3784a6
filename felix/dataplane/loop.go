// Package dataplane is the apply loop: the one place where the routes to local
// workloads, the blackholes of local blocks, the routes to other nodes that an overlay
// asks for, and outgoing NAT are written. It
// joins what CNI calls ask for with what the datastore says, and makes the kernel
// so.
package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tortie/felix/calc"
	"tortie/felix/podnet"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// Kernel is what the Loop sees of the node; *kernel.Handle has it all.
type Kernel interface {
	Links() ([]kernel.Link, error)
	LinkByName(name string) (kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
	Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error)
	Subscribe(ctx context.Context, topics kernel.Topics) (<-chan kernel.Event, error)
}

// Routes is the reconciler of the node's routes; *routetable.Table is one, made
// for kernel.ProtocolFelix and the main table. The Loop must be its only user.
type Routes interface {
	Update(r kernel.Route)
	Remove(dst netip.Prefix)
	HoldStale(hold bool)
	LinkChanged(index int)
	QueueResync()
	Apply(ctx context.Context) error
	Pending() int
}

// Rules is the reconciler of a share of the packet rules, which are a function of the
// State alone.
type Rules interface {
	// Set must not keep what the State points to in order to change it.
	Set(s calc.State)
	QueueResync()
	Apply(ctx context.Context) error
	// Check names what in the kernel is not as it was made to stand, and what for.
	Check(ctx context.Context) (differences []string, err error)
}

// Tunnels are the node's devices of overlays. Whoever gives the Loop a State has told
// them first what of it is theirs.
type Tunnels interface {
	Apply(ctx context.Context) error
	// Link is the device of a carrier for addresses of a version of IP, and false when it
	// is not up.
	Link(by overlay.Carrier, v6 bool) (index int, up bool)
	// Unready are destinations that keep their former way, if they have one, until the far
	// end of the new one has answered, or for a moment.
	Unready() map[netip.Prefix]bool
	// Owns reports whether a link is one of them.
	Owns(l kernel.Link) bool
}

// Devices are the node's ends of the pods' veth pairs; *podnet.Net has them.
type Devices interface {
	Devices(ctx context.Context) ([]podnet.Device, error)
	// RemoveDevice leaves another device alone that has come by its name.
	RemoveDevice(ctx context.Context, d podnet.Device) error
}

// Config is what a Loop works with. Kernel, Routes and Log are required.
type Config struct {
	Kernel  Kernel
	Routes  Routes
	Rules   []Rules
	Limits  []Limits
	Tunnels Tunnels // nil: no route leads into one
	Devices Devices // nil: left-over devices stay
	// Suspect is told of a device of a pod that somebody may have changed. It is called with
	// the Loop's lock held and must return at once. Nil for nobody.
	Suspect func(iface string)
	Log     *slog.Logger
	// ResyncInterval is how often the kernel is read and compared in full, give or
	// take a tenth. 0 means 90 s.
	ResyncInterval time.Duration
	// SweepGrace is for how long a device must have belonged to no endpoint before
	// it is removed: longer than any ADD takes. 0 means two minutes.
	SweepGrace time.Duration
	// RetryMin and RetryMax bound the pause after a failure. 0 means 100 ms and 10 s.
	RetryMin, RetryMax time.Duration
}

// DefaultResyncInterval is upstream's.
const DefaultResyncInterval = 90 * time.Second

// ErrStopped answers the calls that Run can no longer serve.
var ErrStopped = errors.New("the dataplane loop has stopped")

// ErrNoInterface says that the endpoint's interface is absent or down.
var ErrNoInterface = errors.New("interface is missing or down")

// Loop owns this node's routes and packet rules. Its methods may be called from
// any goroutine; Run carries out what they ask for.
type Loop struct {
	cfg  Config
	log  *slog.Logger
	kick chan struct{}
	// repace holds one token when the interval of resyncs is another.
	repace chan struct{}
	// soonDue: a turn comes within soon.
	soonDue atomic.Bool
	done    chan struct{} // closed when Run has ended

	mu        sync.Mutex
	interval  time.Duration // of resyncs
	endpoints endpoints
	state     calc.State
	rulesDue  bool      // state has not been handed to Rules yet
	turnBegan time.Time // of the turn that is at work; zero between turns
	// tunnelsDue, remotesDue: what state says of them has not been carried out yet.
	tunnelsDue, remotesDue bool
	remotes                remotes
	inSync                 bool
	waiters                []*waiter
	settling               []*waiter // for the rules of a State with their endpoint
	hints                  hints
	status                 Status
	desired                map[netip.Prefix]claim
	known                  map[int]knownLink // the devices as last read, by index
	tunnelLinks            map[int]bool      // the tunnels' devices as of the last look at them
	// foreignAt is when route events last asked for a resync; foreignDue says that
	// another is waiting for its time.
	foreignAt  time.Time
	foreignDue bool

	// Owned by the goroutine of Run.
	links   links
	missing map[calc.EndpointID]*absence
	// Of the last attempt.
	ruleErr, tunnelErr, remoteErr, limitErr error
	// limited are the endpoints whose limits were last declared; limitsBegun is false
	// before the first time.
	limited     map[string]Limited
	limitsBegun bool
	retry       backoff
	sweeper     sweeper
}

// New makes a Loop. It does nothing before Run.
func New(cfg Config) (*Loop, error) {
	if cfg.Kernel == nil || cfg.Routes == nil || cfg.Log == nil {
		return nil, errors.New("dataplane loop: a kernel, a route table and a log are required")
	}
	setDefault(&cfg.ResyncInterval, DefaultResyncInterval)
	setDefault(&cfg.SweepGrace, 2*time.Minute)
	setDefault(&cfg.RetryMin, 100*time.Millisecond)
	setDefault(&cfg.RetryMax, 10*time.Second)
	return &Loop{
		cfg: cfg, log: cfg.Log,
		interval: cfg.ResyncInterval,
		kick:     make(chan struct{}, 1), repace: make(chan struct{}, 1), done: make(chan struct{}),
		endpoints: newEndpoints(),
		hints:     newHints(),
		links:     newLinks(),
		remotes:   newRemotes(),
		missing:   map[calc.EndpointID]*absence{},
		retry:     backoff{min: cfg.RetryMin, max: cfg.RetryMax},
		sweeper:   newSweeper(cfg.SweepGrace),
	}, nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

// waiter is a call that wants to know what became of its endpoint.
type waiter struct {
	endpoint calc.Endpoint
	removed  bool // it waits for the routes to be gone
	done     chan error
}

// Upsert adds or changes an endpoint on behalf of a CNI ADD and returns when its
// routes and limits are in the kernel. It holds until the datastore shows the endpoint with
// the same container ID, or until Remove. After an error, also that of ctx, the
// routes may or may not be there, and the endpoint still holds: the caller undoes
// it by Remove. link is the index of the interface, if the caller has just switched
// it on; 0 has it looked at.
func (l *Loop) Upsert(ctx context.Context, ep calc.Endpoint, link int) error {
	w := &waiter{endpoint: ep, done: make(chan error, 1)}
	l.mu.Lock()
	l.endpoints.add(ep)
	l.waiters = append(l.waiters, w)
	l.hints.up(ep.Interface, link)
	l.mu.Unlock()
	if err := l.wait(ctx, w); err != nil {
		return fmt.Errorf("program routes of %s: %w", ep.ID, err)
	}
	return nil
}

// Mend is Upsert for a repeated ADD: the kernel is read first, so that a route which
// somebody took away since is put back before Mend returns.
func (l *Loop) Mend(ctx context.Context, ep calc.Endpoint, link int) error {
	l.mu.Lock()
	l.hints.resync = true
	l.mu.Unlock()
	return l.Upsert(ctx, ep, link)
}

// Settle returns when all that the datastore's view of an endpoint asks for stands: not
// its routes alone, which Upsert waits for, but also what Rules make of it. The datastore
// must show the endpoint with that container, or come to show it.
func (l *Loop) Settle(ctx context.Context, id calc.EndpointID, container string) error {
	w := &waiter{endpoint: calc.Endpoint{ID: id, ContainerID: container}, done: make(chan error, 1)}
	l.mu.Lock()
	l.settling = append(l.settling, w)
	l.mu.Unlock()
	err := l.wait(ctx, w)
	if err == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settling = slices.DeleteFunc(l.settling, func(other *waiter) bool { return other == w })
	return fmt.Errorf("wait for the packet rules of %s: %w", id, errors.Join(err, l.status.LastError))
}

// settle answers those whose endpoint the State shows that was carried out in this turn.
func (l *Loop) settle(failed error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if failed != nil || l.rulesDue || !l.inSync { // rulesDue: there is a newer State
		return
	}
	l.settling = slices.DeleteFunc(l.settling, func(w *waiter) bool {
		shown := l.state.Endpoints[w.endpoint.ID].ContainerID == w.endpoint.ContainerID
		if shown {
			w.done <- nil
		}
		return shown
	})
}

// Remove takes the routes of an endpoint away on behalf of a CNI DEL, and returns
// when they are gone. container is the ID of the container that is deleted: when
// the endpoint belongs to another one by now, that one stays. It is empty for
// whichever there is.
//
// For as long as the datastore still shows the endpoint with that container it
// stays away. An endpoint nobody has spoken of yet has no routes we know of;
// those that an earlier process left go with its device, or at InSync.
func (l *Loop) Remove(ctx context.Context, id calc.EndpointID, container string) error {
	l.mu.Lock()
	old, was := l.endpoints.remove(id, container)
	if !was {
		l.mu.Unlock()
		return nil
	}
	w := &waiter{endpoint: old, removed: true, done: make(chan error, 1)}
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	if err := l.wait(ctx, w); err != nil {
		return fmt.Errorf("remove routes of %s: %w", id, err)
	}
	return nil
}

func (l *Loop) wait(ctx context.Context, w *waiter) error {
	l.wake()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
	}
	// Run may have answered and then ended.
	select {
	case err := <-w.done:
		return err
	default:
		return ErrStopped
	}
}

// SetState declares all that the datastore asks of this node. The Loop keeps s.
// Before InSync it is only remembered.
func (l *Loop) SetState(s calc.State) {
	l.mu.Lock()
	l.tunnelsDue = l.tunnelsDue || !sameTunnels(l.state.Tunnels, s.Tunnels) || l.state.IPIP != s.IPIP ||
		!slices.EqualFunc(l.state.Secure, s.Secure, calc.SecureTunnel.Equal)
	l.remotesDue = l.remotesDue || !same(l.state.Remote, s.Remote) || !slices.Equal(l.state.NodeAddrs, s.NodeAddrs)
	l.state = s
	l.endpoints.store(s.Endpoints, l.inSync)
	l.rulesDue = true
	inSync := l.inSync
	l.mu.Unlock()
	if inSync {
		l.wakeSoon()
	}
}

// SetResyncInterval is Config.ResyncInterval from now on.
func (l *Loop) SetResyncInterval(d time.Duration) {
	setDefault(&d, DefaultResyncInterval)
	l.mu.Lock()
	changed := d != l.interval
	l.interval = d
	l.mu.Unlock()
	if changed {
		select {
		case l.repace <- struct{}{}:
		default:
		}
	}
}

// Resync has the kernel read and compared in full soon: what the Loop's parts are to do
// has changed in a way that no State shows.
func (l *Loop) Resync() {
	l.mu.Lock()
	l.hints.resync = true
	l.mu.Unlock()
	l.wakeSoon()
}

// TunnelsDue has the tunnels looked at, and the routes into them: some of what is desired of
// them was waiting for its time.
func (l *Loop) TunnelsDue() {
	l.mu.Lock()
	l.tunnelsDue = true
	l.mu.Unlock()
	l.wake()
}

// ResyncRules has the packet rules read and compared soon: somebody may have changed them.
func (l *Loop) ResyncRules() {
	l.mu.Lock()
	l.hints.rules = true
	l.mu.Unlock()
	l.wakeSoon()
}

// ResyncLimits has the limits of pods' traffic read and compared soon.
func (l *Loop) ResyncLimits() {
	l.mu.Lock()
	l.hints.shapers = true
	l.mu.Unlock()
	l.wakeSoon()
}

// InSync says that the last State was the datastore's whole content. Only from
// here on is anything removed that nobody asked to remove.
func (l *Loop) InSync() {
	l.mu.Lock()
	l.inSync, l.tunnelsDue, l.remotesDue = true, true, true
	l.endpoints.store(l.state.Endpoints, true)
	l.mu.Unlock()
	l.wake()
}

func (l *Loop) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// soon is how long a turn waits that nobody waits for. The store's echo of an ADD
// and the events of its device come while the ADD is at work, and its own turn
// sees to them too.
const soon = 5 * time.Millisecond

// wakeSoon asks for a turn within soon.
func (l *Loop) wakeSoon() {
	if l.soonDue.CompareAndSwap(false, true) {
		time.AfterFunc(soon, func() {
			l.soonDue.Store(false)
			l.wake()
		})
	}
}

// Status is how far the Loop has come.
type Status struct {
	InSync bool
	// Endpoints should be on this node; Waiting are those without their interface.
	Endpoints int
	Waiting   []calc.EndpointID
	// PendingRoutes are not yet in the kernel as they should be.
	PendingRoutes int
	// Problems are objects of the datastore that could not be honoured.
	Problems []calc.Problem
	// LastApply is when the kernel was last made to agree, in whole or in part;
	// LastError is what kept it from agreeing then.
	LastApply time.Time
	LastError error
	// Applies, Failures and Resyncs count since the start.
	Applies, Failures, Resyncs uint64
}

// Status is safe to call at any time.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.InSync = l.inSync
	s.Problems = l.state.Problems
	l.endpoints.all(func(calc.Endpoint, bool) { s.Endpoints++ })
	return s
}

// stuck is longer than the slowest turn: the kernel answers a request within half a
// minute.
const stuck = 5 * time.Minute

// Live fails when the Loop hangs: nothing but a restart helps.
func (l *Loop) Live() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := time.Since(l.turnBegan); !l.turnBegan.IsZero() && at > stuck {
		return fmt.Errorf("the dataplane has been at one change of the kernel for %s", at.Round(time.Second))
	}
	return nil
}

func (l *Loop) turns(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turnBegan = began
}

// Run makes the kernel as it should be, until ctx ends. It leaves the kernel as it
// is then: traffic flows on. It is called once.
func (l *Loop) Run(ctx context.Context) error {
	defer close(l.done)
	l.cfg.Routes.HoldStale(true)
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	events, err := l.subscribe(ctx)
	if err != nil {
		return fmt.Errorf("dataplane loop: %w", err)
	}
	watching.Go(func() { l.watch(ctx, events) })

	resync := time.NewTimer(l.resyncPause())
	defer resync.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		retry := false
		select {
		case <-ctx.Done():
			return nil
		case <-l.kick:
		case <-l.repace:
			resync.Reset(l.resyncPause())
			continue
		case <-again.C:
			retry = true
		case <-resync.C:
			l.mu.Lock()
			l.hints.resync = true
			l.mu.Unlock()
			resync.Reset(l.resyncPause())
		}
		l.turns(time.Now())
		next := l.turn(ctx, retry)
		l.turns(time.Time{})
		again.Reset(next)
	}
}

// resyncPause is jittered, so that the nodes of a cluster that started together
// don't stay in step.
func (l *Loop) resyncPause() time.Duration {
	l.mu.Lock()
	d := l.interval
	l.mu.Unlock()
	return d - d/10 + rand.N(d/5+1)
}

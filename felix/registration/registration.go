package registration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/autodetect"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/kernel"
)

// Kernel is what a Registrar sees of the node; *kernel.Handle has it.
type Kernel interface {
	Links() ([]kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
	Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error)
	SubscribeExcept(ctx context.Context, topics kernel.Topics, ignore kernel.Ignore) (<-chan kernel.Event, error)
}

// Config is what a Registrar works with; all fields but InternalIPs and Source
// are required.
type Config struct {
	Node     string
	Settings Settings
	Client   datastore.Client
	Registry *api.Registry
	Kernel   Kernel
	Log      *slog.Logger
	// InternalIPs are those of the node in Kubernetes; nil where there is none.
	InternalIPs func(ctx context.Context) ([]netip.Addr, error)
	// Source is the address from which the node sends to a host; nil means asking
	// the resolver and the kernel.
	Source func(ctx context.Context, host string, ipv6 bool) (netip.Addr, error)
}

// Registrar keeps the node's entry as the settings and the node's addresses say.
type Registrar struct {
	cfg   Config
	write *datastore.Resources
	wake  chan struct{} // holds one token when the node has to be looked at again
	// seen are the devices as of the last success; nil when it has to be tried in
	// any case.
	seen []autodetect.Device
	told string // the CIDR of the pool that was last said not to be made

	mu     sync.Mutex
	failed error // what keeps the node from being registered as it should be
	begun  bool  // failed says something
}

// New makes a Registrar; Run starts it.
func New(cfg Config) *Registrar {
	if cfg.Source == nil {
		cfg.Source = sourceAddress
	}
	return &Registrar{cfg: cfg, write: datastore.NewResources(cfg.Client, cfg.Registry, nil), wake: make(chan struct{}, 1)}
}

// The pauses of Run.
const (
	// settle is how long the node's addresses must have been quiet: an interface
	// that is being set up changes several times.
	settle = time.Second
	// retryMin and retryMax bound the pause after a failure.
	retryMin, retryMax = 500 * time.Millisecond, 30 * time.Second
)

// Run registers the node, at once and whenever its addresses change, until ctx
// ends. While the datastore can't be written it waits and says so once.
func (r *Registrar) Run(ctx context.Context) error {
	var events <-chan kernel.Event
	due := time.NewTimer(0)
	defer due.Stop()
	pause := retryMin
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, more := <-events:
			if !more {
				events = nil // the kernel says nothing more: asked again when it is due
			}
			due.Reset(settle)
			continue
		case <-r.wake:
			r.seen = nil
			due.Reset(0)
			continue
		case <-due.C:
		}
		err := r.followFrom(ctx, &events)
		if ctx.Err() != nil {
			return nil
		}
		r.say(err)
		if err == nil {
			pause = retryMin
			continue
		}
		due.Reset(pause)
		pause = min(2*pause, retryMax)
	}
}

// ErrAddressTaken is that another node has the address, and had it first.
var ErrAddressTaken = errors.New("its address")

// NodesChanged has Run look again where a Node was what kept this one from being
// registered.
func (r *Registrar) NodesChanged() {
	if errors.Is(r.Problem(), ErrAddressTaken) {
		r.Again()
	}
}

// Again has Run look at the node once more, for something else than its devices has
// changed.
func (r *Registrar) Again() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Problem is what keeps the node from being registered as it should be; nil once it
// is.
func (r *Registrar) Problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.begun {
		return errNotYet
	}
	return r.failed
}

var errNotYet = errors.New("its registration has not been tried yet")

// followFrom is follow, with a subscription to what may change the node's addresses
// from before on.
func (r *Registrar) followFrom(ctx context.Context, events *<-chan kernel.Event) (err error) {
	if *events == nil {
		// Pods come and go all the time: their devices wake nobody here.
		if *events, err = r.cfg.Kernel.SubscribeExcept(ctx, kernel.LinkEvents|kernel.AddressEvents, kernel.Pods()); err != nil {
			return fmt.Errorf("follow the node's addresses: %w", err)
		}
	}
	return r.follow(ctx)
}

// follow registers the node when it looks different from the last time: pods come
// and go all the time, and none of that is worth a look into the datastore.
func (r *Registrar) follow(ctx context.Context) error {
	host, err := r.host(ctx)
	if err != nil {
		return err
	}
	now := ownDevices(host.Devices)
	if r.seen != nil && reflect.DeepEqual(now, r.seen) {
		return nil
	}
	r.seen = nil
	if err := r.Register(ctx); err != nil {
		return err
	}
	r.seen = now
	return nil
}

// say logs what is wrong when that is news, and its end.
func (r *Registrar) say(err error) {
	r.mu.Lock()
	before := r.failed
	r.failed, r.begun = err, true
	r.mu.Unlock()
	switch {
	case err == nil && before != nil:
		r.cfg.Log.Info("the node is registered as it should be again")
	case err != nil && (before == nil || before.Error() != err.Error()):
		r.cfg.Log.Warn("the node is not registered as it should be; trying again", "node", r.cfg.Node, "err", err)
	}
}

// Register writes what has changed, once.
func (r *Registrar) Register(ctx context.Context) error {
	if err := datastore.EnsureInitialized(ctx, r.cfg.Client, r.cfg.Registry, nil); err != nil {
		return err
	}
	if err := r.ensurePools(ctx); err != nil {
		return err
	}
	host, err := r.host(ctx)
	if err != nil {
		return err
	}
	return r.registerNode(ctx, host)
}

// maxRaces bounds how often a write is tried again because somebody else was
// faster.
const maxRaces = 8

func (r *Registrar) registerNode(ctx context.Context, host autodetect.Host) error {
	var err error
	for range maxRaces {
		err = r.writeNode(ctx, host)
		if !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrAlreadyExists) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("register node %s: %w", r.cfg.Node, err)
	}
	return nil
}

func (r *Registrar) writeNode(ctx context.Context, host autodetect.Host) error {
	all, err := r.cfg.Client.List(ctx, datastore.Range{Kind: api.KindNode})
	if err != nil {
		return err
	}
	node := &api.Node{}
	node.Name = r.cfg.Node
	var stored *datastore.Entry
	var others []*api.Node
	for i, e := range all.Entries {
		n, ok := e.Object.(*api.Node)
		switch {
		case !ok:
		case n.Name == r.cfg.Node:
			stored = &all.Entries[i]
			node = n.DeepCopyObject().(*api.Node)
		default:
			others = append(others, n)
		}
	}
	changed, partly := update(node, r.cfg.Settings, host)
	if errors.Is(partly, ErrNoAddress) || !changed {
		return partly
	}
	if other, addr, taken := claimedBy(node, others); taken {
		return fmt.Errorf("%w %s is that of node %s already; give one of them another address, or delete the node that is gone: calicoctl delete node %s", ErrAddressTaken, addr, other, other)
	}
	if stored == nil {
		_, err = r.write.Create(ctx, node)
	} else {
		stored.Object = node
		_, err = r.write.Update(ctx, *stored)
	}
	if err == nil {
		r.cfg.Log.Info("node registered", registered(node)...)
	}
	return errors.Join(err, partly)
}

// registered is what the log says of a node: its addresses and where they come from.
func registered(node *api.Node) []any {
	attrs := []any{"node", node.Name}
	for _, a := range []struct{ name, value string }{
		{"ipv4", node.Spec.BGP.IPv4Address},
		{"ipv4-from", node.Annotations[AnnotationIPv4]},
		{"ipv6", node.Spec.BGP.IPv6Address},
		{"ipv6-from", node.Annotations[AnnotationIPv6]},
	} {
		if a.value != "" {
			attrs = append(attrs, a.name, a.value)
		}
	}
	return attrs
}

// ensurePools makes the pools of the settings in a cluster that has none for pods of
// their family.
func (r *Registrar) ensurePools(ctx context.Context) error {
	if len(r.cfg.Settings.Pools) == 0 {
		return nil
	}
	snap, err := r.cfg.Client.List(ctx, datastore.Range{Kind: api.KindIPPool})
	if err != nil {
		return fmt.Errorf("make the first IP pools: %w", err)
	}
	has := map[bool]bool{}
	for _, e := range snap.Entries {
		if p, ok := e.Object.(*v3.IPPool); ok && api.PoolServes(p.Spec, v3.IPPoolAllowedUseWorkload) {
			has[isIPv6(p.Spec.CIDR)] = true
		}
	}
	for _, p := range r.cfg.Settings.Pools {
		if has[isIPv6(p.Spec.CIDR)] || len(snap.Invalid) > 0 {
			r.tellOfOthers(p, snap.Entries)
			continue
		}
		_, err := r.write.Create(ctx, p.DeepCopy())
		if errors.Is(err, datastore.ErrAlreadyExists) {
			continue // another node was faster
		}
		if err != nil {
			return fmt.Errorf("make the IP pool %s: %w", p.Name, err)
		}
		r.cfg.Log.Info("IP pool made", "pool", p.Name, "cidr", p.Spec.CIDR)
	}
	return nil
}

// tellOfOthers says, once, that the settings ask for a pool which isn't made, since
// there are others: who has changed the setting would expect it.
func (r *Registrar) tellOfOthers(wanted *v3.IPPool, stored []datastore.Entry) {
	var others []string
	for _, e := range stored {
		p, ok := e.Object.(*v3.IPPool)
		if ok && p.Spec.CIDR == wanted.Spec.CIDR {
			r.tellOfDifference(wanted, p)
			return
		}
		if ok && isIPv6(p.Spec.CIDR) == isIPv6(wanted.Spec.CIDR) {
			others = append(others, p.Name+" "+p.Spec.CIDR)
		}
	}
	if r.told == wanted.Spec.CIDR || len(others) == 0 {
		return
	}
	r.told = wanted.Spec.CIDR
	r.cfg.Log.Warn("the pool of the settings is not made, since the cluster has pools; change them with calicoctl", "cidr", wanted.Spec.CIDR, "pools", strings.Join(others, ", "))
}

// tellOfDifference says, once, that a pool stays as it is though the settings have
// changed how it is carried.
func (r *Registrar) tellOfDifference(wanted, stored *v3.IPPool) {
	const same = "Never" // and empty
	mode := func(m string) string {
		if m == "" {
			return same
		}
		return m
	}
	modes := func(s v3.IPPoolSpec) string {
		return fmt.Sprintf("vxlanMode %s, ipipMode %s", mode(string(s.VXLANMode)), mode(string(s.IPIPMode)))
	}
	asked, is := modes(wanted.Spec), modes(stored.Spec)
	if asked == is || r.told == wanted.Spec.CIDR {
		return
	}
	r.told = wanted.Spec.CIDR
	r.cfg.Log.Warn("the pool stays as it is: the settings are for its making; change it with calicoctl", "pool", stored.Name, "cidr", stored.Spec.CIDR, "has", is, "asked", asked)
}

func isIPv6(cidr string) bool {
	p, err := netip.ParsePrefix(cidr)
	return err == nil && p.Addr().Is6()
}

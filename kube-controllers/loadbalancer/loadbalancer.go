// Package loadbalancer gives Services of type LoadBalancer addresses of IP pools that are
// for load balancers, and takes them back.
package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/kube-controllers/convert"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

// Config is what the controller works in.
type Config struct {
	Client   datastore.Client
	Cache    *state.Cache
	Services *kube.Resource[*corev1.Service]
	// SetIngress writes the status of a Service as the API server has it.
	SetIngress func(context.Context, *corev1.Service, []corev1.LoadBalancerIngress) error
	// AssignIPs says which services get addresses without asking for them.
	AssignIPs func() v3.AssignIPs
	Log       *slog.Logger
	Metrics   *queue.Metrics
}

// Controller looks after the addresses of Services. What it has assigned stands in the
// blocks, by handle and attributes, and nowhere else.
type Controller struct {
	cfg   Config
	view  *ipam.Tracker
	alloc *ipam.Allocator
	renew func() *ipam.Allocator
	queue *queue.Queue[service]
}

// service is the name of a Service.
type service struct{ namespace, name string }

func (s service) String() string { return s.namespace + "/" + s.name }

// New makes a Controller.
func New(cfg Config) (*Controller, error) {
	c := &Controller{cfg: cfg, view: ipam.NewTracker(v3.VirtualLoadBalancer)}
	c.renew = func() *ipam.Allocator {
		return ipam.New(ipam.Config{Client: cfg.Client, Node: v3.VirtualLoadBalancer, Virtual: true, View: c.view, Log: cfg.Log})
	}
	c.alloc = c.renew()
	c.queue = queue.New(queue.Config[service]{
		Name: "loadbalancer", Workers: 1, // one owner of blocks, one allocator
		Reconcile: c.reconcile, Log: cfg.Log, Metrics: cfg.Metrics,
	})
	for _, kind := range []api.Kind{api.KindIPPool, api.KindIPReservation, api.KindIPAMConfig, api.KindProfile} {
		cfg.Cache.Watch(kind, func(_, after *datastore.Entry, key api.Key) {
			u := datastore.SyncUpdate{Key: key, Entry: after}
			if cfg.Cache.Unreadable(key) {
				u.Invalid = &datastore.Invalid{Key: key, Err: datastore.ErrInvalid}
			}
			c.view.Apply([]datastore.SyncUpdate{u})
		})
	}
	for _, kind := range []api.Kind{api.KindIPPool, api.KindKubeControllersConfiguration} {
		cfg.Cache.Watch(kind, func(_, _ *datastore.Entry, _ api.Key) { c.addAll() })
	}
	cfg.Cache.Watch(api.KindIPAMBlock, func(before, after *datastore.Entry, _ api.Key) {
		for _, entry := range []*datastore.Entry{before, after} {
			c.addHolders(entry)
		}
	})
	return c, cfg.Services.Watch(func(namespace, name string) { c.queue.Add(service{namespace, name}) })
}

// Run works until ctx ends. Both sides must have been read by then.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx) }

// Close ends it for good.
func (c *Controller) Close() {
	c.queue.Close()
	c.alloc.Close()
}

// Health is nil unless the worker is stuck.
func (c *Controller) Health() error { return c.queue.Health() }

// addAll looks at all services to which a change of pools or settings may matter.
func (c *Controller) addAll() {
	c.cfg.Services.Each(func(svc *corev1.Service) {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			c.queue.Add(service{svc.Namespace, svc.Name})
		}
	})
}

// addHolders looks at the services that hold addresses of a block.
func (c *Controller) addHolders(entry *datastore.Entry) {
	if entry == nil {
		return
	}
	allocations, _ := state.Block(entry.Object)
	for _, a := range allocations {
		if state.ServiceOf(a) != "" {
			c.queue.Add(service{a.Attrs[api.AttributeNamespace], a.Attrs[api.AttributeService]})
		}
	}
}

// held is what the cache says a service of that name has, by handle. A service made anew
// under an old name has another handle.
func (c *Controller) held(key service) map[ipam.HandleID][]netip.Addr {
	out := map[ipam.HandleID][]netip.Addr{}
	for _, block := range c.cfg.Cache.Find(state.BlocksByService, key.String()) {
		entry, ok := c.cfg.Cache.Get(block)
		if !ok || !isOurs(entry) {
			continue
		}
		allocations, _ := state.Block(entry.Object)
		for _, a := range allocations {
			if state.ServiceOf(a) == key.String() && a.Handle != "" {
				out[a.Handle] = append(out[a.Handle], a.Addr)
			}
		}
	}
	return out
}

func isOurs(entry datastore.Entry) bool {
	owner, ok := ipam.OwnerOf(entry)
	return ok && owner == api.Affinity{Type: api.AffinityVirtual, Name: v3.VirtualLoadBalancer}
}

// pools are those for load balancers.
func (c *Controller) pools() []*v3.IPPool {
	return slices.DeleteFunc(c.view.Pools(), func(p *v3.IPPool) bool {
		return !slices.Contains(p.Spec.AllowedUses, v3.IPPoolAllowedUseLoadBalancer)
	})
}

// reconcile asks the API server before it changes anything: the cache may be behind.
func (c *Controller) reconcile(ctx context.Context, key service) error {
	held := c.held(key)
	svc, known := c.cfg.Services.Get(key.namespace, key.name)
	if known && c.settled(svc, held) || !known && len(held) == 0 {
		return nil
	}
	svc, exists, err := c.cfg.Services.Live(ctx, key.namespace, key.name)
	if err != nil {
		return err
	}
	for handle := range held {
		if exists && handle == convert.BalancerHandle(svc) {
			continue
		}
		if err := c.release(ctx, key, handle); err != nil {
			return err
		}
	}
	if !exists {
		return nil
	}
	if !convert.Balanced(svc, c.cfg.AssignIPs()) {
		return c.withdraw(ctx, key, svc)
	}
	return c.serve(ctx, key, svc)
}

// settled reports whether nothing is to be done for a service, according to the caches.
// Without a pool for load balancers, one without addresses is none of our business.
func (c *Controller) settled(svc *corev1.Service, held map[ipam.HandleID][]netip.Addr) bool {
	own := held[convert.BalancerHandle(svc)]
	pools := c.pools()
	switch {
	case len(held) > 1 || len(held) == 1 && own == nil:
		return false
	case !convert.Balanced(svc, c.cfg.AssignIPs()) || len(pools) == 0 && own == nil:
		return own == nil
	}
	want, err := convert.BalancerOf(svc)
	return err == nil && decide(want, own, pools).settled() && shows(svc, own)
}

func (c *Controller) release(ctx context.Context, key service, handle ipam.HandleID) error {
	addrs, err := c.alloc.ReleaseByHandle(ipam.WithReason(ctx, "service "+key.String()+" has it no more"), handle)
	if len(addrs) > 0 {
		c.cfg.Log.Info("released the addresses of a service", "service", key, "addresses", addrs)
	}
	return c.checked(err)
}

// withdraw takes the addresses from a service that is not ours any more. What others have
// written into its status stays.
func (c *Controller) withdraw(ctx context.Context, key service, svc *corev1.Service) error {
	handle := convert.BalancerHandle(svc)
	addrs, err := c.alloc.ByHandle(ctx, handle)
	if err != nil || len(addrs) == 0 {
		return err
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if left := without(svc, addrs); len(left) < len(svc.Status.LoadBalancer.Ingress) {
			if err := c.cfg.SetIngress(ctx, svc, left); err != nil {
				return err
			}
		}
	}
	return c.release(ctx, key, handle)
}

// serve gives a service what it wants, and says in its status what it has. An address that
// it shall lose stays until it has the other, goes from the status, and then is released.
func (c *Controller) serve(ctx context.Context, key service, svc *corev1.Service) error {
	want, err := convert.BalancerOf(svc)
	if err != nil {
		return fmt.Errorf("service %s gets no address: %w", key, err)
	}
	handle := convert.BalancerHandle(svc)
	own, err := c.alloc.ByHandle(ctx, handle)
	if err != nil {
		return err
	}
	d := decide(want, own, c.pools())
	got, failed := c.assign(ctx, svc, want, d)
	if failed != nil {
		d.keep, d.release = own, nil
	}
	now := append(d.keep, got...)
	if !shows(svc, now) {
		if err := c.cfg.SetIngress(ctx, svc, ingressOf(now)); err != nil {
			return errors.Join(failed, err)
		}
		c.cfg.Log.Info("a service has its addresses", "service", key, "addresses", now)
	}
	if len(d.release) > 0 {
		err = c.checked(c.alloc.Release(ipam.WithReason(ctx, "service "+key.String()+" wants another"), handle, d.release))
	}
	return errors.Join(failed, err)
}

// assign gets the addresses that a service lacks. One that prefers two IP versions is
// served with either.
func (c *Controller) assign(ctx context.Context, svc *corev1.Service, want convert.Balancer, d decision) ([]netip.Addr, error) {
	if len(d.name) > 0 {
		return c.assignAll(ctx, svc, ipam.Request{Addrs: d.name})
	}
	requests := []ipam.Request{{}}
	if !want.AllFamilies {
		requests = make([]ipam.Request, len(d.families))
	}
	for i, f := range d.families {
		r := &requests[min(i, len(requests)-1)]
		r.Pools4, r.Pools6 = want.Pools4, want.Pools6
		if f == corev1.IPv4Protocol {
			r.Num4 = 1
		} else {
			r.Num6 = 1
		}
	}
	var got []netip.Addr
	var failed []error
	for _, r := range requests {
		if r.Num4+r.Num6 == 0 {
			continue
		}
		addrs, err := c.assignAll(ctx, svc, r)
		got, failed = append(got, addrs...), append(failed, err)
	}
	if err := errors.Join(failed...); !errors.Is(err, ipam.ErrNoPool) || len(got)+len(d.keep) == 0 {
		return got, err
	}
	return got, nil // it would have liked another, of which there is no pool
}

func (c *Controller) assignAll(ctx context.Context, svc *corev1.Service, r ipam.Request) ([]netip.Addr, error) {
	r.Handle, r.Use, r.Namespace = convert.BalancerHandle(svc), v3.IPPoolAllowedUseLoadBalancer, svc.Namespace
	r.Attrs = map[string]string{api.AttributeService: svc.Name, api.AttributeType: string(svc.Spec.Type)}
	assigned, err := c.alloc.AutoAssign(ctx, r)
	var addrs []netip.Addr
	for _, a := range assigned {
		addrs = append(addrs, a.Addr)
	}
	if err != nil {
		err = fmt.Errorf("service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return addrs, c.checked(err)
}

// checked makes a new allocator when the old one may have something in doubt, which it
// would take back: what a service has is what its handle holds.
func (c *Controller) checked(err error) error {
	if errors.Is(err, datastore.ErrUnavailable) {
		c.alloc.Close()
		c.alloc = c.renew()
	}
	return err
}

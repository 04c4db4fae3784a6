// Package leaks releases addresses that are nobody's: of pods that are gone, and
// of nodes that are gone.
//
// An address is released only when it has seemed to be nobody's for a grace
// period, and then the API server and the datastore say so as well when asked for
// exactly it, and it is still the same assignment. Whatever can't be told is in use.
package leaks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

// Config is what the collector works in.
type Config struct {
	Client datastore.Client
	Cache  *state.Cache
	Pods   *kube.Resource[*corev1.Pod]
	Nodes  *kube.Resource[*corev1.Node]
	// Grace is how long something must seem to be nobody's; 0 releases nothing.
	Grace   func() time.Duration
	Log     *slog.Logger
	Metrics *queue.Metrics
	// PoolOf is the pool of an address, for the metrics.
	PoolOf func(netip.Addr) string
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// subject is what may have leaked: a handle, or all that belongs to a node. One of
// the two is empty.
type subject struct {
	handle ipam.HandleID
	node   string
}

// String names the subject in logs.
func (s subject) String() string {
	if s.node != "" {
		return "node " + s.node
	}
	return "handle " + string(s.handle)
}

// Collector looks at what changed, one subject at a time, so that its work is as
// much as there is to be done.
type Collector struct {
	cfg      Config
	queue    *queue.Queue[subject]
	suspects *suspects
	metrics  *metrics
}

// New makes a Collector.
func New(cfg Config) (*Collector, error) {
	c := &Collector{cfg: cfg, suspects: newSuspects()}
	c.metrics = newMetrics(c)
	c.queue = queue.New(queue.Config[subject]{Name: "ipam-gc", Workers: 1, Reconcile: c.reconcile, Log: cfg.Log, Metrics: cfg.Metrics})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(c.metrics)
	}
	cfg.Cache.Watch(api.KindIPAMBlock, c.blockChanged)
	cfg.Cache.Watch(api.KindNode, c.nodeChanged)
	cfg.Cache.Watch(api.KindWorkloadEndpoint, c.endpointChanged)
	cfg.Cache.Watch(api.KindKubeControllersConfiguration, func(_, _ *datastore.Entry, _ api.Key) {
		for _, s := range c.suspects.all() { // the grace period may be another
			c.queue.Add(s)
		}
	})
	if err := cfg.Nodes.Watch(func(_, name string) { c.addNode(name) }); err != nil {
		return c, err
	}
	return c, cfg.Pods.Watch(c.podChanged)
}

// Run works until ctx ends. Both sides must have been read by then.
func (c *Collector) Run(ctx context.Context) { c.queue.Run(ctx) }

// Close ends it for good.
func (c *Collector) Close() { c.queue.Close() }

// Health is nil unless a worker is stuck.
func (c *Collector) Health() error { return c.queue.Health() }

// blockChanged asks for a look at every handle that holds other addresses than
// before, and at the nodes that Block has to do with and that there are no more.
func (c *Collector) blockChanged(before, after *datastore.Entry, _ api.Key) {
	old := map[assignment]bool{}
	if before != nil {
		allocations, _ := state.Block(before.Object)
		for _, a := range allocations {
			old[assignmentOf(a)] = true
		}
	}
	if after != nil {
		allocations, owner := state.Block(after.Object)
		c.addNode(owner)
		for _, a := range allocations {
			c.addNode(a.Attrs[api.AttributeNode])
			if x := assignmentOf(a); old[x] {
				delete(old, x)
			} else {
				c.queue.Add(subject{handle: a.Handle})
			}
		}
	}
	for x := range old {
		c.queue.Add(subject{handle: x.handle})
	}
}

func (c *Collector) addNode(name string) {
	if name != "" && !c.nodeKnown(name) {
		c.queue.Add(subject{node: name})
	}
}

func (c *Collector) nodeChanged(_, after *datastore.Entry, key api.Key) {
	if after == nil {
		c.queue.Add(subject{node: key.Name})
	}
}

func (c *Collector) endpointChanged(before, after *datastore.Entry, _ api.Key) {
	if before == nil {
		return
	}
	wep, ok := before.Object.(*api.WorkloadEndpoint)
	if !ok {
		return
	}
	if after == nil {
		c.addNode(wep.Spec.Node)
	}
	c.addPod(wep.Namespace, wep.Spec.Pod)
}

// podChanged asks for a look at what a pod that is gone has, and at what a pod has besides
// its addresses: the news of the end of an earlier one of its name may come when it is there.
func (c *Collector) podChanged(namespace, name string) {
	pod, ok := c.cfg.Pods.Get(namespace, name)
	if !ok {
		c.addPod(namespace, name)
		return
	}
	c.addPodBut(namespace, name, func(a netip.Addr) bool {
		return slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == a.String() })
	})
}

// addPod asks for a look at the handles of a pod.
func (c *Collector) addPod(namespace, name string) {
	c.addPodBut(namespace, name, func(netip.Addr) bool { return false })
}

// addPodBut leaves out addresses that are known to be the pod's.
func (c *Collector) addPodBut(namespace, name string, known func(netip.Addr) bool) {
	pod := namespace + "/" + name
	for _, key := range c.cfg.Cache.Find(state.BlocksByPod, pod) {
		for _, a := range c.allocations(key) {
			if podOf(a) == pod && !known(a.Addr) {
				c.queue.Add(subject{handle: a.Handle})
			}
		}
	}
}

func (c *Collector) allocations(block api.Key) []ipam.Allocation {
	entry, ok := c.cfg.Cache.Get(block)
	if !ok {
		return nil
	}
	allocations, _ := state.Block(entry.Object)
	return allocations
}

// holdings are what a handle holds according to the cache.
func (c *Collector) holdings(handle ipam.HandleID) []ipam.Allocation {
	var out []ipam.Allocation
	for _, key := range c.cfg.Cache.Find(state.BlocksByHandle, string(handle)) {
		for _, a := range c.allocations(key) {
			if a.Handle == handle {
				out = append(out, a)
			}
		}
	}
	return out
}

// heldOn are the addresses of a node according to the cache.
func (c *Collector) heldOn(node string) []ipam.Allocation {
	var out []ipam.Allocation
	for _, key := range c.cfg.Cache.Find(state.BlocksByNode, node) {
		for _, a := range c.allocations(key) {
			if a.Attrs[api.AttributeNode] == node {
				out = append(out, a)
			}
		}
	}
	return out
}

// reconcile looks at one subject: not suspicious, not suspicious for long enough,
// or to be released if it is confirmed.
func (c *Collector) reconcile(ctx context.Context, s subject) error {
	var seen []ipam.Allocation
	var suspicion string
	if s.node != "" {
		suspicion = c.judgeNode(s.node)
	} else {
		seen = c.holdings(s.handle)
		suspicion = c.judge(seen)
	}
	if suspicion == "" {
		c.suspects.forget(s)
		return c.endLoans(ctx, s)
	}
	since := c.suspects.since(s, seen)
	grace := c.cfg.Grace()
	if grace <= 0 {
		return nil // kept as a suspect: a configuration with a grace period asks again
	}
	if left := grace - time.Since(since); left > 0 {
		c.queue.AddAfter(s, left)
		return nil
	}
	if s.node != "" {
		return c.releaseNode(ctx, s, since)
	}
	return c.releaseHandle(ctx, s, seen, since)
}

// endLoans: who deletes a node by upstream's calicoctl leaves its loans.
func (c *Collector) endLoans(ctx context.Context, s subject) error {
	if s.node == "" || c.nodeKnown(s.node) {
		return nil
	}
	return ipam.EndLoans(ctx, c.cfg.Client, s.node)
}

func (c *Collector) releaseHandle(ctx context.Context, s subject, seen []ipam.Allocation, since time.Time) error {
	proof, err := c.confirm(ctx, seen)
	if err != nil {
		return fmt.Errorf("confirm that the addresses of %s are nobody's: %w", s, err)
	}
	if proof == "" { // in use after all
		return c.later(s)
	}
	addrs, err := ipam.ReleaseAsSeen(ipam.WithReason(ctx, "leaked: "+proof), c.cfg.Client, s.handle, seen)
	if errors.Is(err, ipam.ErrNotAsSeen) {
		return c.later(s)
	}
	if err != nil {
		return err
	}
	c.suspects.forget(s)
	c.metrics.add(seen[0].Attrs[api.AttributeNode], addrs)
	c.cfg.Log.Info("released addresses that were nobody's", "handle", s.handle, "addresses", addrs, "pod", podOf(seen[0]),
		"node", seen[0].Attrs[api.AttributeNode], "because", proof, "suspected-for", time.Since(since).Round(time.Second))
	return nil
}

// later starts the grace period anew.
func (c *Collector) later(s subject) error {
	c.suspects.forget(s)
	c.queue.AddAfter(s, c.cfg.Grace())
	return nil
}

func (c *Collector) releaseNode(ctx context.Context, s subject, since time.Time) error {
	gone, err := c.confirmNode(ctx, s.node)
	if err != nil {
		return fmt.Errorf("confirm that node %s is gone: %w", s.node, err)
	}
	if !gone {
		return c.later(s)
	}
	addrs, err := ipam.ReleaseNode(ctx, c.cfg.Client, s.node)
	c.metrics.add(s.node, addrs)
	if err != nil {
		return err
	}
	c.suspects.forget(s)
	c.cfg.Log.Info("released blocks and addresses of a node that is gone", "node", s.node, "addresses", addrs, "suspected-for", time.Since(since).Round(time.Second))
	return nil
}

// Package nodes keeps our Nodes as Kubernetes's are: their labels, and none of a
// node that Kubernetes doesn't have any more.
package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/noderemoval"
	"tortie/ipam"
	"tortie/kube-controllers/convert"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

// Config is what the controller works in.
type Config struct {
	Client   datastore.Client
	Registry *api.Registry
	Cache    *state.Cache
	Nodes    *kube.Resource[*corev1.Node]
	// SyncLabels says whether labels are copied.
	SyncLabels func() bool
	Log        *slog.Logger
	Metrics    *queue.Metrics
}

// Controller looks after Nodes.
type Controller struct {
	cfg       Config
	resources *datastore.Resources
	queue     *queue.Queue[api.Key]
}

// New makes a Controller.
func New(cfg Config) (*Controller, error) {
	c := &Controller{cfg: cfg, resources: datastore.NewResources(cfg.Client, cfg.Registry, time.Now)}
	c.queue = queue.New(queue.Config[api.Key]{Name: "node", Workers: 1, Reconcile: c.reconcile, Log: cfg.Log, Metrics: cfg.Metrics})
	cfg.Cache.Watch(api.KindNode, func(_, after *datastore.Entry, key api.Key) {
		if after != nil {
			c.queue.Add(key)
		}
	})
	return c, cfg.Nodes.Watch(func(_, name string) {
		for _, key := range cfg.Cache.Find(state.NodesByKubernetesName, name) {
			c.queue.Add(key)
		}
	})
}

// Run works until ctx ends. Both sides must have been read by then.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx) }

// Close ends it for good.
func (c *Controller) Close() { c.queue.Close() }

// Health is nil unless a worker is stuck.
func (c *Controller) Health() error { return c.queue.Health() }

func (c *Controller) reconcile(ctx context.Context, key api.Key) error {
	entry, ok := c.cfg.Cache.Get(key)
	if !ok {
		return nil
	}
	node, ok := entry.Object.(*api.Node)
	if !ok || node.KubernetesName() == "" {
		return nil // a machine that is none of Kubernetes's
	}
	kubernetes, ok := c.cfg.Nodes.Get("", node.KubernetesName())
	if !ok {
		return c.remove(ctx, entry, node.KubernetesName())
	}
	if !c.cfg.SyncLabels() {
		return nil
	}
	updated, changed, err := convert.NodeLabels(node, convert.LabelsOf(kubernetes))
	if err != nil || !changed {
		return err
	}
	entry.Object = updated
	if _, err := c.resources.Update(ctx, entry); err != nil {
		return fmt.Errorf("update the labels of %s: %w", key, err)
	}
	return nil
}

// remove cleans up after a node that the cache doesn't have, if the API server
// says so too, now. That there is no node left at all is not believed: where this
// program can work, something runs.
func (c *Controller) remove(ctx context.Context, entry datastore.Entry, kubernetesName string) error {
	if c.cfg.Nodes.Empty() {
		return fmt.Errorf("remove %s: Kubernetes has no node at all: is KUBECONFIG for the right cluster? nothing is removed", entry.Key)
	}
	_, exists, err := c.cfg.Nodes.Live(ctx, "", kubernetesName)
	if err != nil {
		return fmt.Errorf("remove %s: %w", entry.Key, err)
	}
	if exists {
		return nil // the cache will hear of it, and then we of that
	}
	name := entry.Key.Name
	if _, err := ipam.ReleaseNode(ctx, c.cfg.Client, name); err != nil {
		return fmt.Errorf("remove %s: %w", entry.Key, err)
	}
	endpoints, err := noderemoval.Dependents(ctx, c.cfg.Client, name)
	if err != nil {
		return fmt.Errorf("remove %s: %w", entry.Key, err)
	}
	if _, err := c.cfg.Client.Txn(ctx, datastore.Delete(entry.Key, entry.Revision)); err != nil {
		return fmt.Errorf("remove %s: %w", entry.Key, err)
	}
	c.cfg.Log.Info("removed a node that Kubernetes doesn't have any more, with all that was its own",
		"node", name, "kubernetes-name", kubernetesName, "workload-endpoints", endpoints)
	return nil
}

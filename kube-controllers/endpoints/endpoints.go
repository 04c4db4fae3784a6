// Package endpoints writes what Kubernetes says of a pod into the workload
// endpoints that its node has made: labels and service account.
package endpoints

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/podendpoint"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

// Config is what the controller works in.
type Config struct {
	Client   datastore.Client
	Registry *api.Registry
	Cache    *state.Cache
	Pods     *kube.Resource[*corev1.Pod]
	Workers  int
	Log      *slog.Logger
	Metrics  *queue.Metrics
}

// Controller never makes or deletes an endpoint: that is the node's.
type Controller struct {
	cfg       Config
	resources *datastore.Resources
	queue     *queue.Queue[api.Key]
}

// New makes a Controller.
func New(cfg Config) (*Controller, error) {
	c := &Controller{cfg: cfg, resources: datastore.NewResources(cfg.Client, cfg.Registry, time.Now)}
	c.queue = queue.New(queue.Config[api.Key]{
		Name: "workloadendpoint", Workers: cfg.Workers, Reconcile: c.reconcile, Log: cfg.Log, Metrics: cfg.Metrics,
	})
	cfg.Cache.Watch(api.KindWorkloadEndpoint, func(_, after *datastore.Entry, key api.Key) {
		if after != nil {
			c.queue.Add(key)
		}
	})
	return c, cfg.Pods.Watch(func(namespace, name string) {
		for _, key := range cfg.Cache.Find(state.EndpointsByPod, namespace+"/"+name) {
			c.queue.Add(key)
		}
	})
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx) }

// Close ends it for good.
func (c *Controller) Close() { c.queue.Close() }

// Health is nil unless a worker is stuck.
func (c *Controller) Health() error { return c.queue.Health() }

// reconcile brings one endpoint up to date. A pod that isn't known (yet), or that
// lives on another node, says nothing about it.
func (c *Controller) reconcile(ctx context.Context, key api.Key) error {
	entry, ok := c.cfg.Cache.Get(key)
	if !ok {
		return nil
	}
	wep, ok := entry.Object.(*api.WorkloadEndpoint)
	if !ok || wep.Spec.Orchestrator != v3.OrchestratorKubernetes {
		return nil
	}
	pod, ok := c.cfg.Pods.Get(wep.Namespace, wep.Spec.Pod)
	if !ok || !c.cfg.Cache.IsNode(pod.Spec.NodeName, wep.Spec.Node) || pod.Spec.HostNetwork {
		return nil
	}
	updated, changed := podendpoint.With(wep, pod)
	if !changed {
		return nil
	}
	entry.Object = updated
	if _, err := c.resources.Update(ctx, entry); err != nil {
		return fmt.Errorf("update %s: %w", key, err)
	}
	return nil
}

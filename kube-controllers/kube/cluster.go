package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"tortie/internal/kubeapi"
)

// Cluster is one Kubernetes cluster. Ask for the resources, then Run it: what
// nobody asked for is not read.
type Cluster struct {
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
	log     *slog.Logger

	mu       sync.Mutex
	informer map[string]cache.SharedIndexInformer
	problems map[string]problem
}

// problem is why a resource can't be followed.
type problem struct {
	err  error
	last time.Time // when it was last met
	said time.Time // when it was last logged
}

const (
	// sayAgain is how long a problem that goes on is not logged again.
	sayAgain = time.Minute
	// fresh is how long a problem counts: it is met again within that time if it
	// goes on, because no watch waits longer before it tries again.
	fresh = 75 * time.Second
	// probeEvery is how often, and for how long, the API server is asked whether it
	// is there while anything is wrong, probeRarely how often otherwise.
	probeEvery, probeRarely = 10 * time.Second, time.Minute
)

// NewCluster makes a Cluster.
func NewCluster(client kubernetes.Interface, log *slog.Logger) *Cluster {
	return &Cluster{
		client: client, factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim)), log: log,
		informer: map[string]cache.SharedIndexInformer{}, problems: map[string]problem{},
	}
}

// Pods are the pods of all namespaces, in the cache with no more than the
// controllers need.
func (c *Cluster) Pods() *Resource[*corev1.Pod] {
	return follow(c, "pods", c.factory.Core().V1().Pods().Informer(), func(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
		return c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	})
}

// Namespaces are the namespaces.
func (c *Cluster) Namespaces() *Resource[*corev1.Namespace] {
	return follow(c, "namespaces", c.factory.Core().V1().Namespaces().Informer(), func(ctx context.Context, _, name string) (*corev1.Namespace, error) {
		return c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	})
}

// ServiceAccounts are the service accounts of all namespaces.
func (c *Cluster) ServiceAccounts() *Resource[*corev1.ServiceAccount] {
	return follow(c, "serviceaccounts", c.factory.Core().V1().ServiceAccounts().Informer(), func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
		return c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	})
}

// Nodes are the nodes.
func (c *Cluster) Nodes() *Resource[*corev1.Node] {
	return follow(c, "nodes", c.factory.Core().V1().Nodes().Informer(), func(ctx context.Context, _, name string) (*corev1.Node, error) {
		return c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	})
}

// NetworkPolicies are the network policies of all namespaces.
func (c *Cluster) NetworkPolicies() *Resource[*networkingv1.NetworkPolicy] {
	return follow(c, "networkpolicies", c.factory.Networking().V1().NetworkPolicies().Informer(), func(ctx context.Context, namespace, name string) (*networkingv1.NetworkPolicy, error) {
		return c.client.NetworkingV1().NetworkPolicies(namespace).Get(ctx, name, metav1.GetOptions{})
	})
}

// Services are the services of all namespaces, in the cache with no more than the
// controllers need.
func (c *Cluster) Services() *Resource[*corev1.Service] {
	return follow(c, "services", c.factory.Core().V1().Services().Informer(), func(ctx context.Context, namespace, name string) (*corev1.Service, error) {
		return c.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	})
}

// SetIngress writes at which addresses a service of type LoadBalancer is reached, into the
// status of one that was just read: if it has changed since, that fails.
func (c *Cluster) SetIngress(ctx context.Context, svc *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	svc = svc.DeepCopy()
	svc.Status.LoadBalancer.Ingress = ingress
	if _, err := c.client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{}); err != nil {
		access := kubeapi.Access{Role: "ClusterRole of kube-controllers", Verbs: "update", Resource: "services/status"}
		return fmt.Errorf("write the status of service %s/%s: %w", svc.Namespace, svc.Name, access.Explain(err))
	}
	return nil
}

// EndpointSlices are the endpoint slices of all namespaces, in the cache with no
// more than the controllers need.
func (c *Cluster) EndpointSlices() *Resource[*discoveryv1.EndpointSlice] {
	return follow(c, "endpointslices", c.factory.Discovery().V1().EndpointSlices().Informer(), func(ctx context.Context, namespace, name string) (*discoveryv1.EndpointSlice, error) {
		return c.client.DiscoveryV1().EndpointSlices(namespace).Get(ctx, name, metav1.GetOptions{})
	})
}

// follow makes a Resource of an informer, which the first caller equips.
func follow[T Object](c *Cluster, name string, informer cache.SharedIndexInformer, live func(ctx context.Context, namespace, name string) (T, error)) *Resource[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.informer[name] == nil {
		c.informer[name] = informer
		// It fails only on an informer that runs, which then has its handler already.
		_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { c.failed(name, err) })
	}
	return &Resource[T]{name: name, informer: informer, live: live}
}

// Run follows the cluster until ctx ends.
func (c *Cluster) Run(ctx context.Context) {
	c.factory.StartWithContext(ctx)
	defer c.factory.Shutdown()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.untilProbe()):
			c.probe(ctx)
		}
	}
}

func (c *Cluster) untilProbe() time.Duration {
	if c.Health() != nil {
		return probeEvery
	}
	return probeRarely
}

// probe asks the API server for something small: a watch that can't connect tries
// again without a word.
func (c *Cluster) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeEvery)
	defer cancel()
	_, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
		c.failed("API server", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.problems, "API server")
}

// WaitForSync waits until everything has been read once; false if ctx ended first.
func (c *Cluster) WaitForSync(ctx context.Context) bool {
	for _, informer := range c.informers() {
		if !WaitForSync(ctx, informer) {
			return false
		}
	}
	return true
}

// Synced is a Resource of any kind.
type Synced interface{ HasSynced() bool }

// WaitForSync waits until the resources have been read once; false if ctx ended
// first.
func WaitForSync(ctx context.Context, resources ...Synced) bool {
	for _, r := range resources {
		if !cache.WaitForCacheSync(ctx.Done(), r.HasSynced) {
			return false
		}
	}
	return true
}

// Health is nil while everything is being followed, else why not.
func (c *Cluster) Health() error {
	if err := c.problem(); err != nil {
		return err
	}
	for name, informer := range c.informers() {
		if !informer.HasSynced() {
			return fmt.Errorf("%s: not read from the API server yet", name)
		}
	}
	return nil
}

// problem is the present problem whose resource comes first in the alphabet.
func (c *Cluster) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.problems)) {
		if p := c.problems[name]; time.Since(p.last) < fresh {
			return p.err
		}
	}
	return nil
}

func (c *Cluster) informers() map[string]cache.SharedIndexInformer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.informer)
}

// failed takes note of a watch that ended with an error. That its revision is
// gone, or that the API server closed it, is normal.
func (c *Cluster) failed(name string, err error) {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || errors.Is(err, io.EOF) {
		return
	}
	err = explain(name, err)
	now := time.Now()
	c.mu.Lock()
	before := c.problems[name]
	repeated := before.err != nil && before.err.Error() == err.Error() && now.Sub(before.said) < sayAgain
	p := problem{err: err, last: now, said: now}
	if repeated {
		p.said = before.said
	}
	c.problems[name] = p
	c.mu.Unlock()
	if !repeated {
		c.log.Error("can't follow a resource of Kubernetes: trying again", "resource", name, "err", err)
	}
}

// explain adds what to do to the errors that an operator can do something about.
func explain(resource string, err error) error {
	return kubeapi.Access{Role: "ClusterRole of kube-controllers", Verbs: "get, list and watch", Resource: resource}.Explain(err)
}

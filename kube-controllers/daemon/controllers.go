package daemon

import (
	"fmt"
	"time"

	"tortie/kube-controllers/addresses"
	"tortie/kube-controllers/autotopology"
	"tortie/kube-controllers/config"
	"tortie/kube-controllers/endpoints"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/leaks"
	"tortie/kube-controllers/loadbalancer"
	"tortie/kube-controllers/mirror"
	"tortie/kube-controllers/nodes"
	"tortie/kube-controllers/queue"
)

// buildControllers makes the enabled controllers, each with what it follows.
func (t *term) buildControllers(metrics *queue.Metrics) error {
	for _, name := range t.Config.Enabled {
		made, err := t.buildController(name, metrics)
		for i := range made {
			made[i].name = name
		}
		t.controllers = append(t.controllers, made...)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
	}
	return nil
}

func (t *term) buildController(name config.Controller, metrics *queue.Metrics) ([]following, error) {
	env := mirror.Environment{Client: t.Client, Registry: t.registry, Cache: t.cache, Log: t.Log, Metrics: metrics}
	switch name {
	case config.Namespace:
		namespaces := t.cluster.Namespaces()
		m, err := mirror.Namespaces(env, namespaces, t.Config.ProfileWorkers)
		return follow(m, err, namespaces)
	case config.ServiceAccount:
		accounts := t.cluster.ServiceAccounts()
		m, err := mirror.ServiceAccounts(env, accounts, t.Config.ProfileWorkers)
		return follow(m, err, accounts)
	case config.Policy:
		policies := t.cluster.NetworkPolicies()
		m, err := mirror.Policies(env, policies, t.Config.PolicyWorkers)
		return follow(m, err, policies)
	case config.WorkloadEndpoint:
		pods := t.cluster.Pods()
		c, err := endpoints.New(endpoints.Config{
			Client: t.Client, Registry: t.registry, Cache: t.cache, Pods: pods,
			Workers: t.Config.WorkloadEndpointWorkers, Log: t.Log, Metrics: metrics,
		})
		return follow(c, err, pods)
	case config.Service:
		services, slices := t.cluster.Services(), t.cluster.EndpointSlices()
		m, err := mirror.Services(env, services, slices)
		return follow(m, err, services, slices)
	case config.LoadBalancer:
		services := t.cluster.Services()
		c, err := loadbalancer.New(loadbalancer.Config{
			Client: t.Client, Cache: t.cache, Services: services, SetIngress: t.cluster.SetIngress,
			AssignIPs: settings{t.Config, t.cache}.assignIPs, Log: t.Log, Metrics: metrics,
		})
		return follow(c, err, services)
	case config.AutoTopology:
		kubeNodes := t.cluster.Nodes()
		c, err := autotopology.New(autotopology.Config{
			Client: t.Client, Registry: t.registry, Cache: t.cache, Nodes: kubeNodes, Now: time.Now, Log: t.Log, Metrics: metrics,
		})
		return follow(c, err, kubeNodes)
	default:
		return t.buildNode(metrics)
	}
}

// buildNode makes what upstream's node controller does: nodes, garbage collection of
// addresses, and their metrics.
func (t *term) buildNode(metrics *queue.Metrics) ([]following, error) {
	set := settings{t.Config, t.cache}
	pods, kubeNodes := t.cluster.Pods(), t.cluster.Nodes()
	n, err := nodes.New(nodes.Config{
		Client: t.Client, Registry: t.registry, Cache: t.cache, Nodes: kubeNodes,
		SyncLabels: set.syncLabels, Log: t.Log, Metrics: metrics,
	})
	if err != nil {
		return follow(n, err)
	}
	counter := addresses.New(addresses.Config{Cache: t.cache, Log: t.Log})
	t.metrics.MustRegister(counter)
	l, err := leaks.New(leaks.Config{
		Client: t.Client, Cache: t.cache, Pods: pods, Nodes: kubeNodes, PoolOf: counter.PoolOf,
		Grace: set.leakGrace, Log: t.Log, Metrics: metrics, Registerer: t.metrics,
	})
	return []following{
		{controller: n, resources: []kube.Synced{kubeNodes}}, {controller: l, resources: []kube.Synced{pods, kubeNodes}}, {controller: counter},
	}, err
}

// follow is a controller just made, with what it follows.
func follow(c controller, err error, resources ...kube.Synced) ([]following, error) {
	return []following{{controller: c, resources: resources}}, err
}

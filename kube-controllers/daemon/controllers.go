package daemon

import (
	"fmt"
	"time"

	"tortie/kube-controllers/autotopology"
	"tortie/kube-controllers/config"
	"tortie/kube-controllers/endpoints"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/leaks"
	"tortie/kube-controllers/mirror"
	"tortie/kube-controllers/nodes"
	"tortie/kube-controllers/queue"
)

// buildControllers makes the enabled controllers, each with what it follows.
func (p *program) buildControllers(metrics *queue.Metrics) error {
	for _, name := range p.Config.Enabled {
		made, err := p.buildController(name, metrics)
		for i := range made {
			made[i].name = name
		}
		p.controllers = append(p.controllers, made...)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
	}
	return nil
}

func (p *program) buildController(name config.Controller, metrics *queue.Metrics) ([]following, error) {
	env := mirror.Environment{Client: p.Client, Registry: p.registry, Cache: p.cache, Log: p.Log, Metrics: metrics}
	switch name {
	case config.Namespace:
		namespaces := p.cluster.Namespaces()
		m, err := mirror.Namespaces(env, namespaces, p.Config.ProfileWorkers)
		return follow(m, err, namespaces)
	case config.ServiceAccount:
		accounts := p.cluster.ServiceAccounts()
		m, err := mirror.ServiceAccounts(env, accounts, p.Config.ProfileWorkers)
		return follow(m, err, accounts)
	case config.Policy:
		policies := p.cluster.NetworkPolicies()
		m, err := mirror.Policies(env, policies, p.Config.PolicyWorkers)
		return follow(m, err, policies)
	case config.WorkloadEndpoint:
		pods := p.cluster.Pods()
		c, err := endpoints.New(endpoints.Config{
			Client: p.Client, Registry: p.registry, Cache: p.cache, Pods: pods,
			Workers: p.Config.WorkloadEndpointWorkers, Log: p.Log, Metrics: metrics,
		})
		return follow(c, err, pods)
	case config.Service:
		services, slices := p.cluster.Services(), p.cluster.EndpointSlices()
		m, err := mirror.Services(env, services, slices)
		return follow(m, err, services, slices)
	case config.AutoTopology:
		nodes := p.cluster.Nodes()
		c, err := autotopology.New(autotopology.Config{
			Client: p.Client, Registry: p.registry, Cache: p.cache, Nodes: nodes, Now: time.Now, Log: p.Log, Metrics: metrics,
		})
		return follow(c, err, nodes)
	default:
		return p.buildNode(metrics)
	}
}

// buildNode makes what upstream's node controller does: nodes, and garbage
// collection of addresses.
func (p *program) buildNode(metrics *queue.Metrics) ([]following, error) {
	set := settings{p.Config, p.cache}
	pods, kubeNodes := p.cluster.Pods(), p.cluster.Nodes()
	n, err := nodes.New(nodes.Config{
		Client: p.Client, Registry: p.registry, Cache: p.cache, Nodes: kubeNodes,
		SyncLabels: set.syncLabels, Log: p.Log, Metrics: metrics,
	})
	if err != nil {
		return follow(n, err)
	}
	l, err := leaks.New(leaks.Config{
		Client: p.Client, Cache: p.cache, Pods: pods, Nodes: kubeNodes,
		Grace: set.leakGrace, Log: p.Log, Metrics: metrics, Registerer: p.metrics,
	})
	return []following{{controller: n, resources: []kube.Synced{kubeNodes}}, {controller: l, resources: []kube.Synced{pods, kubeNodes}}}, err
}

// follow is a controller just made, with what it follows.
func follow(c controller, err error, resources ...kube.Synced) ([]following, error) {
	return []following{{controller: c, resources: resources}}, err
}

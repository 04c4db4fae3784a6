package daemon

import (
	"fmt"

	"tortie/kube-controllers/config"
	"tortie/kube-controllers/endpoints"
	"tortie/kube-controllers/leaks"
	"tortie/kube-controllers/mirror"
	"tortie/kube-controllers/nodes"
	"tortie/kube-controllers/queue"
)

// buildControllers makes the enabled controllers, each with what it follows.
func (p *program) buildControllers(metrics *queue.Metrics) error {
	for _, name := range p.Config.Enabled {
		made, err := p.buildController(name, metrics)
		p.controllers = append(p.controllers, made...)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
	}
	return nil
}

func (p *program) buildController(name config.Controller, metrics *queue.Metrics) ([]controller, error) {
	env := mirror.Environment{Client: p.Client, Registry: p.registry, Cache: p.cache, Log: p.Log, Metrics: metrics}
	switch name {
	case config.Namespace:
		m, err := mirror.Namespaces(env, p.cluster.Namespaces(), p.Config.ProfileWorkers)
		return []controller{m}, err
	case config.ServiceAccount:
		m, err := mirror.ServiceAccounts(env, p.cluster.ServiceAccounts(), p.Config.ProfileWorkers)
		return []controller{m}, err
	case config.Policy:
		m, err := mirror.Policies(env, p.cluster.NetworkPolicies(), p.Config.PolicyWorkers)
		return []controller{m}, err
	case config.WorkloadEndpoint:
		c, err := endpoints.New(endpoints.Config{
			Client: p.Client, Registry: p.registry, Cache: p.cache, Pods: p.cluster.Pods(),
			Workers: p.Config.WorkloadEndpointWorkers, Log: p.Log, Metrics: metrics,
		})
		return []controller{c}, err
	case config.Service:
		m, err := mirror.Services(env, p.cluster.Services(), p.cluster.EndpointSlices())
		return []controller{m}, err
	default:
		return p.buildNode(metrics)
	}
}

// buildNode makes what upstream's node controller does: nodes, and garbage
// collection of addresses.
func (p *program) buildNode(metrics *queue.Metrics) ([]controller, error) {
	set := settings{p.Config, p.cache}
	n, err := nodes.New(nodes.Config{
		Client: p.Client, Registry: p.registry, Cache: p.cache, Nodes: p.cluster.Nodes(),
		SyncLabels: set.syncLabels, Log: p.Log, Metrics: metrics,
	})
	if err != nil {
		return []controller{n}, err
	}
	l, err := leaks.New(leaks.Config{
		Client: p.Client, Cache: p.cache, Pods: p.cluster.Pods(), Nodes: p.cluster.Nodes(),
		Grace: set.leakGrace, Log: p.Log, Metrics: metrics, Registerer: p.metrics,
	})
	return []controller{n, l}, err
}

// Package e2e installs the product on a real Kubernetes cluster and breaks it.
package e2e

import (
	"testing"
	"time"
)

// TestKubernetes runs everything on one cluster, one after another: what a step
// leaves is what the next one finds, as in life.
func TestKubernetes(t *testing.T) {
	e := start(t, "test")
	for _, step := range steps() {
		if testing.Short() && !step.short {
			continue
		}
		ok := t.Run(step.name, func(t *testing.T) {
			began := time.Now()
			t.Cleanup(func() {
				if t.Failed() {
					e.explain(t)
				}
				t.Logf("%s: %v", step.name, time.Since(began).Round(100*time.Millisecond))
			})
			step.run(t, e)
		})
		if !ok && step.name == "install" {
			t.FailNow()
		}
	}
}

// step is one part of the test; with -short only those that are so run.
type step struct {
	name  string
	short bool
	run   func(t *testing.T, e *env)
}

func steps() []step {
	return []step{
		{"install", true, func(t *testing.T, e *env) { e.install(t) }},
		{"every path", true, everyPath},
		{"services through kube-proxy with nftables", true, services},
		{"services through kube-proxy with iptables", false, servicesWithIptables},
		{"service addresses reach the router", true, announced},
		{"load balancers", true, loadBalancers},
		{"what pods ask for by annotation", true, asked},
		{"static pods", true, staticPods},
		{"what Kubernetes says reaches the datastore", true, mirrored},
		{"200 pods come and go", false, churn},
		{"rolling update under traffic", true, rollingUpdate},
		{"kubelet and containerd start anew", true, runtimeRestarts},
		{"kube-controllers fail over", false, failover},
		{"garbage collection of addresses", false, leaks},
		{"a pool that is full", false, fullPool},
		{"API server away for 60 s", false, apiServerAway},
		{"etcd away for 60 s", false, etcdAway},
		{"node without power, then deleted, then back", false, nodeLost},
		{"uninstall and reinstall", true, reinstall},
		{"bad input", false, badInput},
		{"numbers", false, numbers},
	}
}

// agents are the six pods that most steps need.
func (e *env) agents(t *testing.T) []pod {
	t.Helper()
	e.apply(t, "agents.yaml")
	return e.ready(t, "default", "app=agent", 6, time.Minute)
}

func everyPath(t *testing.T, e *env) {
	pods := e.agents(t)
	e.settle(t, pods)
	e.matrix(t, pods)
	e.localhost(t, pods)
}

// settle waits until the newest blocks are known everywhere: a route takes a moment
// after the first pod of a block is ready.
func (e *env) settle(t *testing.T, pods []pod) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		for _, p := range pods {
			if wrong := probe(p.name, e.fromPod(t, p), e.expectationsOfPod(p, pods)); len(wrong) > 0 {
				return errors(wrong)
			}
		}
		return nil
	})
}

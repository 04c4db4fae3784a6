// Package cluster is what Kubernetes says of this node: its pods and its Node. Both
// come by a watch each that the API server filters; nothing is asked for at a CNI
// call.
package cluster

import (
	"sync"

	corev1 "k8s.io/api/core/v1"

	"tortie/internal/kubeapi"
	"tortie/internal/podendpoint"
)

// PodsOf selects a node's pods.
func PodsOf(node string) kubeapi.Selection {
	return kubeapi.Selection{Resource: "pods", Fields: "spec.nodeName=" + node}
}

// Pods are this node's pods as last heard of. They are shared and must not be
// changed.
type Pods struct {
	changed func(namespace, name string)

	mu    sync.Mutex
	byKey map[podKey]*corev1.Pod
}

type podKey struct{ namespace, name string }

// NewPods makes a store that calls changed for every pod that is new or another.
func NewPods(changed func(namespace, name string)) *Pods {
	return &Pods{changed: changed, byKey: map[podKey]*corev1.Pod{}}
}

// Get is the pod that the runtime knows by that UID; no UID fits any. There is none
// while the API server has not told of it: an ADD may be faster.
func (p *Pods) Get(namespace, name, uid string) (*corev1.Pod, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, ok := p.byKey[podKey{namespace, name}]
	if !ok || !podendpoint.IsUID(pod, uid) {
		return nil, false
	}
	return pod, true
}

// Trim implements kubeapi.Store.
func (*Pods) Trim(pod *corev1.Pod) *corev1.Pod { return podendpoint.Trim(pod) }

// Put implements kubeapi.Store.
func (p *Pods) Put(pod *corev1.Pod) {
	p.mu.Lock()
	p.byKey[podKey{pod.Namespace, pod.Name}] = pod
	p.mu.Unlock()
	p.changed(pod.Namespace, pod.Name)
}

// Delete implements kubeapi.Store. The pod's endpoint is left to its DEL.
func (p *Pods) Delete(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byKey, podKey{pod.Namespace, pod.Name})
}

// Replace implements kubeapi.Store.
func (p *Pods) Replace(all []*corev1.Pod) {
	p.mu.Lock()
	before := p.byKey
	p.byKey = make(map[podKey]*corev1.Pod, len(all))
	var news []podKey
	for _, pod := range all {
		key := podKey{pod.Namespace, pod.Name}
		p.byKey[key] = pod
		if old, ok := before[key]; !ok || old.UID != pod.UID || old.ResourceVersion != pod.ResourceVersion {
			news = append(news, key)
		}
	}
	p.mu.Unlock()
	for _, key := range news {
		p.changed(key.namespace, key.name)
	}
}

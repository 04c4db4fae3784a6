package cluster

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/kubeapi"
	"tortie/internal/podendpoint"
)

// AllNamespaces selects them all: the API server can't select by annotations.
func AllNamespaces() kubeapi.Selection { return kubeapi.Selection{Resource: "namespaces"} }

// Namespaces are the annotations by which namespaces ask for something for their pods.
// Of the others nothing is remembered: there may be ten thousand.
type Namespaces struct {
	mu     sync.Mutex
	listed bool
	byName map[string]map[string]string
}

// Get are the annotations of a namespace; they are shared and must not be changed. known
// is false until the API server has told of all namespaces.
func (n *Namespaces) Get(name string) (annotations map[string]string, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byName[name], n.listed
}

// Trim implements kubeapi.Store.
func (*Namespaces) Trim(ns *corev1.Namespace) *corev1.Namespace {
	trimmed := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, ResourceVersion: ns.ResourceVersion}}
	for name, value := range ns.Annotations {
		if podendpoint.ReadsOfNamespace(name) {
			if trimmed.Annotations == nil {
				trimmed.Annotations = map[string]string{}
			}
			trimmed.Annotations[name] = value
		}
	}
	return trimmed
}

// Put implements kubeapi.Store.
func (n *Namespaces) Put(ns *corev1.Namespace) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.put(ns)
}

func (n *Namespaces) put(ns *corev1.Namespace) {
	delete(n.byName, ns.Name)
	if ns.Annotations == nil {
		return
	}
	if n.byName == nil {
		n.byName = map[string]map[string]string{}
	}
	n.byName[ns.Name] = ns.Annotations
}

// Delete implements kubeapi.Store.
func (n *Namespaces) Delete(ns *corev1.Namespace) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byName, ns.Name)
}

// Replace implements kubeapi.Store.
func (n *Namespaces) Replace(all []*corev1.Namespace) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.byName, n.listed = nil, true
	for _, ns := range all {
		n.put(ns)
	}
}

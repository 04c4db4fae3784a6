package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/kubeapi"
)

// NodeNamed selects one Node.
func NodeNamed(name string) kubeapi.Selection {
	return kubeapi.Selection{Resource: "nodes", Fields: "metadata.name=" + name}
}

// Node is this node's Node as last heard of.
type Node struct {
	name      string
	addresses func() // the addresses are others

	mu      sync.Mutex
	node    *corev1.Node  // nil while there is none, or it isn't known yet
	changed chan struct{} // closed and replaced when the Node is another
}

// NewNode makes a store for the Node of that name. It calls addresses when its
// addresses are others than before.
func NewNode(name string, addresses func()) *Node {
	return &Node{name: name, addresses: addresses, changed: make(chan struct{})}
}

// known is how long a question waits for the Node at felix's start.
const known = 5 * time.Second

// InternalIPs are the node's addresses of that type.
func (n *Node) InternalIPs(ctx context.Context) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, known)
	defer cancel()
	for {
		node, changed := n.get()
		if node != nil {
			return addresses(node), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("the Node %s of Kubernetes is not known: the API server has not told of it", n.name)
		}
	}
}

// PodCIDRs are those that Kubernetes has given to the node.
func (n *Node) PodCIDRs() []netip.Prefix {
	node, _ := n.get()
	if node == nil {
		return nil
	}
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 {
		texts = []string{node.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, s := range texts {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// unavailable is the condition NetworkUnavailable; nil when the Node has none. known
// is false while there is no Node.
func (n *Node) unavailable() (condition *corev1.NodeCondition, known bool, changed <-chan struct{}) {
	node, changed := n.get()
	if node == nil {
		return nil, false, changed
	}
	if len(node.Status.Conditions) == 0 {
		return nil, true, changed
	}
	return &node.Status.Conditions[0], true, changed
}

func (n *Node) get() (*corev1.Node, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node, n.changed
}

// Trim implements kubeapi.Store.
func (*Node) Trim(node *corev1.Node) *corev1.Node {
	out := &corev1.Node{
		TypeMeta:   node.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
		Spec:       corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses},
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			out.Status.Conditions = []corev1.NodeCondition{c}
		}
	}
	return out
}

// Put implements kubeapi.Store.
func (n *Node) Put(node *corev1.Node) { n.set(node) }

// Delete implements kubeapi.Store. A Node that is gone may come back; until then
// nothing is known.
func (n *Node) Delete(*corev1.Node) { n.set(nil) }

// Replace implements kubeapi.Store.
func (n *Node) Replace(all []*corev1.Node) {
	if len(all) == 0 {
		n.set(nil)
		return
	}
	n.set(all[0])
}

func (n *Node) set(node *corev1.Node) {
	n.mu.Lock()
	before := n.node
	n.node = node
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	if node != nil && (before == nil || fmt.Sprint(addresses(before)) != fmt.Sprint(addresses(node))) {
		n.addresses()
	}
}

// addresses are a Node's InternalIPs.
func addresses(node *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			out = append(out, addr)
		}
	}
	return out
}

// Package kube is Kubernetes as calicoctl's checks of addresses see it: which pods,
// nodes and services there are.
package kube

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"tortie/internal/kubeapi"
	"tortie/ipam/check"
	"tortie/ipam/proof"
)

// Reader reads what uses addresses.
type Reader struct {
	client *kubeapi.Client
}

// New makes a Reader of a client.
func New(client *kubeapi.Client) *Reader { return &Reader{client} }

// Role is who has to be allowed what is read, for messages.
const Role = "user of the kubeconfig"

// Connect makes a Reader of the cluster that a kubeconfig names.
func Connect(kubeconfig string) (*Reader, error) {
	client, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: kubeconfig, UserAgent: "calicoctl", Role: Role})
	if err != nil {
		return nil, err
	}
	return New(client), nil
}

// Read reads all of it. The nodes come last: one that has joined meanwhile is known
// when its pods are.
func (r *Reader) Read(ctx context.Context) (*check.Kubernetes, error) {
	out := &check.Kubernetes{Pods: map[string]proof.Pod{}, Nodes: map[string]bool{}, LoadBalancers: map[netip.Addr]string{}}
	err := kubeapi.All(ctx, r.client, "pods", func() *corev1.PodList { return new(corev1.PodList) }, func(page *corev1.PodList) {
		for i := range page.Items {
			out.Pods[page.Items[i].Namespace+"/"+page.Items[i].Name] = podOf(&page.Items[i])
		}
	})
	if err != nil {
		return nil, err
	}
	err = kubeapi.All(ctx, r.client, "services", func() *corev1.ServiceList { return new(corev1.ServiceList) }, func(page *corev1.ServiceList) {
		for i := range page.Items {
			for _, ingress := range page.Items[i].Status.LoadBalancer.Ingress {
				if addr, ok := proof.AddressOf(ingress.IP); ok {
					out.LoadBalancers[addr] = page.Items[i].Namespace + "/" + page.Items[i].Name
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = kubeapi.All(ctx, r.client, "nodes", func() *corev1.NodeList { return new(corev1.NodeList) }, func(page *corev1.NodeList) {
		for i := range page.Items {
			out.Nodes[page.Items[i].Name] = true
		}
	})
	return out, err
}

func podOf(p *corev1.Pod) proof.Pod {
	out := proof.Pod{Node: p.Spec.NodeName}
	for _, ip := range p.Status.PodIPs {
		out.IPs = append(out.IPs, ip.IP)
	}
	return out
}

// Pod is a pod as it is this moment, nil for none.
func (r *Reader) Pod(ctx context.Context, namespace, name string) (*proof.Pod, error) {
	var pod corev1.Pod
	found, err := r.client.Get(ctx, "pods", namespace, name, &pod)
	if err != nil || !found {
		return nil, err
	}
	out := podOf(&pod)
	return &out, nil
}

// HasNode reports whether there is a node of a name this moment.
func (r *Reader) HasNode(ctx context.Context, name string) (bool, error) {
	return r.client.Get(ctx, "nodes", "", name, &corev1.Node{})
}

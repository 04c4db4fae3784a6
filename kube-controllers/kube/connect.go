package kube

import (
	"fmt"

	"k8s.io/client-go/kubernetes"

	"tortie/internal/kubeapi"
)

// Connect makes a client of the API server that a kubeconfig names, or, without
// one, of the cluster whose pod this is. It doesn't talk to it yet.
func Connect(kubeconfig, userAgent string) (kubernetes.Interface, error) {
	cfg, err := kubeapi.RESTConfig(kubeconfig, userAgent)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 50, 100
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return client, nil
}

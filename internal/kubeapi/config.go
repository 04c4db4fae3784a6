// Package kubeapi is the Kubernetes API as a program on a node uses it: a few
// watches, each filtered by the API server, and a patch now and then. It is
// client-go without the clientset, for nobody here needs the types of every API
// group.
package kubeapi

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ErrNoCluster says that this process is no pod of a cluster, and that no
// kubeconfig names one.
var ErrNoCluster = errors.New("find the API server: this is no pod of a cluster: set KUBECONFIG")

// RESTConfig says how to reach the API server that a kubeconfig names or, without
// one, that of the cluster whose pod this is.
func RESTConfig(kubeconfig, userAgent string) (*rest.Config, error) {
	cfg, err := restConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = userAgent
	// Reading a pod as JSON costs several times as much, on both sides.
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return cfg, nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read KUBECONFIG %s: %w", kubeconfig, err)
		}
		return cfg, nil
	}
	cfg, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, ErrNoCluster
	case err != nil:
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	return cfg, nil
}

// Access is what a program needs to be allowed.
type Access struct {
	Role     string // "ClusterRole calico-node"
	Verbs    string // "list and watch"
	Resource string // "pods"
}

// Explain adds what to do to the errors of the API server that an operator can do
// something about.
func (a Access) Explain(err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s: RBAC forbids it: give the %s the verbs %s on %s: %w", a.Resource, a.Role, a.Verbs, a.Resource, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: the API server refuses the credentials: look at the service account's token or at KUBECONFIG: %w", a.Resource, err)
	case NoAnswer(err):
		return fmt.Errorf("%s: no answer: look at KUBECONFIG, or at KUBERNETES_SERVICE_HOST and the certificate: %w", a.Resource, err)
	}
	return fmt.Errorf("%s: %w", a.Resource, err)
}

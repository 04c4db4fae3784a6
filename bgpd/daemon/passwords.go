package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"

	"tortie/bgpd/secrets"
	"tortie/internal/kubeapi"
	"tortie/internal/quietlog"
)

const (
	// namespaceFile says in which namespace a pod is.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	// defaultNamespace is that of calico-node.
	defaultNamespace = "kube-system"
)

// secrets is where passwords of peers are: in files where a folder is given, else in
// Kubernetes, in the namespace of this pod.
func (cfg Config) secrets(log *slog.Logger) (secrets.Source, error) {
	if cfg.PasswordDir != "" {
		if !filepath.IsAbs(cfg.PasswordDir) {
			return nil, fmt.Errorf("BGPD_PASSWORD_DIR %q: want the whole path of a folder", cfg.PasswordDir)
		}
		return secrets.Files{Dir: cfg.PasswordDir}, nil
	}
	if _, err := kubeapi.RESTConfig(cfg.Kubeconfig, ""); errors.Is(err, kubeapi.ErrNoCluster) {
		return secrets.Nowhere{}, nil
	}
	namespace, err := namespaceOf(namespaceFile)
	if err != nil {
		return nil, err
	}
	klog.SetSlogLogger(quietlog.New(log).With("from", "client-go"))
	return secrets.Kubernetes{Namespace: namespace, Connect: func(role string) (*kubeapi.Client, error) {
		return kubeapi.Connect(kubeapi.Config{Kubeconfig: cfg.Kubeconfig, UserAgent: "bgpd/" + cfg.Version, Role: role})
	}}, nil
}

func namespaceOf(file string) (string, error) {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return defaultNamespace, nil
	case err != nil:
		return "", fmt.Errorf("find the namespace of this pod: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

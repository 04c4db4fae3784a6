package kubeapi

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Config says which API server, and in whose name.
type Config struct {
	// Kubeconfig is a file; empty for the cluster whose pod this is.
	Kubeconfig string
	UserAgent  string
	// Role is what has to allow the requests, for messages: "ClusterRole calico-node".
	Role string
}

// Client is one program's view of the API server.
type Client struct {
	rest rest.Interface
	http *http.Client
	base *url.URL
	role string

	mu       sync.Mutex
	problems map[request]error
}

// Connect makes a Client. It doesn't talk to the API server yet. ErrNoCluster when
// there is none.
func Connect(cfg Config) (*Client, error) {
	restCfg, err := RESTConfig(cfg.Kubeconfig, cfg.UserAgent)
	if err != nil {
		return nil, err
	}
	return New(restCfg, cfg.Role)
}

// New makes a Client of the API server that restCfg, which it takes over, says.
func New(restCfg *rest.Config, role string) (*Client, error) {
	c := &Client{role: role, problems: map[request]error{}}
	var err error
	if c.http, err = rest.HTTPClientFor(restCfg); err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	if c.base, _, err = rest.DefaultServerUrlFor(restCfg); err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.Node{}, &corev1.NodeList{}, &corev1.Namespace{}, &corev1.NamespaceList{},
		&corev1.Secret{}, &corev1.SecretList{}, &corev1.Service{}, &corev1.ServiceList{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	restCfg.APIPath, restCfg.GroupVersion = "/api", &corev1.SchemeGroupVersion
	restCfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// What one node asks is little, and a watch that begins again must not wait.
	restCfg.QPS = -1
	if c.rest, err = rest.RESTClientForConfigAndClient(restCfg, c.http); err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return c, nil
}

// HTTP is a client with this program's credentials, and where the API server is.
func (c *Client) HTTP() (client *http.Client, base *url.URL) { return c.http, c.base }

// PatchNodeStatus changes the status of a node by a strategic merge patch.
func (c *Client) PatchNodeStatus(ctx context.Context, node string, patch []byte) error {
	err := c.rest.Patch(types.StrategicMergePatchType).Resource("nodes").Name(node).SubResource("status").Body(patch).Do(ctx).Error()
	return c.note(ctx, request{"nodes/status", "patch"}, Access{Role: c.role, Verbs: "patch", Resource: "nodes/status"}, err)
}

// request is a kind of request to the API server.
type request struct{ resource, verb string }

// Problems are what keeps this program from following Kubernetes at present. An API
// server that doesn't answer is one problem, whatever it was asked for.
func (c *Client) Problems() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	requests := slices.SortedFunc(maps.Keys(c.problems), func(a, b request) int {
		return cmp.Or(cmp.Compare(a.resource, b.resource), cmp.Compare(a.verb, b.verb))
	})
	var out []error
	silent, told := false, map[string]bool{}
	for _, r := range requests {
		err := c.problems[r]
		if NoAnswer(err) && silent || told[r.resource] {
			continue
		}
		silent, told[r.resource] = silent || NoAnswer(err), true
		out = append(out, err)
	}
	return out
}

// note remembers how a request fared. That a revision is gone, or that the caller
// gave up, says nothing about the API server.
func (c *Client) note(ctx context.Context, r request, a Access, err error) error {
	if err != nil && (ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.problems, r)
	if err == nil {
		if r.verb == "watch" { // a first list may come by it
			delete(c.problems, request{r.resource, "list"})
		}
		return nil
	}
	err = a.Explain(err)
	c.problems[r] = err
	return err
}

// NoAnswer reports whether an error is that the API server could not be asked.
func NoAnswer(err error) bool { return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown }

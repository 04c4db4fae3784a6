package secrets

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tortie/bgpd/topology"
	"tortie/internal/kubeapi"
)

// retell is how often a Secret that could not be read is looked at for a new reason.
const retell = time.Second

// Kubernetes are the Secrets of one namespace. Each is followed by its name alone, so
// that RBAC can allow it by resourceNames.
type Kubernetes struct {
	Namespace string
	// Connect makes a client for one Secret, so that each has problems of its own; role
	// is what has to allow it, for messages.
	Connect func(role string) (*kubeapi.Client, error)
}

// Follow implements Source.
func (k Kubernetes) Follow(ctx context.Context, name string, tell func(topology.Secret)) {
	where := fmt.Sprintf("Secret %s in namespace %s", name, k.Namespace)
	client, err := k.Connect(fmt.Sprintf("Role calico-node-bgp in namespace %s, resourceNames %s,", k.Namespace, name))
	if err != nil {
		tell(topology.Secret{Where: where, Problem: fmt.Sprintf("%s can't be read: %v", where, err)})
		<-ctx.Done()
		return
	}
	s := &one{where: where, tell: tell}
	var explaining sync.WaitGroup
	defer explaining.Wait()
	explaining.Go(func() { s.explain(ctx, client) })
	kubeapi.Follow(ctx, client, kubeapi.Selection{
		Namespace: k.Namespace, Resource: "secrets", Fields: "metadata.name=" + name,
	}, s)
}

// one is a Secret that is followed. Until it has been read, what keeps it from that
// is told instead; afterwards what was read counts, also while the API server is away.
type one struct {
	where string

	mu     sync.Mutex
	tell   func(topology.Secret)
	read   bool
	reason string // as last told
}

// explain tells what keeps the Secret from being read, until it has been.
func (s *one) explain(ctx context.Context, client *kubeapi.Client) {
	ticker := time.NewTicker(retell)
	defer ticker.Stop()
	late := time.NewTimer(answerWithin - retell/2)
	defer late.Stop()
	for {
		overdue := false
		select {
		case <-ctx.Done():
			return
		case <-late.C:
			overdue = true
		case <-ticker.C:
		}
		if s.explained(client.Problems(), overdue) {
			return
		}
	}
}

// explained reports whether there is nothing more to explain.
func (s *one) explained(problems []error, overdue bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	reason := ""
	switch {
	case s.read:
		return true
	case len(problems) > 0:
		reason = fmt.Sprintf("%s can't be read: %v", s.where, problems[0])
	case overdue && s.reason == "":
		reason = fmt.Sprintf("%s has not been read yet: the API server has not answered", s.where)
	}
	if reason != "" && reason != s.reason {
		s.reason = reason
		s.tell(topology.Secret{Where: s.where, Problem: reason})
	}
	return false
}

// Trim implements kubeapi.Store.
func (*one) Trim(secret *corev1.Secret) *corev1.Secret {
	secret.ManagedFields, secret.Annotations, secret.Labels = nil, nil, nil
	return secret
}

// Put implements kubeapi.Store.
func (s *one) Put(secret *corev1.Secret) {
	keys := make(map[string]string, len(secret.Data))
	for key, value := range secret.Data {
		keys[key] = string(value)
	}
	s.say(topology.Secret{Where: s.where, Keys: keys})
}

// Delete implements kubeapi.Store.
func (s *one) Delete(*corev1.Secret) {
	s.say(topology.Secret{Where: s.where, Problem: fmt.Sprintf("there is no %s: create it", s.where)})
}

// Replace implements kubeapi.Store.
func (s *one) Replace(all []*corev1.Secret) {
	if len(all) == 0 {
		s.Delete(nil)
		return
	}
	s.Put(all[0])
}

func (s *one) say(secret topology.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = true
	s.tell(secret)
}

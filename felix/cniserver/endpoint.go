package cniserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/felix/calc"
	"tortie/felix/journal"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/podendpoint"
)

// maxConflicts bounds how often a write is tried again because someone else
// changed the object meanwhile.
const maxConflicts = 8

// endpointStore writes WorkloadEndpoints and the profiles they name.
type endpointStore struct {
	client   datastore.Client
	registry *api.Registry
	node     string
	now      func() time.Time
	newUID   func() string
	pod      Pod
}

// put writes the endpoint of an attachment. The one that stands there, perhaps
// of an earlier sandbox, keeps its identity, labels and what else others have
// written into it.
func (s *endpointStore) put(ctx context.Context, c call, e journal.Entry, known *datastore.Entry) error {
	key := c.endpoint.Key()
	for range maxConflicts {
		op := datastore.Create(key, s.newEndpoint(c, e))
		if known != nil {
			entry := *known
			entry.Object = s.changed(entry.Object, c, e)
			op = datastore.Update(entry)
		}
		_, err := s.client.Txn(ctx, op)
		var conflict *datastore.ConflictError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &conflict):
			return fmt.Errorf("write %s: %w", key, err)
		}
		known = nil
		if current, ok := conflict.Current[key]; ok {
			known = &current
		}
	}
	return fmt.Errorf("write %s: %w again and again", key, datastore.ErrConflict)
}

func (s *endpointStore) newEndpoint(c call, e journal.Entry) *api.WorkloadEndpoint {
	wep := &api.WorkloadEndpoint{}
	wep.Kind, wep.APIVersion = string(api.KindWorkloadEndpoint), api.GroupVersion
	wep.Name, wep.Namespace = c.endpoint.Name, c.endpoint.Namespace
	s.fill(wep, c, e)
	s.registry.Prepare(wep, s.now(), s.newUID)
	return wep
}

// changed is a copy of what stands there with the attachment's data in place.
func (s *endpointStore) changed(obj api.Object, c call, e journal.Entry) api.Object {
	old, ok := obj.(*api.WorkloadEndpoint)
	if !ok {
		return s.newEndpoint(c, e)
	}
	wep := old.DeepCopyObject().(*api.WorkloadEndpoint)
	wep.Labels = maps.Clone(wep.Labels)
	s.fill(wep, c, e)
	return wep
}

// fill sets the fields that this side of the system owns.
func (s *endpointStore) fill(wep *api.WorkloadEndpoint, c call, e journal.Entry) {
	spec := &wep.Spec
	fillMore(spec, e)
	spec.Orchestrator, spec.Node, spec.ContainerID = orchestratorCNI, s.node, e.ContainerID
	spec.Endpoint, spec.InterfaceName, spec.MAC = e.IfName, e.HostIf, e.MAC
	spec.Profiles = []string{e.Network}
	if c.args.IsPod() {
		spec.Orchestrator, spec.Pod = orchestratorK8s, c.args.K8sPod
		if c.conf.PolicyK8s {
			// Of a pod that isn't known (yet) no service account is named: that would
			// grant its rights. Whoever hears of the pod puts it in.
			spec.Profiles = []string{podendpoint.NamespaceProfile(c.args.K8sNamespace)}
		}
	}
	spec.IPNetworks = nil
	for _, a := range e.Addrs {
		spec.IPNetworks = append(spec.IPNetworks, netip.PrefixFrom(a, a.BitLen()).String())
	}
	if pod, ok := s.known(c); ok {
		with, _ := podendpoint.With(wep, pod)
		*wep = *with
	}
	s.registry.Default(wep)
}

// known is what Kubernetes has told of the pod by now: nobody waits for it.
func (s *endpointStore) known(c call) (*corev1.Pod, bool) {
	if s.pod == nil || !c.args.IsPod() {
		return nil, false
	}
	return s.pod(c.args.K8sNamespace, c.args.K8sPod, c.args.K8sUID)
}

// remove deletes the endpoint if it is that container's. One that can't be read
// is left to an operator: nothing routes to it. known is the endpoint as last
// seen; it is read where that isn't the container's, and after a conflict.
func (s *endpointStore) remove(ctx context.Context, id calc.EndpointID, container string, known datastore.Entry) error {
	key := id.Key()
	if !s.hasPlace(key) {
		return nil
	}
	for range maxConflicts {
		if !isOf(known, container) {
			var err error
			known, err = s.client.Get(ctx, key)
			if errors.Is(err, datastore.ErrNotFound) || errors.Is(err, datastore.ErrInvalid) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("delete %s: %w", key, err)
			}
			if !isOf(known, container) {
				return nil // a newer sandbox of the same pod
			}
		}
		_, err := s.client.Txn(ctx, datastore.Delete(key, known.Revision))
		known = datastore.Entry{}
		if err == nil || errors.Is(err, datastore.ErrNotFound) {
			return nil
		}
		if !errors.Is(err, datastore.ErrConflict) {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return fmt.Errorf("delete %s: %w again and again", key, datastore.ErrConflict)
}

// hasPlace reports whether there can be an object of that key in the store.
func (s *endpointStore) hasPlace(key api.Key) bool {
	_, err := s.registry.Path(key)
	return err == nil
}

func isOf(entry datastore.Entry, container string) bool {
	wep, ok := entry.Object.(*api.WorkloadEndpoint)
	return ok && wep.Spec.ContainerID == container
}

// ensureProfile makes the profile that lets the endpoints of one network talk to
// one another, as upstream does where no policy type is configured. One that
// exists is left as its operator wants it.
func (s *endpointStore) ensureProfile(ctx context.Context, network string) error {
	key := api.Key{Kind: api.KindProfile, Name: network}
	_, err := s.client.Get(ctx, key)
	if err == nil || errors.Is(err, datastore.ErrInvalid) {
		return nil
	}
	if !errors.Is(err, datastore.ErrNotFound) {
		return fmt.Errorf("read %s: %w", key, err)
	}
	profile := v3.NewProfile()
	profile.Name = network
	profile.Spec = v3.ProfileSpec{
		Ingress:       []v3.Rule{{Action: v3.Allow, Source: v3.EntityRule{Selector: "has(" + network + ")"}}},
		Egress:        []v3.Rule{{Action: v3.Allow}},
		LabelsToApply: map[string]string{network: ""},
	}
	s.registry.Prepare(profile, s.now(), s.newUID)
	if _, err := s.client.Txn(ctx, datastore.Create(key, profile)); err != nil && !errors.Is(err, datastore.ErrAlreadyExists) {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

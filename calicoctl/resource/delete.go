package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Deletion says how an object is to be deleted.
type Deletion struct {
	// Version is the resourceVersion the object must be at; empty for any.
	Version string
	// Force deletes a node with the workload endpoints that are on it.
	Force bool
}

// Delete removes an object and what can't exist without it.
func (s *Store) Delete(ctx context.Context, key api.Key, how Deletion) error {
	if err := writable(key); err != nil {
		return err
	}
	var err error
	switch key.Kind {
	case api.KindIPPool:
		err = s.deletePool(ctx, key, how.Version)
	case api.KindNode:
		err = s.deleteNode(ctx, key, how)
	case api.KindTier:
		err = s.deleteTier(ctx, key, how.Version)
	default:
		err = s.deleteOne(ctx, key, how.Version)
	}
	return named(key, err, "")
}

// deleteOne removes one object, whoever else changes it meanwhile unless a
// version is given.
func (s *Store) deleteOne(ctx context.Context, key api.Key, version string) error {
	for range maxAttempts {
		entry, err := s.read(ctx, key)
		if err != nil {
			return err
		}
		if current := strconv.FormatInt(int64(entry.Revision), 10); version != "" && version != current {
			return updateConflict(key, version, current)
		}
		_, err = s.Client.Txn(ctx, datastore.Delete(entry.Key, entry.Revision))
		if !errors.Is(err, datastore.ErrConflict) || errors.Is(err, datastore.ErrNotFound) {
			return err
		}
	}
	return refuse("try again", "update conflict: %s: changed by others %d times in a row", key, maxAttempts)
}

// predefinedTiers are made by the system and stay.
func predefinedTiers() []string { return []string{"default", "kube-admin", "kube-baseline"} }

func (s *Store) deleteTier(ctx context.Context, key api.Key, version string) error {
	if slices.Contains(predefinedTiers(), key.Name) {
		return refuse("", "%s: is built in and can't be deleted", key)
	}
	policies := 0
	for _, kind := range tieredKinds() {
		snap, err := s.Client.List(ctx, datastore.Range{Kind: kind})
		if err != nil {
			return err
		}
		for _, entry := range snap.Entries {
			if tierOf(entry.Object) == key.Name {
				policies++
			}
		}
	}
	if policies > 0 {
		return refuse("delete or move those policies first", "%s: still has %d policies", key, policies)
	}
	return s.deleteOne(ctx, key, version)
}

func tierOf(obj api.Object) string {
	switch p := obj.(type) {
	case *v3.GlobalNetworkPolicy:
		return p.Spec.Tier
	case *v3.NetworkPolicy:
		return p.Spec.Tier
	case *v3.StagedGlobalNetworkPolicy:
		return p.Spec.Tier
	case *v3.StagedNetworkPolicy:
		return p.Spec.Tier
	}
	return ""
}

// deleteNode removes a node and everything that is only there for it, the Node
// itself last: a clean-up that was interrupted is completed by deleting again.
//
// A node with workload endpoints is refused unless forced: on a node that lives
// their pods would lose their network, and others would get their addresses.
func (s *Store) deleteNode(ctx context.Context, key api.Key, how Deletion) error {
	entry, err := s.Client.Get(ctx, key)
	if err != nil {
		return err
	}
	if current := strconv.FormatInt(int64(entry.Revision), 10); how.Version != "" && how.Version != current {
		return updateConflict(key, how.Version, current)
	}
	workloads, err := s.workloadsOn(ctx, key.Name)
	if err != nil {
		return err
	}
	held, err := s.heldByWorkloads(ctx, key.Name)
	if err != nil {
		return err
	}
	if len(workloads) == 0 && held > 0 && !how.Force {
		return refuse("drain the node first, or delete with --force", "%s by containers on %s that have no workload endpoint",
			count(held, "address is held", "addresses are held"), key.Name)
	}
	if len(workloads) > 0 && !how.Force {
		return refuse("drain the node first, or delete with --force", "%s on %s: %s",
			count(len(workloads), "workload endpoint is", "workload endpoints are"), key.Name, some(workloads))
	}
	if err := s.releaseNode(ctx, key.Name); err != nil {
		return fmt.Errorf("%s: release its addresses: %w", key, err)
	}
	removed, err := s.deleteWorkloads(ctx, key.Name)
	if err != nil {
		return fmt.Errorf("%s: delete its workload endpoints: %w", key, err)
	}
	for _, dependents := range nodeDependents(key.Name) {
		if err := s.deleteWhere(ctx, dependents); err != nil {
			return fmt.Errorf("%s: delete its %s objects: %w", key, dependents.kind, err)
		}
	}
	if err := s.deleteOne(ctx, key, ""); err != nil {
		return err
	}
	if removed > 0 {
		s.Warn(fmt.Sprintf("%s: %s removed with the node; pods that still run there have lost their network, and their addresses will be given to others",
			key, count(removed, "workload endpoint was", "workload endpoints were")))
	}
	return nil
}

// deleteWorkloads deletes the workload endpoints on a node, also those that were
// not there yet when it was decided.
func (s *Store) deleteWorkloads(ctx context.Context, node string) (removed int, err error) {
	workloads, err := s.workloadsOn(ctx, node)
	if err != nil {
		return 0, err
	}
	for _, key := range workloads {
		if _, err := s.Client.Txn(ctx, datastore.DeleteAny(key)); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// workloadsOn are the workload endpoints on a node, sorted. Of one that can't be
// read the name tells.
func (s *Store) workloadsOn(ctx context.Context, node string) ([]api.Key, error) {
	snap, err := s.Client.List(ctx, datastore.Range{Kind: api.KindWorkloadEndpoint})
	if err != nil {
		return nil, err
	}
	var keys []api.Key
	for _, entry := range snap.Entries {
		if entry.Object.(*api.WorkloadEndpoint).Spec.Node == node {
			keys = append(keys, entry.Key)
		}
	}
	for _, invalid := range snap.Invalid {
		if id, err := api.ParseWorkloadEndpointName(invalid.Key.Name); err == nil && id.Node == node {
			keys = append(keys, invalid.Key)
		}
	}
	slices.SortFunc(keys, func(a, b api.Key) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return keys, nil
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// some is a list of keys cut to a length that is read.
func some(keys []api.Key) string {
	const enough = 5
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.Namespace + "/" + key.Name
	}
	if len(names) <= enough {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), len(names)-enough)
}

// dependents are the objects of one kind that belong to a node.
type dependents struct {
	kind  api.Kind
	match func(obj api.Object) bool
}

func nodeDependents(node string) []dependents {
	config := func(obj api.Object) bool { return obj.GetName() == "node."+node }
	return []dependents{
		{api.KindBGPPeer, func(obj api.Object) bool { return obj.(*v3.BGPPeer).Spec.Node == node }},
		{api.KindFelixConfiguration, config},
		{api.KindBGPConfiguration, config},
		{api.KindHostEndpoint, func(obj api.Object) bool { return obj.(*v3.HostEndpoint).Spec.Node == node }},
	}
}

func (s *Store) deleteWhere(ctx context.Context, d dependents) error {
	snap, err := s.Client.List(ctx, datastore.Range{Kind: d.kind})
	if err != nil {
		return err
	}
	for _, entry := range snap.Entries {
		if !d.match(entry.Object) {
			continue
		}
		if _, err := s.Client.Txn(ctx, datastore.DeleteAny(entry.Key)); err != nil {
			return err
		}
	}
	return nil
}

package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/noderemoval"
	"tortie/ipam"
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
	case api.KindBGPFilter:
		err = s.deleteFilter(ctx, key, how.Version)
	default:
		err = s.deleteOne(ctx, key, how.Version)
	}
	return named(key, err, "")
}

// deleteOne removes one object, whoever else changes it meanwhile unless a
// version is given, and whether it can be read or not.
func (s *Store) deleteOne(ctx context.Context, key api.Key, version string) error {
	for range maxAttempts {
		entry, _, err := s.readAny(ctx, key)
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

// deleteFilter removes a BGPFilter and warns of what its peers do without: as they are to
// announce nothing that it kept back, they have no session.
func (s *Store) deleteFilter(ctx context.Context, key api.Key, version string) error {
	if err := s.deleteOne(ctx, key, version); err != nil {
		return err
	}
	snap, err := s.Client.List(ctx, datastore.Range{Kind: api.KindBGPPeer})
	if err != nil {
		return nil //nolint:nilerr // it is deleted; what can't be read is not warned of
	}
	var users []string
	for _, entry := range snap.Entries {
		if p, ok := entry.Object.(*v3.BGPPeer); ok && slices.Contains(p.Spec.Filters, key.Name) {
			users = append(users, p.Name)
		}
	}
	if len(users) > 0 {
		slices.Sort(users)
		s.Warn(fmt.Sprintf("%s: is named by spec.filters of BGPPeer %s: nobody has their sessions until there is such a BGPFilter again, or it is taken out there",
			key, cut(users)))
	}
	return nil
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
	entry, _, err := s.readAny(ctx, key)
	if err != nil {
		return err
	}
	if current := strconv.FormatInt(int64(entry.Revision), 10); how.Version != "" && how.Version != current {
		return updateConflict(key, how.Version, current)
	}
	workloads, err := noderemoval.Workloads(ctx, s.Client, key.Name)
	if err != nil {
		return err
	}
	held, err := ipam.HeldByWorkloads(ctx, s.Client, key.Name)
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
	if _, err := ipam.ReleaseNode(ctx, s.Client, key.Name); err != nil {
		return fmt.Errorf("%s: release its addresses: %w", key, err)
	}
	removed, err := noderemoval.Dependents(ctx, s.Client, key.Name)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
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

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// some is a list of keys cut to a length that is read.
func some(keys []api.Key) string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.Namespace + "/" + key.Name
	}
	return cut(names)
}

func cut(names []string) string {
	const enough = 5
	if len(names) <= enough {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), len(names)-enough)
}

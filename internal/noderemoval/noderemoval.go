// Package noderemoval removes from the datastore what is only there for one node.
// Its addresses and blocks are package ipam's, and come first.
package noderemoval

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Workloads are the workload endpoints on a node, sorted. Of one that can't be
// read the name tells.
func Workloads(ctx context.Context, client datastore.Client, node string) ([]api.Key, error) {
	snap, err := client.List(ctx, datastore.Range{Kind: api.KindWorkloadEndpoint})
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

// Dependents deletes what can't exist without the node: its workload endpoints,
// its own BGP peers, its Felix and BGP configuration and its host endpoints. The
// Node itself stays, for the caller to delete last: so an interrupted removal is
// completed by doing it again. It returns how many workload endpoints there were.
func Dependents(ctx context.Context, client datastore.Client, node string) (workloads int, err error) {
	keys, err := Workloads(ctx, client, node)
	if err != nil {
		return 0, fmt.Errorf("delete its workload endpoints: %w", err)
	}
	for _, key := range keys {
		if _, err := client.Txn(ctx, datastore.DeleteAny(key)); err != nil {
			return workloads, fmt.Errorf("delete its workload endpoints: %w", err)
		}
		workloads++
	}
	for _, d := range dependentsOf(node) {
		if err := deleteWhere(ctx, client, d); err != nil {
			return workloads, fmt.Errorf("delete its %s objects: %w", d.kind, err)
		}
	}
	return workloads, nil
}

// dependents are the objects of one kind that belong to a node.
type dependents struct {
	kind  api.Kind
	match func(obj api.Object) bool
}

func dependentsOf(node string) []dependents {
	config := func(obj api.Object) bool { return obj.GetName() == "node."+node }
	return []dependents{
		{api.KindBGPPeer, func(obj api.Object) bool { return obj.(*v3.BGPPeer).Spec.Node == node }},
		{api.KindFelixConfiguration, config},
		{api.KindBGPConfiguration, config},
		{api.KindHostEndpoint, func(obj api.Object) bool { return obj.(*v3.HostEndpoint).Spec.Node == node }},
	}
}

func deleteWhere(ctx context.Context, client datastore.Client, d dependents) error {
	snap, err := client.List(ctx, datastore.Range{Kind: d.kind})
	if err != nil {
		return err
	}
	for _, entry := range snap.Entries {
		if !d.match(entry.Object) {
			continue
		}
		if _, err := client.Txn(ctx, datastore.DeleteAny(entry.Key)); err != nil {
			return err
		}
	}
	return nil
}

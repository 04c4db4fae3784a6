package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Read reads everything that is checked, but for Kubernetes. What can't be read is
// in Invalid and stops nothing.
func Read(ctx context.Context, client datastore.Client) (Input, error) {
	var in Input
	var readable []datastore.Entry // nothing but that is asked of them
	for _, part := range []struct {
		kind    api.Kind
		entries *[]datastore.Entry
	}{
		// The blocks come first: an address that is given out while the rest is read has
		// its endpoint in the list that is read later.
		{api.KindIPAMBlock, &in.Blocks},
		{api.KindIPAMHandle, &in.Handles},
		{api.KindBlockAffinity, &in.Affinities},
		{api.KindIPAMLoan, &in.Loans},
		{api.KindIPPool, &in.Pools},
		{api.KindNode, &in.Nodes},
		{api.KindWorkloadEndpoint, &in.Endpoints},
		{api.KindIPAMConfig, &readable},
		{api.KindIPReservation, &readable},
	} {
		snap, err := client.List(ctx, datastore.Range{Kind: part.kind})
		if err != nil {
			return Input{}, fmt.Errorf("read every %s: %w", part.kind, err)
		}
		*part.entries = snap.Entries
		in.Invalid = append(in.Invalid, snap.Invalid...)
	}
	// A path that is no key is in every range whose prefix it has.
	slices.SortFunc(in.Invalid, func(a, b datastore.Invalid) int { return strings.Compare(a.Path, b.Path) })
	in.Invalid = slices.CompactFunc(in.Invalid, func(a, b datastore.Invalid) bool { return a.Path == b.Path })
	return in, nil
}

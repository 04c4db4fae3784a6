package cmd

import (
	"context"
	"errors"
	"fmt"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// caveats say which of the objects written ask for something that the daemons of
// this version don't do: once for each such thing, however many objects ask.
func caveats(written []api.Object) []string {
	for _, obj := range written {
		switch obj.(type) {
		case *v3.NetworkPolicy, *v3.GlobalNetworkPolicy: // a staged policy enforces nothing anywhere
			return []string{"network policies are stored but not enforced yet; all traffic stays allowed, whatever they say"}
		}
	}
	return nil
}

// peersOfNobody names the BGPPeers written that mean none of the nodes there are. When
// those can't be read nothing is said: what was to be written is.
func peersOfNobody(ctx context.Context, store *resource.Store, written []api.Object) (texts []string) {
	var peers []*v3.BGPPeer
	for _, obj := range written {
		if p, ok := obj.(*v3.BGPPeer); ok {
			peers = append(peers, p)
		}
	}
	if len(peers) == 0 {
		return nil
	}
	list, err := store.Client.List(ctx, datastore.Range{Kind: api.KindNode})
	if err != nil {
		return nil
	}
	var nodes []*api.Node
	for _, entry := range list.Entries {
		if n, ok := entry.Object.(*api.Node); ok {
			nodes = append(nodes, n)
		}
	}
	for _, p := range peers {
		if why := api.PeerWithoutNode(p, nodes); why != "" {
			texts = append(texts, fmt.Sprintf("BGPPeer %s: %s; nobody has this session yet", p.Name, why))
		}
	}
	return texts
}

// peersWithoutFilter names the filters of the BGPPeers written that aren't there.
func peersWithoutFilter(ctx context.Context, store *resource.Store, written []api.Object) (texts []string) {
	for _, obj := range written {
		p, ok := obj.(*v3.BGPPeer)
		if !ok {
			continue
		}
		for _, name := range p.Spec.Filters {
			_, err := store.Client.Get(ctx, api.Key{Kind: api.KindBGPFilter, Name: name})
			if errors.Is(err, datastore.ErrNotFound) {
				texts = append(texts, fmt.Sprintf("BGPPeer %s: spec.filters: there is no BGPFilter %s; nobody has this session until there is", p.Name, name))
			}
		}
	}
	return texts
}

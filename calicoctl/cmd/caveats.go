package cmd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

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

// strangeNames names the annotations and labels that look like ours and mean nothing.
func strangeNames(written []api.Object) (texts []string) {
	for _, obj := range written {
		for _, text := range api.StrangeNames(kindOf(obj), obj) {
			texts = append(texts, fmt.Sprintf("%s %s: %s; it has no effect", kindOf(obj), obj.GetName(), text))
		}
	}
	return texts
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

// peeringAddresses names those of the BGPConfigurations written that pods can't have as
// their node's: a node or a pod has them, which each node with such a pod would take for
// itself; or the BGPConfiguration is a node's, from which nobody reads them.
func peeringAddresses(ctx context.Context, store *resource.Store, written []api.Object) (texts []string) {
	for _, obj := range written {
		c, ok := obj.(*v3.BGPConfiguration)
		if !ok {
			continue
		}
		for _, f := range []struct{ name, value string }{
			{"localWorkloadPeeringIPV4", c.Spec.LocalWorkloadPeeringIPV4}, {"localWorkloadPeeringIPV6", c.Spec.LocalWorkloadPeeringIPV6},
		} {
			a, err := netip.ParseAddr(f.value)
			if err != nil {
				continue
			}
			if c.Name != "default" {
				texts = append(texts, fmt.Sprintf("BGPConfiguration %s: spec.%s has no effect here: set it in the BGPConfiguration default", c.Name, f.name))
			} else if owner := ownerOf(ctx, store, a); owner != "" {
				texts = append(texts, fmt.Sprintf("BGPConfiguration default: spec.%s: %s %s, whose traffic ends on every node with a pod that is a peer: "+
					"set it to an address that nobody else has, such as 169.254.0.179 or fd00:0:0:b9::1", f.name, a, owner))
			}
		}
	}
	return texts
}

// ownerOf says what an address belongs to, a node or an IP pool; "" is nothing, also where
// those can't be read.
func ownerOf(ctx context.Context, store *resource.Store, a netip.Addr) string {
	for _, kind := range []api.Kind{api.KindNode, api.KindIPPool} {
		list, err := store.Client.List(ctx, datastore.Range{Kind: kind})
		if err != nil {
			continue
		}
		for _, entry := range list.Entries {
			switch o := entry.Object.(type) {
			case *api.Node:
				if isAddressOf(o, a) {
					return "is the address of node " + o.Name
				}
			case *v3.IPPool:
				if p, err := netip.ParsePrefix(o.Spec.CIDR); err == nil && p.Contains(a) {
					return "lies in the IP pool " + o.Name
				}
			}
		}
	}
	return ""
}

func isAddressOf(n *api.Node, a netip.Addr) bool {
	if n.Spec.BGP == nil {
		return false
	}
	for _, own := range []string{n.Spec.BGP.IPv4Address, n.Spec.BGP.IPv6Address} {
		address, _, _ := strings.Cut(own, "/")
		if b, err := netip.ParseAddr(address); err == nil && b == a {
			return true
		}
	}
	return false
}

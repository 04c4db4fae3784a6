package calc

import (
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// localPeers collects what makes pods of this node its BGP peers: the addresses at which
// the node is theirs, and the BGPPeers that select pods.
type localPeers struct {
	addresses api.PeeringAddresses
	byKey     map[api.Key]*v3.BGPPeer
}

func newLocalPeers() localPeers { return localPeers{byKey: map[api.Key]*v3.BGPPeer{}} }

// configName is the BGPConfiguration that has the addresses.
const configName = "default"

// update reports whether something of interest changed.
func (l *localPeers) update(u datastore.SyncUpdate) bool {
	switch {
	case u.Key.Kind == api.KindBGPPeer:
		return l.updatePeer(u)
	case u.Key.Kind == api.KindBGPConfiguration && u.Key.Name == configName:
		return l.updateAddresses(u)
	}
	return false
}

func (l *localPeers) updateAddresses(u datastore.SyncUpdate) bool {
	before := l.addresses
	l.addresses = api.PeeringAddresses{}
	if u.Entry != nil {
		if c, ok := u.Entry.Object.(*v3.BGPConfiguration); ok {
			l.addresses, _ = api.PeeringAddressesOf(&c.Spec) // bgpd says what is wrong with them
		}
	}
	return l.addresses != before
}

func (l *localPeers) updatePeer(u datastore.SyncUpdate) bool {
	_, was := l.byKey[u.Key]
	delete(l.byKey, u.Key)
	if u.Entry != nil {
		if p, ok := u.Entry.Object.(*v3.BGPPeer); ok && p.Spec.LocalWorkloadSelector != "" {
			l.byKey[u.Key] = p
			return true
		}
	}
	return was
}

// on are the addresses that the node has on its ends of pods, by interface: on those of
// pods that are its peers, of the families that the pod has.
func (l *localPeers) on(addresses api.PeeringAddresses, won map[EndpointID]Endpoint, labels func(EndpointID) map[string]string, node string, nodeLabels map[string]string) map[string][]netip.Addr {
	if addresses == (api.PeeringAddresses{}) {
		return nil
	}
	var selects []func(map[string]string) bool
	for _, p := range l.byKey {
		if selected := api.PodsOf(p, node, nodeLabels); selected != nil {
			selects = append(selects, selected)
		}
	}
	out := map[string][]netip.Addr{}
	for id, ep := range won {
		for _, selected := range selects {
			if addrs := ofFamilies(addresses, ep.Addrs); len(addrs) > 0 && selected(labels(id)) {
				out[ep.Interface] = addrs
				break
			}
		}
	}
	return out
}

// usable are the addresses that nobody else has; what is wrong with others is bgpd's to say.
func (l *localPeers) usable(around surroundings, networks []netip.Prefix) api.PeeringAddresses {
	nodes := map[netip.Addr]string{}
	for _, n := range around.nodes {
		nodes[n.Addr()] = ""
	}
	usable, _ := l.addresses.Without(nodes, networks, around.pools)
	return usable
}

func ofFamilies(addresses api.PeeringAddresses, pod []netip.Addr) (out []netip.Addr) {
	var v4, v6 bool
	for _, a := range pod {
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	if v4 && addresses.IPv4.IsValid() {
		out = append(out, addresses.IPv4)
	}
	if v6 && addresses.IPv6.IsValid() {
		out = append(out, addresses.IPv6)
	}
	return out
}

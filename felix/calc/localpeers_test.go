package calc

import (
	"fmt"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// TestPeeringAddressesOfPods: the node has its peering addresses on its ends of the pods
// that a BGPPeer for it selects, of the families that they have, and on no others.
func TestPeeringAddressesOfPods(t *testing.T) {
	entry := func(kind api.Kind, namespace, name string, o api.Object) datastore.SyncUpdate {
		key := api.Key{Kind: kind, Namespace: namespace, Name: name}
		if o == nil {
			return datastore.SyncUpdate{Key: key}
		}
		return datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: o}}
	}
	pod := func(name, color string, networks ...string) datastore.SyncUpdate {
		return entry(api.KindWorkloadEndpoint, "ns", name, &api.WorkloadEndpoint{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Labels: map[string]string{"color": color}},
			Spec:       api.WorkloadEndpointSpec{Node: "n1", InterfaceName: "cali" + name, IPNetworks: networks},
		})
	}
	peer := func(spec v3.BGPPeerSpec) datastore.SyncUpdate {
		return entry(api.KindBGPPeer, "", "pods", &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: spec})
	}
	config := func(name, v4, v6 string) datastore.SyncUpdate {
		return entry(api.KindBGPConfiguration, "", name, &v3.BGPConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.BGPConfigurationSpec{LocalWorkloadPeeringIPV4: v4, LocalWorkloadPeeringIPV6: v6},
		})
	}
	g := New("n1")
	g.Update([]datastore.SyncUpdate{
		entry(api.KindNode, "", "n1", &api.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "a"}},
			Spec:       api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: "10.0.0.1/24"}},
		}),
		pod("red", "red", "10.65.1.5/32", "fd65::5/128"), pod("four", "red", "10.65.1.6/32"), pod("blue", "blue", "10.65.1.7/32"),
	})
	for _, step := range []struct {
		name    string
		update  datastore.SyncUpdate
		changed bool
		want    string
	}{
		{"no address", peer(v3.BGPPeerSpec{LocalWorkloadSelector: "color == 'red'"}), true, "map[]"},
		{"of another configuration", config("node.n1", "169.254.0.178", ""), false, "map[]"},
		{"both", config("default", "169.254.0.179", "fd00::b9"), true, "map[califour:[169.254.0.179] calired:[169.254.0.179 fd00::b9]]"},
		{"said again", config("default", "169.254.0.179", "fd00::b9"), false, "map[califour:[169.254.0.179] calired:[169.254.0.179 fd00::b9]]"},
		{"IPv6 alone", config("default", "127.0.0.1", "fd00::b9"), true, "map[calired:[fd00::b9]]"},
		{"a node's address", config("default", "10.0.0.1", "fd00::b9"), true, "map[calired:[fd00::b9]]"},
		{"one of a node's network", config("default", "10.0.0.77", "fd00::b9"), true, "map[calired:[fd00::b9]]"},
		{"for other nodes", peer(v3.BGPPeerSpec{LocalWorkloadSelector: "all()", NodeSelector: "rack == 'b'"}), true, "map[]"},
		{"for this one", peer(v3.BGPPeerSpec{LocalWorkloadSelector: "color == 'red'", NodeSelector: "rack == 'a'"}), true, "map[calired:[fd00::b9]]"},
		{"no longer red", pod("red", "blue", "10.65.1.5/32", "fd65::5/128"), true, "map[]"},
		{"no peers of the kind", peer(v3.BGPPeerSpec{PeerIP: "10.0.0.254"}), true, "map[]"},
		{"nor before", peer(v3.BGPPeerSpec{PeerIP: "10.0.0.253"}), false, "map[]"},
	} {
		if changed := g.Update([]datastore.SyncUpdate{step.update}); changed != step.changed {
			t.Errorf("%s: changed: %v, want %v", step.name, changed, step.changed)
		}
		if got := fmt.Sprint(g.State().Peering); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
}

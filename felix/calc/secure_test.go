package calc_test

import (
	"fmt"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

func keyedNode(name, v4, tunnel string, key byte) datastore.SyncUpdate {
	u := tunnelNode(name, v4, "", "", "")
	obj := u.Entry.Object.(*api.Node)
	obj.Spec.Wireguard = &api.NodeWireguardSpec{InterfaceIPv4Address: tunnel}
	if key != 0 {
		obj.Status.WireguardPublicKey = overlay.Key{key}.String()
	}
	return u
}

func showFloating(u datastore.SyncUpdate, addresses string) datastore.SyncUpdate {
	u.Entry.Object.SetAnnotations(map[string]string{api.AnnotationFloatingAddresses: addresses})
	return u
}

func threeKeyedNodes() []datastore.SyncUpdate {
	return []datastore.SyncUpdate{
		vxlanPool("pool", "10.65.0.0/16", v3.VXLANModeNever),
		keyedNode("node-1", "192.0.2.1/24", "10.65.1.1", 1), keyedNode("node-2", "192.0.2.2/24", "10.65.2.1", 2), keyedNode("node-3", "198.51.100.3/24", "10.65.3.1", 0),
		affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed), affinity("node-2", "10.65.2.0/26", api.AffinityConfirmed),
		affinity("node-3", "10.65.3.0/26", api.AffinityConfirmed),
	}
}

// peersOf prints this node's peers of IPv4 with what is allowed of each.
func peersOf(s calc.State) string {
	var out []string
	for _, t := range s.Secure {
		for _, p := range t.Peers {
			out = append(out, fmt.Sprintf("%s %v", p.Node, p.Allowed))
		}
	}
	return strings.Join(out, "; ")
}

// TestPeerIsAllowedItsOwnAddressesOnly: its blocks, its tunnel's and its own; none that is
// another node's or this one's, whatever its Node and affinities say.
func TestPeerIsAllowedItsOwnAddressesOnly(t *testing.T) {
	const honest = "node-2 [10.65.2.0/26 10.65.2.1/32 192.0.2.2/32]"
	for _, tt := range []struct {
		name   string
		change []datastore.SyncUpdate
		want   string
	}{
		{"what is its own", nil, honest},
		{"a block in this node's network", []datastore.SyncUpdate{affinity("node-2", "192.0.2.0/26", api.AffinityConfirmed)}, honest},
		{"a block with another node's address", []datastore.SyncUpdate{affinity("node-2", "198.51.100.0/26", api.AffinityConfirmed)}, honest},
		{"a block that is not confirmed", []datastore.SyncUpdate{affinity("node-2", "10.65.9.0/26", api.AffinityPending)}, honest},
		{"a block of a node without a key", []datastore.SyncUpdate{affinity("node-3", "10.65.9.0/26", api.AffinityConfirmed)}, honest},
		{
			"one more block",
			[]datastore.SyncUpdate{affinity("node-2", "10.65.9.0/26", api.AffinityConfirmed)},
			"node-2 [10.65.2.0/26 10.65.2.1/32 10.65.9.0/26 192.0.2.2/32]",
		},
		{
			"floating addresses, and what can be none",
			[]datastore.SyncUpdate{
				showFloating(keyedNode("node-2", "192.0.2.2/24", "10.65.2.1", 2), "10.65.250.9,rubbish,192.0.2.77,198.18.0.1,fe80::1%eth0"),
				showFloating(keyedNode("node-3", "198.51.100.3/24", "10.65.3.1", 0), "10.65.250.10"),
			},
			"node-2 [10.65.2.0/26 10.65.2.1/32 10.65.250.9/32 192.0.2.2/32]",
		},
		{
			"a floating address that two nodes show",
			[]datastore.SyncUpdate{
				showFloating(keyedNode("node-2", "192.0.2.2/24", "10.65.2.1", 2), "10.65.250.9"),
				showFloating(keyedNode("node-4", "192.0.2.4/24", "10.65.4.1", 4), "10.65.250.9"),
			},
			"node-2 [10.65.2.0/26 10.65.2.1/32 10.65.250.9/32 192.0.2.2/32]; node-4 [10.65.4.1/32 192.0.2.4/32]",
		},
		{
			"the address of a node before it by name",
			[]datastore.SyncUpdate{keyedNode("node-4", "192.0.2.2/24", "10.65.4.1", 4)},
			honest + "; node-4 [10.65.4.1/32]",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := calc.New("node-1")
			g.Update(threeKeyedNodes())
			g.State() // what is computed once is not all that there is
			g.Update(tt.change)
			if got := peersOf(g.State()); got != tt.want {
				t.Errorf("peers %s\nwant  %s", got, tt.want)
			}
		})
	}
}

// TestRoutesByWireGuardLeadIntoTheDevice, those to a node without a key do not, which is
// said.
func TestRoutesByWireGuardLeadIntoTheDevice(t *testing.T) {
	g := calc.New("node-1")
	g.Update(threeKeyedNodes())
	s := g.State()
	if len(s.Remote) != 1 || s.Remote[0].Carrier != overlay.WireGuard || s.Remote[0].Dst.String() != "10.65.2.0/26" || s.Remote[0].Via.IsValid() {
		t.Errorf("routes %+v", s.Remote)
	}
	if got := strings.Join(s.Unsecured, "; "); got != "node node-3: it has published no WireGuard key for IPv4" {
		t.Errorf("unsecured %q", got)
	}
	if !g.Update([]datastore.SyncUpdate{affinity("node-2", "10.65.2.64/26", api.AffinityConfirmed)}) || len(g.State().Remote) != 2 {
		t.Error("one more block of another node changes nothing")
	}
	g.Update([]datastore.SyncUpdate{keyedNode("node-1", "192.0.2.1/24", "10.65.1.1", 0)})
	if s := g.State(); len(s.Remote)+len(s.Secure)+len(s.Unsecured) != 0 || s.Self.V4.Secure.Tunnel.String() != "10.65.1.1" {
		t.Errorf("without a key of its own: %+v, %+v, %v", s.Remote, s.Secure, s.Unsecured)
	}
}

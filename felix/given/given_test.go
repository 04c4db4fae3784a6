package given

import (
	"net/netip"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

func view() View {
	node := &api.Node{}
	node.Name = "node2"
	node.Spec = api.NodeSpec{
		BGP:                 &api.NodeBGPSpec{IPv4Address: "192.0.2.2/24", IPv6Address: "2001:db8::2", IPv4IPIPTunnelAddr: "10.65.9.1"},
		IPv4VXLANTunnelAddr: "10.65.9.2", IPv6VXLANTunnelAddr: "fd65::2",
		Wireguard: &api.NodeWireguardSpec{InterfaceIPv4Address: "10.65.9.3"},
		Addresses: []api.NodeAddress{{Address: "203.0.113.2"}, {Address: "node2.example"}},
	}
	endpoint := &api.WorkloadEndpoint{}
	endpoint.Namespace, endpoint.Name = "ns1", "node2-k8s-web-eth0"
	endpoint.Spec.IPNetworks, endpoint.Spec.IPNATs = []string{"198.51.100.5/32"}, []api.IPNAT{{InternalIP: "198.51.100.5", ExternalIP: "198.51.100.6"}}
	pool := func(name, cidr string, disabled bool) *v3.IPPool {
		p := v3.NewIPPool()
		p.Name, p.Spec.CIDR, p.Spec.Disabled, p.Spec.BlockSize = name, cidr, disabled, 26
		return p
	}
	reserved, peer := v3.NewIPReservation(), v3.NewBGPPeer()
	reserved.Spec.ReservedCIDRs = []string{"10.65.7.0/28", "10.65.7.200"}
	peer.Name, peer.Spec.PeerIP = "tor", "192.0.2.250:1179"
	handle, first := "net1.c9", 0
	block := &api.IPAMBlock{}
	block.Spec.CIDR, block.Spec.Allocations = "10.65.7.0/26", make([]*int, 64)
	block.Spec.Allocations[3], block.Spec.Attributes = &first, []api.BlockAttributes{{HandleID: &handle}}
	return View{
		Surroundings: Surroundings{
			Own:      []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("172.17.0.1/31"), netip.MustParsePrefix("2001:db8::1/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.254")}, Etcd: []netip.Addr{netip.MustParseAddr("192.0.2.70")},
			Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		},
		Nodes: []*api.Node{node}, Endpoints: []*api.WorkloadEndpoint{endpoint}, Reservations: []*v3.IPReservation{reserved}, Peers: []*v3.BGPPeer{peer},
		Pools: []*v3.IPPool{pool("pool1", "10.65.0.0/16", false), pool("old", "10.66.0.0/16", true)}, Blocks: []*api.IPAMBlock{block},
	}
}

// TestNobodysAddressIsTaken: what a pod asks for without IPAM is refused by name when it is
// somebody's.
func TestNobodysAddressIsTaken(t *testing.T) {
	for addr, says := range map[string]string{
		"192.0.2.99":      "", // of the network that the node is connected to, as upstream's users have it
		"198.51.100.9":    "",
		"2001:db8::99":    "",
		"10.65.7.1":       "", // reserved
		"10.65.7.200":     "",
		"10.66.0.9":       "", // of a pool that gives out nothing
		"172.17.0.0":      "", // of two addresses both are hosts'
		"0.0.0.0":         "can't be the address of a pod",
		"127.0.0.1":       "can't be the address of a pod",
		"224.0.0.1":       "can't be the address of a pod",
		"255.255.255.255": "can't be the address of a pod",
		"169.254.1.1":     "can't be the address of a pod",
		"::1":             "can't be the address of a pod",
		"ff02::1":         "can't be the address of a pod",
		"192.0.2.1":       "is an address of this node",
		"172.17.0.1":      "is an address of this node",
		"192.0.2.0":       "own or the broadcast address of 192.0.2.0/24, to which this node is connected",
		"192.0.2.255":     "own or the broadcast address of 192.0.2.0/24",
		"2001:db8::":      "own or the broadcast address of 2001:db8::/64",
		"192.0.2.2":       "is an address of node node2",
		"2001:db8::2":     "is an address of node node2",
		"203.0.113.2":     "is an address of node node2",
		"10.65.9.1":       "is an address of node node2",
		"10.65.9.2":       "is an address of node node2",
		"10.65.9.3":       "is an address of node node2",
		"fd65::2":         "is an address of node node2",
		"192.0.2.254":     "is the next hop of a route of this node",
		"192.0.2.70":      "is the address of the datastore",
		"192.0.2.250":     "is the address of BGPPeer tor",
		"10.96.0.1":       "lies in the service addresses 10.96.0.0/12",
		"10.65.8.1":       "lies in IP pool pool1, which may give it to another pod: have it assigned (annotation ipAddrs), or keep it from the pool with an IPReservation",
		"10.65.7.3":       "is in use: it is assigned to net1.c9",
		"198.51.100.5":    "is in use: WorkloadEndpoint ns1/node2-k8s-web-eth0 has it",
		"198.51.100.6":    "is in use: it is a floating address of WorkloadEndpoint ns1/node2-k8s-web-eth0",
	} {
		t.Run(addr, func(t *testing.T) {
			err := Refuse(netip.MustParseAddr(addr), view())
			switch {
			case says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case says != "" && (err == nil || !strings.HasPrefix(err.Error(), addr+" ") || !strings.Contains(err.Error(), says) || err.Passes != strings.HasPrefix(says, "is in use")):
				t.Errorf("error %v, want %q", err, says)
			}
		})
	}
}

func TestBlocksAroundAnAddress(t *testing.T) {
	got := BlocksAround(netip.MustParseAddr("10.65.7.70"), view().Pools)
	if len(got) != 1 || got[0] != netip.MustParsePrefix("10.65.7.64/26") {
		t.Errorf("blocks %v", got)
	}
}

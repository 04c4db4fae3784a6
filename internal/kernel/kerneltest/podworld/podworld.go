// Package podworld is a node with two pods and a host outside, in network namespaces,
// for tests of what happens to packets.
package podworld

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// The addresses of the little world: two pods behind a node, and a host outside
// that knows the way to the node and to the pods.
const (
	PodA     = "10.65.0.2"
	PodA6    = "fd00:65::2"
	PodB     = "10.66.0.2"
	PodB6    = "fd00:66::2"
	NodeOut  = "192.0.2.1" // the node's, towards the outside
	NodeOut6 = "2001:db8::1"
	Outside  = "192.0.2.2"
	Outside6 = "2001:db8::2"
	Node2    = "192.0.2.3" // another node of the cluster, in the namespace Outside
	Node26   = "2001:db8::3"

	gateway4, gateway6 = "169.254.1.1", "fe80::ecee:eeff:feee:eeee"
)

// World is the namespaces.
type World struct {
	Node, PodA, PodB, Outside *kernel.Netns
}

// New makes a World for the time of the test.
func New(t *testing.T) World {
	t.Helper()
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.Nftables, kerneltest.NftNAT)
	w := World{
		Node: kerneltest.NewNetns(t), PodA: kerneltest.NewNetns(t),
		PodB: kerneltest.NewNetns(t), Outside: kerneltest.NewNetns(t),
	}
	node := kerneltest.Open(t, w.Node)
	Check(t, node.SetSysctls([]kernel.Setting{
		{Name: "ipv4/conf/all/forwarding", Value: "1"},
		{Name: "ipv6/conf/all/forwarding", Value: "1"},
		// No wait for the link-local addresses that neighbours are asked from.
		{Name: "ipv6/conf/default/accept_dad", Value: "0"},
	}))
	wirePod(t, node, pod{"cali0", w.PodA, PodA, PodA6})
	wirePod(t, node, pod{"cali1", w.PodB, PodB, PodB6})

	out := kerneltest.Open(t, w.Outside)
	Check(t, out.SetSysctl("ipv6/conf/default/accept_dad", "0"))
	up, err := node.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "eth0", PeerNetns: w.Outside})
	Check(t, err)
	Check(t, out.SetUp(up.PeerIndex))
	Check(t, node.AddAddress(up.Index, netip.MustParsePrefix(NodeOut+"/24")))
	Check(t, node.AddAddress(up.Index, netip.MustParsePrefix(NodeOut6+"/64")))
	Check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(Outside+"/24")))
	Check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(Outside6+"/64")))
	Check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(Node2+"/24")))
	Check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(Node26+"/64")))
	for dst, via := range map[string]string{"10.64.0.0/14": NodeOut, "fd00::/16": NodeOut6} {
		Check(t, out.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolStatic, Link: up.PeerIndex,
			Gateway: netip.MustParseAddr(via),
		}))
	}
	return w
}

// pod is one to be wired.
type pod struct {
	host     string // the node's end
	ns       *kernel.Netns
	ip4, ip6 string
}

// wirePod does by hand what felix does for a pod.
func wirePod(t *testing.T, node *kernel.Handle, p pod) {
	t.Helper()
	mac := kernel.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
	host, err := node.CreateVeth(kernel.VethSpec{Host: p.host, HostMAC: mac, Peer: "eth0", PeerNetns: p.ns})
	Check(t, err)
	inside := kerneltest.Open(t, p.ns)
	eth0 := host.PeerIndex
	peer, err := inside.LinkByIndex(eth0)
	Check(t, err)
	Check(t, inside.SetUp(eth0))
	for _, ip := range []string{p.ip4, p.ip6} {
		addr := netip.MustParseAddr(ip)
		Check(t, inside.AddAddress(eth0, netip.PrefixFrom(addr, addr.BitLen())))
		Check(t, node.AddRoute(kernel.Route{
			Dst: netip.PrefixFrom(addr, addr.BitLen()), Protocol: kernel.ProtocolFelix, Link: host.Index,
		}))
		Check(t, node.SetNeighbour(kernel.Neighbour{Link: host.Index, IP: addr, MAC: peer.MAC}))
	}
	for gw, dst := range map[string]string{gateway4: "0.0.0.0/0", gateway6: "::/0"} {
		Check(t, inside.SetNeighbour(kernel.Neighbour{Link: eth0, IP: netip.MustParseAddr(gw), MAC: mac}))
		Check(t, inside.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolBoot, Link: eth0,
			Gateway: netip.MustParseAddr(gw), OnLink: true,
		}))
	}
}

// Check ends the test at an error.
func Check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// InNode runs an Apply where the node is.
func (w World) InNode(t *testing.T, f func(context.Context) error) {
	t.Helper()
	Check(t, w.Node.Do(func() error { return f(t.Context()) }))
}

// WantDifferences demands of a check of the node's rules that it names that, and nothing
// when says is empty.
func (w World) WantDifferences(t *testing.T, check func(context.Context) ([]string, error), says string) {
	t.Helper()
	w.InNode(t, func(ctx context.Context) error {
		differences, err := check(ctx)
		if says == "" && len(differences) > 0 || says != "" && (len(differences) != 1 || !strings.Contains(differences[0], says)) {
			t.Errorf("differences %q, want %q", differences, says)
		}
		return err
	})
}

// InTable changes an nftables table of the node.
func (w World) InTable(t *testing.T, family knftables.Family, table string, change func(*knftables.Transaction)) {
	t.Helper()
	w.InNode(t, func(ctx context.Context) error {
		nft, err := knftables.New(family, table)
		if err != nil {
			return err
		}
		tx := nft.NewTransaction()
		change(tx)
		return nft.Run(ctx, tx)
	})
}

// WantNoTable checks that the node has no nftables table of that name.
func (w World) WantNoTable(t *testing.T, family knftables.Family, table string) {
	t.Helper()
	w.InNode(t, func(ctx context.Context) error {
		nft, err := knftables.New(family, table)
		if err != nil {
			return err
		}
		if objects, err := nft.ListAll(ctx); !knftables.IsNotFound(err) {
			t.Errorf("the table is there: %v, %v", objects, err)
		}
		return nil
	})
}

// Counting is an nftables table that counts the transactions.
type Counting struct {
	knftables.Interface
	Runs int
}

// Run implements knftables.Interface.
func (c *Counting) Run(ctx context.Context, tx *knftables.Transaction) error {
	c.Runs++
	return c.Interface.Run(ctx, tx)
}

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/felix/pathmtu"
	"tortie/felix/ruleset"
	"tortie/felix/serviceloop"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

// nodeUpdate is the update of a Node with an address; without one it is gone.
func nodeUpdate(name, v4, v6 string) datastore.SyncUpdate {
	u := datastore.SyncUpdate{Key: api.Key{Kind: api.KindNode, Name: name}}
	if v4+v6 != "" {
		node := &api.Node{}
		node.Name, node.Spec.BGP = name, &api.NodeBGPSpec{IPv4Address: v4, IPv6Address: v6}
		u.Entry = &datastore.Entry{Key: u.Key, Object: node}
	}
	return u
}

func TestAddressOfTwoNodesIsAProblem(t *testing.T) {
	b := newNodeBook("node1")
	says := func(what string, want ...string) {
		t.Helper()
		found := b.problems()
		if len(found) != len(want) {
			t.Fatalf("%s: %v, want %q", what, found, want)
		}
		for i := range want {
			if !strings.Contains(found[i].Line, want[i]) {
				t.Errorf("%s: %q does not say %q", what, found[i].Line, want[i])
			}
		}
	}
	b.Apply([]datastore.SyncUpdate{nodeUpdate("node1", "10.0.0.1/24", "fd00::1/64"), nodeUpdate("node2", "10.0.0.2/24", "")})
	says("two nodes, two addresses")
	b.Apply([]datastore.SyncUpdate{nodeUpdate("node3", "10.0.0.2/16", "")})
	says("two others")
	b.Apply([]datastore.SyncUpdate{nodeUpdate("node2", "10.0.0.1/16", "fd00::1/64")})
	says("both addresses", "the addresses 10.0.0.1 and fd00::1 of this node are those of node node2, too")
	b.Apply([]datastore.SyncUpdate{nodeUpdate("node3", "10.0.0.1/24", "")})
	says("three nodes", "calicoctl delete node node2", "the address 10.0.0.1 of this node is that of node node3, too")
	b.Apply([]datastore.SyncUpdate{nodeUpdate("node2", "", ""), nodeUpdate("node3", "", "")})
	says("they are gone")
}

// narrow is a network that carries no larger packets.
type narrow int

func (n narrow) Ask(_ context.Context, _ netip.Addr, size int) (bool, error) {
	return size <= int(n), nil
}

func TestLargePacketsThatAreLostAreOneProblemASize(t *testing.T) {
	f := &felix{nodes: newNodeBook("node1"), underlay: &underlay{kernel: nineThousand(), log: slog.New(slog.DiscardHandler)}}
	f.underlay.set([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, nil)
	f.pathMTU = pathmtu.New(pathmtu.Config{Echo: narrow(1400), Targets: f.pathTargets, Log: slog.New(slog.DiscardHandler)})
	updates := []datastore.SyncUpdate{nodeUpdate("node1", "10.0.0.1/24", "")}
	for _, n := range []string{"2", "3", "4", "5", "6"} {
		updates = append(updates, nodeUpdate("node"+n, "10.0.0."+n+"/24", ""))
	}
	f.nodes.Apply(updates)
	for range 20 {
		f.pathMTU.Step(t.Context())
	}
	found := f.pathProblems()
	if want := "packets of more than 1400 bytes to node node2 (10.0.0.2), node3 (10.0.0.3), node4 (10.0.0.4), and 2 more are lost, and those of pods have up to 9000: set the MTU of eth0 to 1400 on every node"; len(found) != 1 || !strings.HasPrefix(found[0].Line, want) {
		t.Errorf("%v, want %q", found, want)
	}
}

// TestRangeOfLoadBalancersEndsHereThoughAPoolHasIt: only what pods and nodes have is let
// through to go on.
func TestRangeOfLoadBalancersEndsHereThoughAPoolHasIt(t *testing.T) {
	prefixes := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	loops := serviceLoops{serviceloop.New(serviceloop.Config{NFT: nft}), func() config.Config { return config.Config{ServiceLoopPrevention: serviceloop.Drop} }}
	pods := prefixes("10.65.0.0/16")
	loops.Set(calc.State{Services: prefixes("192.0.2.0/24"), Pools: append(prefixes("192.0.2.0/24"), pods...), PodPools: pods})
	if err := loops.Apply(t.Context()); err != nil || !strings.Contains(nft.Dump(), "192.0.2.0/24") {
		t.Errorf("%v; the rules are\n%s", err, nft.Dump())
	}
}

func TestHostThatChecksReversePathsIsNamedWherePodsHaveFurtherSources(t *testing.T) {
	endpoints := func(source string) map[calc.EndpointID]calc.Endpoint {
		id := calc.EndpointID{Namespace: "default", Name: "gateway"}
		return map[calc.EndpointID]calc.Endpoint{id: {ID: id, Sources: []netip.Prefix{netip.MustParsePrefix(source)}}, {}: {}}
	}
	one, six := endpoints("192.0.2.0/24"), endpoints("fd00::/64")
	for _, value := range []string{"1", "2"} {
		found := reversePathChecked(value, one)
		if want := "net.ipv4.conf.all.rp_filter is " + value + " on this node, so the kernel drops what pods send from their allowedSourcePrefixes (default/gateway): set it to 0"; len(found) != 1 || !strings.HasPrefix(found[0].Line, want) {
			t.Errorf("%v, want %q", found, want)
		}
	}
	if found := append(reversePathChecked("0", one), reversePathChecked("1", six)...); len(found) != 0 {
		t.Errorf("nothing is dropped: %v", found)
	}
}

func TestTargetsAreAskedByTheLargestPacketsThatPodsSendThere(t *testing.T) {
	f := &felix{nodes: newNodeBook("node1"), underlay: &underlay{kernel: nineThousand(), log: slog.New(slog.DiscardHandler)}}
	pools := []calc.TunnelPool{{Prefix: netip.MustParsePrefix("10.65.0.0/16"), By: overlay.VXLAN}}
	f.underlay.set([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, pools)
	f.nodes.Apply([]datastore.SyncUpdate{nodeUpdate("node1", "10.0.0.1/24", ""), nodeUpdate("node2", "10.0.0.2/24", "fd00::2/64"), nodeUpdate("node3", "10.0.1.3/24", "")})
	f.programmed.Store(&calc.State{Tunnels: []overlay.Tunnel{{Peers: []overlay.End{{Address: netip.MustParsePrefix("10.0.1.3/24")}}}}})
	sizes := func() (out []string) {
		for _, target := range f.pathTargets() {
			out = append(out, target.Node+" "+target.Addr.String()+" "+map[int]string{8950: "as pods", 9000: "as the device", 1400: "as configured", 1350: "as configured, less the overlay"}[target.Size])
		}
		slices.Sort(out)
		return out
	}
	if got, want := sizes(), []string{"node2 10.0.0.2 as pods", "node2 fd00::2 as pods", "node3 10.0.1.3 as the device"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	f.underlay.configure(config.VXLAN{MTU4: 1350}, config.IPIP{}, config.Wireguard{}, config.MTU{})
	if got, want := sizes(), []string{"node2 10.0.0.2 as configured, less the overlay", "node2 fd00::2 as configured, less the overlay", "node3 10.0.1.3 as configured"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNodeThatCanNotBeReadHasNoAddress(t *testing.T) {
	b := newNodeBook("node1")
	b.Apply([]datastore.SyncUpdate{nodeUpdate("node2", "10.0.0.2/24", "")})
	u := nodeUpdate("node2", "", "")
	u.Invalid = &datastore.Invalid{Key: u.Key, Err: errors.New("no")}
	b.Apply([]datastore.SyncUpdate{u})
	if got := b.others(); len(got) > 0 {
		t.Errorf("%v", got)
	}
}

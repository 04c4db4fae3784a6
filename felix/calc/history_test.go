package calc_test

import (
	"fmt"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"pgregory.net/rapid"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// anyUpdate draws an update from a world small enough for collisions of keys,
// addresses and interfaces to be common.
func anyUpdate() *rapid.Generator[datastore.SyncUpdate] {
	return rapid.Custom(func(t *rapid.T) datastore.SyncUpdate {
		n := rapid.IntRange(0, 3).Draw(t, "n")
		var u datastore.SyncUpdate
		switch rapid.SampledFrom([]string{"wep", "pool", "affinity", "node", "block", "services"}).Draw(t, "kind") {
		case "wep":
			nets := rapid.SliceOfN(rapid.SampledFrom([]string{
				"10.65.0.1/32", "10.65.0.2/32", "fd00::1/128", "fd00::2", "10.65.0.0/24", "junk",
			}), 0, 3).Draw(t, "nets")
			u = wep(fmt.Sprintf("node--1-k8s-p%d-eth0", n),
				rapid.SampledFrom([]string{"node-1", "node-1", "node-2"}).Draw(t, "node"),
				rapid.SampledFrom([]string{"cali00000000001", "cali00000000002", "cali00000000003", "eth0"}).Draw(t, "iface"),
				rapid.IntRange(0, 2).Draw(t, "age"), nets...)
		case "pool":
			u = poolUpdate(fmt.Sprintf("p%d", n),
				rapid.SampledFrom([]string{"10.65.0.0/16", "10.66.0.0/16", "fd00::/48", "10.0.0.1/8"}).Draw(t, "cidr"),
				rapid.Bool().Draw(t, "nat"), rapid.Bool().Draw(t, "disabled"))
			u.Entry.Object.(*v3.IPPool).Spec.VXLANMode = rapid.SampledFrom([]v3.VXLANMode{"", v3.VXLANModeAlways, v3.VXLANModeCrossSubnet}).Draw(t, "mode")
		case "affinity":
			u = affinity(rapid.SampledFrom([]string{"node-1", "node-2"}).Draw(t, "node"), fmt.Sprintf("10.65.%d.0/26", n),
				rapid.SampledFrom([]api.AffinityState{api.AffinityConfirmed, api.AffinityPending, ""}).Draw(t, "state"))
		case "node":
			u = nodeUpdate(rapid.SampledFrom([]string{"node-1", "node-10", "node-2"}).Draw(t, "node"),
				rapid.SampledFrom([]string{"", "192.0.2.1/24", "192.0.2.2/24", "junk"}).Draw(t, "v4"), "")
			u.Entry.Object.(*api.Node).Spec.IPv4VXLANTunnelAddr = rapid.SampledFrom([]string{"", "10.65.0.9", "10.65.1.9", "junk"}).Draw(t, "tunnel")
		case "services":
			u = servicesUpdate(rapid.SampledFrom([]string{"default", "node.node-1"}).Draw(t, "name"),
				rapid.SliceOfN(rapid.SampledFrom([]string{"10.96.0.0/12", "fd00:96::/112", "198.51.100.7/32", "junk"}), 0, 3).Draw(t, "ranges")...)
		case "block":
			u = blockUpdate(fmt.Sprintf("10.65.%d.0/26", n), rapid.SampledFrom([]string{"node-1", "node-2", ""}).Draw(t, "owner"),
				rapid.SliceOfN(rapid.SampledFrom([]string{"node-1", "node-2", "node-10", ""}), 0, 3).Draw(t, "holders")...)
		}
		switch rapid.SampledFrom([]string{"set", "set", "set", "gone", "unreadable"}).Draw(t, "what") {
		case "gone":
			return gone(u.Key)
		case "unreadable":
			return unreadable(u.Key)
		}
		return u
	})
}

// TestStateDependsOnContentNotHistory feeds one Graph a history with detours,
// repeats and looks at the State in between, another one only what is left in the
// end, in another order.
func TestStateDependsOnContentNotHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history := rapid.SliceOfN(anyUpdate(), 0, 40).Draw(t, "history")
		last := map[api.Key]datastore.SyncUpdate{}
		var keys []api.Key
		long := calc.New("node-1")
		for i, u := range history {
			if _, seen := last[u.Key]; !seen {
				keys = append(keys, u.Key)
			}
			last[u.Key] = u
			for range rapid.IntRange(1, 2).Draw(t, fmt.Sprint("repeat ", i)) {
				long.Update([]datastore.SyncUpdate{u})
			}
			if rapid.Bool().Draw(t, fmt.Sprint("look ", i)) {
				long.State()
			}
		}
		var content []datastore.SyncUpdate
		if len(keys) > 0 {
			for _, k := range rapid.Permutation(keys).Draw(t, "order") {
				if u := last[k]; u.Entry != nil || u.Invalid != nil {
					content = append(content, u)
				}
			}
		}
		short := calc.New("node-1")
		short.Update(content)
		if d := diff(short.State(), long.State()); d != "" {
			t.Fatalf("state depends on history (-content +history):\n%s", d)
		}
	})
}

// TestBlocksMatterOnlyWhileTheGraphAsksForThem: without them the State is the same.
func TestBlocksMatterOnlyWhileTheGraphAsksForThem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		with, without := calc.New("node-1"), calc.New("node-1")
		for _, u := range rapid.SliceOfN(anyUpdate(), 0, 40).Draw(t, "content") {
			with.Update([]datastore.SyncUpdate{u})
			if u.Key.Kind != api.KindIPAMBlock {
				without.Update([]datastore.SyncUpdate{u})
			}
		}
		if with.Follow() != nil {
			return
		}
		if d := diff(without.State(), with.State()); d != "" {
			t.Fatalf("blocks matter (-without +with):\n%s", d)
		}
	})
}

// TestNoAddressOrInterfaceIsGivenTwice holds for every content of the datastore.
func TestNoAddressOrInterfaceIsGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := calc.New("node-1")
		g.Update(rapid.SliceOfN(anyUpdate(), 0, 40).Draw(t, "history"))
		s := g.State()
		seen := map[string]calc.EndpointID{}
		claim := func(what string, id calc.EndpointID) {
			if other, dup := seen[what]; dup {
				t.Fatalf("%s belongs to %s and %s", what, other, id)
			}
			seen[what] = id
		}
		for id, ep := range s.Endpoints {
			claim(ep.Interface, id)
			for _, a := range ep.Addrs {
				claim(a.String(), id)
			}
		}
	})
}

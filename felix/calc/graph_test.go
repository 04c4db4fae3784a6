package calc_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func entry(key api.Key, obj api.Object) datastore.SyncUpdate {
	return datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: obj}}
}

func gone(key api.Key) datastore.SyncUpdate { return datastore.SyncUpdate{Key: key} }

func unreadable(key api.Key) datastore.SyncUpdate {
	return datastore.SyncUpdate{Key: key, Invalid: &datastore.Invalid{Key: key, Err: errors.New("not JSON")}}
}

// spoiled is unreadable for who was told of it before.
func spoiled(key api.Key) datastore.SyncUpdate {
	u := unreadable(key)
	u.Kept = true
	return u
}

func wepKey(name string) api.Key {
	return api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: name}
}

// wep is an endpoint created age seconds ago, so that a smaller age is newer.
func wep(name, node, iface string, age int, nets ...string) datastore.SyncUpdate {
	obj := &api.WorkloadEndpoint{Spec: api.WorkloadEndpointSpec{
		Node: node, ContainerID: "c-" + name, InterfaceName: iface, IPNetworks: nets,
	}}
	obj.Namespace, obj.Name = "ns1", name
	obj.CreationTimestamp = metav1.NewTime(time.Unix(1_800_000_000-int64(age), 0))
	return entry(wepKey(name), obj)
}

func poolUpdate(name, cidr string, nat, disabled bool) datastore.SyncUpdate {
	obj := v3.NewIPPool()
	obj.Name = name
	obj.Spec = v3.IPPoolSpec{CIDR: cidr, NATOutgoing: nat, Disabled: disabled}
	return entry(api.Key{Kind: api.KindIPPool, Name: name}, obj)
}

func affinity(node, cidr string, state api.AffinityState) datastore.SyncUpdate {
	key := api.BlockAffinityKey(api.HostAffinity(node), netip.MustParsePrefix(cidr))
	return entry(key, &api.BlockAffinity{Spec: api.BlockAffinitySpec{State: state}})
}

func nodeUpdate(name, v4, v6 string) datastore.SyncUpdate {
	obj := &api.Node{Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: v4, IPv6Address: v6}}}
	return entry(api.Key{Kind: api.KindNode, Name: name}, obj)
}

func stateOf(t *testing.T, updates ...datastore.SyncUpdate) calc.State {
	t.Helper()
	g := calc.New("node-1")
	g.Update(updates)
	return g.State()
}

func id(name string) calc.EndpointID { return calc.EndpointID{Namespace: "ns1", Name: name} }

var compare = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func diff(want, got any) string { return cmp.Diff(want, got, compare, comparePrefixes) }

func TestStateHoldsOnlyTheEndpointsOfThisNode(t *testing.T) {
	s := stateOf(t,
		wep("here", "node-1", "cali00000000001", 0, "10.65.0.1/32", "fd00::1/128"),
		wep("there", "node-10", "cali00000000001", 0, "10.65.0.2/32"),
	)
	want := map[calc.EndpointID]calc.Endpoint{id("here"): {
		ID: id("here"), ContainerID: "c-here", Interface: "cali00000000001", Addrs: addrs("10.65.0.1", "fd00::1"),
	}}
	if d := diff(want, s.Endpoints); d != "" {
		t.Error(d)
	}
	if len(s.Problems) != 0 || s.HoldDevices {
		t.Errorf("problems %v, hold %v", s.Problems, s.HoldDevices)
	}
}

func TestUpdateTellsWhetherItMatters(t *testing.T) {
	g := calc.New("node-1")
	for _, step := range []struct {
		what string
		u    datastore.SyncUpdate
		want bool
	}{
		{"endpoint of another node", wep("a", "node-2", "cali00000000001", 0, "10.65.0.1/32"), false},
		{"endpoint of this node", wep("a", "node-1", "cali00000000001", 0, "10.65.0.1/32"), true},
		{"it moves away", wep("a", "node-2", "cali00000000001", 0, "10.65.0.1/32"), true},
		{"it goes there", gone(wepKey("a")), false},
		{"pool", poolUpdate("p", "10.65.0.0/16", true, false), true},
	} {
		if got := g.Update([]datastore.SyncUpdate{step.u}); got != step.want {
			t.Errorf("%s: changed is %v, want %v", step.what, got, step.want)
		}
	}
}

func TestEndpointThatMovesToAnotherNodeLeaves(t *testing.T) {
	s := stateOf(t,
		wep("a", "node-1", "cali00000000001", 0, "10.65.0.1/32"),
		wep("a", "node-2", "cali00000000001", 0, "10.65.0.1/32"),
	)
	if len(s.Endpoints) != 0 {
		t.Errorf("endpoints %v", s.Endpoints)
	}
}

func TestDeletedObjectsLeaveNothing(t *testing.T) {
	updates := []datastore.SyncUpdate{
		wep("a", "node-1", "cali00000000001", 0, "10.65.0.1/32"),
		poolUpdate("p", "10.65.0.0/16", true, false),
		affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed),
		nodeUpdate("node-1", "192.0.2.1/24", "2001:db8::1/64"),
	}
	for _, u := range slices.Clone(updates) {
		updates = append(updates, gone(u.Key))
	}
	if d := diff(stateOf(t), stateOf(t, updates...)); d != "" {
		t.Error(d)
	}
}

func TestNewestOfTwoEndpointsKeepsTheAddress(t *testing.T) {
	s := stateOf(t,
		wep("a-old", "node-1", "cali00000000001", 9, "10.65.0.1/32", "10.65.0.2/32"),
		wep("b-new", "node-1", "cali00000000002", 1, "10.65.0.1/32"),
	)
	if d := diff(addrs("10.65.0.1"), s.Endpoints[id("b-new")].Addrs); d != "" {
		t.Error(d)
	}
	if d := diff(addrs("10.65.0.2"), s.Endpoints[id("a-old")].Addrs); d != "" {
		t.Error(d)
	}
	wantProblem(t, s, "ns1/a-old", "10.65.0.1", "ns1/b-new")
	if s.HoldDevices {
		t.Error("a conflict between readable endpoints holds the sweep of devices")
	}
}

func TestNewestOfTwoEndpointsKeepsTheInterface(t *testing.T) {
	s := stateOf(t,
		wep("a-old", "node-1", "cali00000000001", 9, "10.65.0.1/32"),
		wep("b-new", "node-1", "cali00000000001", 1, "10.65.0.2/32"),
		wep("third", "node-1", "cali00000000003", 99, "10.65.0.1/32"),
	)
	if _, ok := s.Endpoints[id("a-old")]; ok {
		t.Error("the older endpoint kept a share of the interface")
	}
	if d := diff(addrs("10.65.0.1"), s.Endpoints[id("third")].Addrs); d != "" {
		t.Errorf("the loser of the interface still claims its address: %s", d)
	}
	wantProblem(t, s, "ns1/a-old", "cali00000000001", "ns1/b-new")
}

func TestTieBetweenEndpointsGoesToTheLowerID(t *testing.T) {
	s := stateOf(t,
		wep("b", "node-1", "cali00000000002", 5, "10.65.0.1/32"),
		wep("a", "node-1", "cali00000000001", 5, "10.65.0.1/32"),
	)
	if got := s.Endpoints[id("a")].Addrs; len(got) != 1 {
		t.Errorf("a has %v", got)
	}
	if got := s.Endpoints[id("b")].Addrs; len(got) != 0 {
		t.Errorf("b has %v", got)
	}
}

func TestInvalidEndpointFailsClosedAlone(t *testing.T) {
	tests := map[string]struct {
		update datastore.SyncUpdate
		says   string
	}{
		"network instead of address": {wep("bad", "node-1", "cali00000000009", 0, "10.65.0.0/24"), "/32"},
		"not an address":             {wep("bad", "node-1", "cali00000000009", 0, "ten"), `"ten"`},
		"multicast":                  {wep("bad", "node-1", "cali00000000009", 0, "224.0.0.1/32"), "224.0.0.1"},
		"link local":                 {wep("bad", "node-1", "cali00000000009", 0, "fe80::1/128"), "fe80::1"},
		"the node's own device":      {wep("bad", "node-1", "eth0", 0, "10.65.0.9/32"), "eth0"},
		"no interface":               {wep("bad", "node-1", "", 0, "10.65.0.9/32"), "interfaceName is empty"},
		"long interface":             {wep("bad", "node-1", "cali000000000000", 0), "15"},
		"interface with a slash":     {wep("bad", "node-1", "cali/../x", 0), "device"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := stateOf(t, tt.update, wep("good", "node-1", "cali00000000001", 0, "10.65.0.1/32"))
			if _, ok := s.Endpoints[id("bad")]; ok {
				t.Error("the invalid endpoint is honoured")
			}
			if _, ok := s.Endpoints[id("good")]; !ok {
				t.Error("the valid endpoint is not honoured")
			}
			if !s.HoldDevices {
				t.Error("the device of the invalid endpoint may be swept")
			}
			wantProblem(t, s, "ns1/bad", tt.says)
		})
	}
}

func TestUnreadableEndpointCountsOnlyWhenItsNameIsOfThisNode(t *testing.T) {
	s := stateOf(t,
		unreadable(wepKey("node--1-k8s-pod-eth0")),
		unreadable(wepKey("node--1--b-k8s-pod-eth0")),
		unreadable(wepKey("node--2-k8s-pod-eth0")),
	)
	if !s.HoldDevices || len(s.Problems) != 1 {
		t.Fatalf("hold %v, problems %v", s.HoldDevices, s.Problems)
	}
	wantProblem(t, s, "ns1/node--1-k8s-pod-eth0", "not JSON")
}

func TestUnreadableEndpointReplacesWhatWasKnown(t *testing.T) {
	name := "node--1-k8s-pod-eth0"
	s := stateOf(t, wep(name, "node-1", "cali00000000001", 0, "10.65.0.1/32"), unreadable(wepKey(name)))
	if len(s.Endpoints) != 0 || !s.HoldDevices {
		t.Errorf("endpoints %v, hold %v", s.Endpoints, s.HoldDevices)
	}
}

func TestBlocksAreThisNodesConfirmedOnes(t *testing.T) {
	s := stateOf(t,
		affinity("node-1", "10.65.2.0/26", api.AffinityConfirmed),
		affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed),
		affinity("node-1", "fd00:65::/122", ""), // an old store's
		affinity("node-1", "10.65.3.0/26", api.AffinityPending),
		affinity("node-1", "10.65.4.0/26", api.AffinityPendingDeletion),
		affinity("node-2", "10.65.5.0/26", api.AffinityConfirmed),
		poolUpdate("p4", "10.65.0.0/16", false, false),
		poolUpdate("p6", "fd00:65::/48", false, true), // its pods live on
	)
	if d := diff(prefixes("10.65.1.0/26", "10.65.2.0/26", "fd00:65::/122"), s.Blocks); d != "" {
		t.Error(d)
	}
	if len(s.Problems) != 0 {
		t.Errorf("problems %v", s.Problems)
	}
}

// TestAffinityCannotCutTheNodeOff: whoever may write an affinity must not be able
// to have this node drop what it lives on.
func TestAffinityCannotCutTheNodeOff(t *testing.T) {
	around := []datastore.SyncUpdate{
		poolUpdate("pods", "10.65.0.0/16", true, false),
		poolUpdate("wide", "172.16.0.0/12", true, false),
		poolUpdate("all6", "2001:db8::/32", false, false),
		poolUpdate("pods6", "fd00:65::/48", false, false),
		nodeUpdate("node-1", "172.16.5.1/24", "2001:db8:1::1/64"),
		nodeUpdate("node-2", "172.17.0.70/24", ""),
	}
	for cidr, says := range map[string]string{
		"10.10.100.0/24":    "lies in no IP pool", // where etcd is
		"99.99.99.0/24":     "lies in no IP pool",
		"0.0.0.0/0":         "larger than a block can be",
		"10.0.0.0/8":        "larger than a block can be",
		"10.65.0.0/16":      "larger than a block can be",
		"10.65.0.0/19":      "larger than a block can be",
		"fd00:65::/64":      "larger than a block can be",
		"::/0":              "larger than a block can be",
		"172.16.5.0/26":     "this node's own network 172.16.5.0/24",
		"172.16.4.0/22":     "this node's own network 172.16.5.0/24",
		"172.17.0.64/26":    "172.17.0.70",
		"172.17.0.70/32":    "172.17.0.70",
		"2001:db8:1::/122":  "this node's own network 2001:db8:1::/64",
		"2002:db8:ff::/122": "lies in no IP pool",
	} {
		u := affinity("node-1", cidr, api.AffinityConfirmed)
		s := stateOf(t, append(slices.Clone(around), u, affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed))...)
		if d := diff(prefixes("10.65.1.0/26"), s.Blocks); d != "" {
			t.Errorf("%s: %s", cidr, d)
		}
		if len(s.Problems) != 1 {
			t.Errorf("%s: problems %v, want one", cidr, s.Problems)
		}
		wantProblem(t, s, "BlockAffinity(", cidr, says, "not blackholed")
	}
	for _, cidr := range []string{"10.65.0.0/20", "10.65.0.1/32", "172.16.6.0/26", "172.17.0.128/26", "fd00:65::/116", "fd00:65::1/128"} {
		s := stateOf(t, append(slices.Clone(around), affinity("node-1", cidr, api.AffinityConfirmed))...)
		if d := diff(prefixes(cidr), s.Blocks); d != "" || len(s.Problems) != 0 {
			t.Errorf("%s: %s, problems %v", cidr, d, s.Problems)
		}
	}
}

func TestPoolsFeedOutgoingNAT(t *testing.T) {
	s := stateOf(t,
		poolUpdate("plain", "10.66.0.0/16", false, false),
		poolUpdate("nat", "10.65.0.0/16", true, false),
		poolUpdate("drained", "10.64.0.0/16", true, true),
		poolUpdate("broken", "10.63.0.1/16", true, false),
	)
	if d := diff(prefixes("10.64.0.0/16", "10.65.0.0/16", "10.66.0.0/16"), s.Pools); d != "" {
		t.Error(d)
	}
	if d := diff(prefixes("10.64.0.0/16", "10.65.0.0/16"), s.Masquerade); d != "" {
		t.Error(d)
	}
	wantProblem(t, s, "IPPool(broken)", "host bits", "10.63.0.0/16")
}

func TestPoolsOfPodsAreToldFromThoseOfLoadBalancers(t *testing.T) {
	pods, balancers := poolUpdate("pods", "10.65.0.0/16", false, true), poolUpdate("balancers", "192.0.2.0/24", false, false)
	balancers.Entry.Object.(*v3.IPPool).Spec.AllowedUses = []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseLoadBalancer}
	if d := diff(prefixes("10.65.0.0/16"), stateOf(t, pods, balancers).PodPools); d != "" {
		t.Error(d)
	}
}

func TestNodeAddressesAreOnlyThisNodes(t *testing.T) {
	s := stateOf(t,
		nodeUpdate("node-10", "192.0.2.10/24", ""),
		nodeUpdate("node-1", "192.0.2.1/24", "2001:db8::1/64"),
	)
	if d := diff(prefixes("192.0.2.1/24", "2001:db8::1/64"), s.NodeAddrs); d != "" {
		t.Error(d)
	}
}

func TestEveryNodeKeepsOutOfNAT(t *testing.T) {
	s := stateOf(t,
		nodeUpdate("node-2", "192.0.2.2/24", "2001:db8::2/64"),
		nodeUpdate("node-1", "192.0.2.1/24", ""),
		nodeUpdate("node-3", "somewhere", ""), // its own to report
		unreadable(api.Key{Kind: api.KindNode, Name: "node-4"}),
	)
	if d := diff(prefixes("192.0.2.1/32", "192.0.2.2/32", "2001:db8::2/128"), s.Nodes); d != "" {
		t.Error(d)
	}
	if len(s.Problems) != 0 {
		t.Errorf("problems %v", s.Problems)
	}
}

func TestEveryNodesAddressIsKnownForNAT(t *testing.T) {
	s := stateOf(t,
		nodeUpdate("node-1", "192.0.2.1/24", "2001:db8::1/64"),
		nodeUpdate("node-2", "192.0.2.2/24", ""),
		nodeUpdate("node-3", "everywhere", "2001:db8::3/64"),
	)
	if d := diff(prefixes("192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::3/128"), s.Nodes); d != "" {
		t.Error(d)
	}
	if len(s.Problems) != 0 {
		t.Errorf("another node's broken address is that node's to report: %v", s.Problems)
	}
}

func TestBrokenNodeAddressIsReported(t *testing.T) {
	s := stateOf(t, nodeUpdate("node-1", "everywhere", "2001:db8::1"))
	if d := diff(prefixes("2001:db8::1/128"), s.NodeAddrs); d != "" {
		t.Error(d)
	}
	wantProblem(t, s, "Node(node-1)", "spec.bgp.ipv4Address", "everywhere")
}

// TestUnknownOverlayModeIsSaidAndTakenForAlways: a mistyped mode cuts nobody off.
func TestUnknownOverlayModeIsSaidAndTakenForAlways(t *testing.T) {
	u := poolUpdate("p", "10.65.0.0/16", true, false)
	u.Entry.Object.(*v3.IPPool).Spec.VXLANMode = "Often"
	s := stateOf(t, u)
	wantProblem(t, s, "IPPool(p)", `spec.vxlanMode: "Often" is none of Never, CrossSubnet and Always`, "calicoctl")
	if len(s.TunnelPools) != 1 {
		t.Errorf("pools with VXLAN: %v", s.TunnelPools)
	}
	if d := diff(prefixes("10.65.0.0/16"), s.Masquerade); d != "" {
		t.Error(d)
	}
}

// wantProblem checks that one line names all of parts.
// TestWhatCantBeReadAnyMoreHoldsOn: each kind, with one problem that names it, until it can be
// read again or is gone.
func TestWhatCantBeReadAnyMoreHoldsOn(t *testing.T) {
	overlaid := poolUpdate("p", "10.65.0.0/16", true, false)
	overlaid.Entry.Object.(*v3.IPPool).Spec.VXLANMode = v3.VXLANModeAlways
	all := []datastore.SyncUpdate{
		overlaid, nodeUpdate("node-1", "192.0.2.1/24", ""), nodeUpdate("node-2", "192.0.2.2/24", ""),
		affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed), affinity("node-2", "10.65.2.0/26", api.AffinityConfirmed),
		wep("node--1-k8s-a-eth0", "node-1", "cali00000000001", 0, "10.65.1.1/32"), servicesUpdate("default", "10.96.0.0/12"),
	}
	g := calc.New("node-1")
	g.Update(all)
	before := g.State()
	if len(before.Blocks) != 1 || len(before.Masquerade) != 1 || len(before.Problems) != 0 {
		t.Fatalf("at first: %+v", before)
	}
	for _, u := range all {
		t.Run(u.Key.String(), func(t *testing.T) {
			g.Update([]datastore.SyncUpdate{spoiled(u.Key)})
			now := g.State()
			if others := u.Key.Name == "node-2" || strings.HasPrefix(u.Key.Name, "host:node-2/"); others != (len(now.Problems) == 0) {
				t.Errorf("problems %v", now.Problems)
			} else if !others {
				wantProblem(t, now, u.Key.String()+": can't be read: not JSON; what it said before holds on; ")
			}
			now.Problems = nil
			if diff := cmp.Diff(before, now, compare, comparePrefixes, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("not as before: %s", diff)
			}
			g.Update([]datastore.SyncUpdate{u})
			if left := g.State().Problems; len(left) != 0 {
				t.Errorf("when it can be read again: %v", left)
			}
		})
	}
	g.Update([]datastore.SyncUpdate{spoiled(overlaid.Key), gone(overlaid.Key)})
	if s := g.State(); len(s.Pools) != 0 || s.PoolsUnread {
		t.Errorf("a pool that is gone is there: %+v", s)
	}
}

// TestNothingIsBlamedForAPoolThatCantBeRead: no block and no tunnel address, for what lies in no pool that is known may lie in
// that one.
func TestNothingIsBlamedForAPoolThatCantBeRead(t *testing.T) {
	pool := poolUpdate("p", "10.65.0.0/16", true, false).Key
	self := nodeUpdate("node-1", "192.0.2.1/24", "")
	self.Entry.Object.(*api.Node).Spec.IPv4VXLANTunnelAddr = "10.65.1.0"
	s := stateOf(t, unreadable(pool), self, affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed))
	if len(s.Problems) != 1 || len(s.Blocks) != 0 || !s.PoolsUnread {
		t.Errorf("problems %v, blocks %v, want the pool's problem alone and no block", s.Problems, s.Blocks)
	}
	wantProblem(t, s, "IPPool(p): can't be read: not JSON; nothing of it counts; write it anew with calicoctl apply")
}

func wantProblem(t *testing.T, s calc.State, parts ...string) {
	t.Helper()
	for _, p := range s.Problems {
		line := p.String()
		if strings.Contains(line, "\n") {
			t.Errorf("problem of several lines: %q", line)
		}
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			return
		}
	}
	t.Errorf("no problem names %q in %v", parts, s.Problems)
}

// servicesUpdate is a BGPConfiguration with ranges of external addresses.
func servicesUpdate(name string, ranges ...string) datastore.SyncUpdate {
	c := v3.NewBGPConfiguration()
	c.Name = name
	for _, r := range ranges {
		c.Spec.ServiceExternalIPs = append(c.Spec.ServiceExternalIPs, v3.ServiceExternalIPBlock{CIDR: r})
	}
	return entry(api.Key{Kind: api.KindBGPConfiguration, Name: name}, c)
}

// TestServicesAreTheRangesThatEveryNodeAnnounces: an address that is announced while a
// service has it draws no packets otherwise.
func TestServicesAreTheRangesThatEveryNodeAnnounces(t *testing.T) {
	g := calc.New("node-1")
	if !g.Update([]datastore.SyncUpdate{servicesUpdate("default", "198.51.100.0/24", "203.0.113.7/32", "0.0.0.0/0", "junk")}) {
		t.Error("that there are ranges changes nothing")
	}
	if g.Update([]datastore.SyncUpdate{servicesUpdate("node.node-1", "192.0.2.0/24")}) {
		t.Error("ranges of a BGPConfiguration that is not the default one count")
	}
	if diff := cmp.Diff(prefixes("198.51.100.0/24"), g.State().Services, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	g.Update([]datastore.SyncUpdate{gone(api.Key{Kind: api.KindBGPConfiguration, Name: "default"})})
	if s := g.State().Services; len(s) != 0 {
		t.Errorf("%v is left", s)
	}
}

// TestLimitsAreTheRecords: complete, and one that can't be costs its pod nothing else.
func TestLimitsAreTheRecords(t *testing.T) {
	limited := func(q *api.QoSControls) calc.State {
		u := wep("a", "node-a", "cali0", 0, "10.0.0.1/32")
		u.Entry.Object.(*api.WorkloadEndpoint).Spec.QoSControls = q
		g := calc.New("node-a")
		if !g.Update([]datastore.SyncUpdate{u}) {
			t.Error("it does not matter")
		}
		return g.State()
	}
	got := limited(&api.QoSControls{EgressBandwidth: 1e6}).Endpoints[id("a")]
	if d := diff(&api.QoSControls{EgressBandwidth: 1e6, EgressBurst: 4 << 30}, got.Limits); d != "" {
		t.Error(d)
	}
	none := limited(nil).Endpoints[id("a")]
	if none.Limits != nil || none.Equal(got) {
		t.Errorf("without limits: %+v", none)
	}
	bad := limited(&api.QoSControls{EgressBandwidth: -1})
	if d := diff(none, bad.Endpoints[id("a")]); d != "" {
		t.Error(d)
	}
	wantProblem(t, bad, "spec.qosControls.egressBandwidth: -1: want 1k to 1P bits a second", "not limited until this is corrected")
}

package calc_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// wishing is an endpoint that asks for more than its addresses.
func wishing(u datastore.SyncUpdate, sources []string, nats ...api.IPNAT) datastore.SyncUpdate {
	spec := &u.Entry.Object.(*api.WorkloadEndpoint).Spec
	spec.AllowSpoofedSourcePrefixes, spec.IPNATs = sources, nats
	return u
}

func TestEndpointsHaveWhatIsPermitted(t *testing.T) {
	all := calc.Permit{Sources: true, Floating: true}
	floats := func(pairs ...string) []calc.Floating {
		var out []calc.Floating
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, calc.Floating{External: netip.MustParseAddr(pairs[i]), Internal: netip.MustParseAddr(pairs[i+1])})
		}
		return out
	}
	nat := func(external, internal string) api.IPNAT {
		return api.IPNAT{ExternalIP: external, InternalIP: internal}
	}
	for _, tc := range []struct {
		name     string
		permit   calc.Permit
		iface    string
		sources  []string
		nats     []api.IPNAT
		want     calc.Endpoint // Sources and Floating
		problems []string
	}{
		{name: "sources", permit: all, sources: []string{"fd00::1/8", "10.0.0.0/8", "10.0.0.0/8"}, want: calc.Endpoint{Sources: prefixes("10.0.0.0/8", "fd00::/8")}},
		{name: "sources forbidden", permit: calc.Permit{Floating: true}, sources: []string{"10.0.0.0/8"}, problems: []string{"spec.allowSpoofedSourcePrefixes: sending from other addresses is forbidden; set workloadSourceSpoofing: Any"}},
		{name: "sources of a device that rules can't match", permit: all, iface: "cali*", sources: []string{"10.0.0.0/8"}, problems: []string{`interface "cali*" has characters`}},
		{name: "floating", permit: all, nats: []api.IPNAT{nat("fd65::9", "fd65::1"), nat("10.65.9.9", "10.65.0.1")}, want: calc.Endpoint{Floating: floats("10.65.9.9", "10.65.0.1", "fd65::9", "fd65::1")}},
		{name: "floating forbidden", permit: calc.Permit{Sources: true}, nats: []api.IPNAT{nat("10.65.9.9", "10.65.0.1")}, problems: []string{"spec.ipNATs: floating addresses are disabled; set floatingIPs: Enabled"}},
		{name: "in no pool", permit: all, nats: []api.IPNAT{nat("10.99.0.1", "10.65.0.1"), nat("10.65.9.9", "10.65.0.1")}, want: calc.Endpoint{Floating: floats("10.65.9.9", "10.65.0.1")}, problems: []string{"10.99.0.1 lies in no IP pool"}},
		{name: "a node's", permit: all, nats: []api.IPNAT{nat("10.65.200.2", "10.65.0.1")}, problems: []string{"10.65.200.2 is the address of a node"}},
		{name: "this node's network", permit: all, nats: []api.IPNAT{nat("10.65.201.7", "10.65.0.1")}, problems: []string{"10.65.201.7 lies in this node's own network 10.65.201.0/24"}},
		{name: "another pod's own", permit: all, nats: []api.IPNAT{nat("10.65.0.2", "10.65.0.1")}, problems: []string{"10.65.0.2 is the own address of WorkloadEndpoint"}},
		{name: "to another's address", permit: all, nats: []api.IPNAT{nat("10.65.9.9", "10.65.0.2")}, problems: []string{"10.65.9.9 leads to 10.65.0.2, which is no address of this endpoint"}},
		{name: "of two versions", permit: all, nats: []api.IPNAT{nat("10.65.9.9", "fd65::1")}, problems: []string{"which is of the other IP version"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			iface := "cali1"
			if tc.iface != "" {
				iface = tc.iface
			}
			s := stateOf(t,
				poolUpdate("p4", "10.65.0.0/16", false, false), poolUpdate("p6", "fd65::/48", false, false),
				nodeUpdate("node-1", "10.65.201.1/24", ""), nodeUpdate("node-2", "10.65.200.2/24", ""),
				wep("other", "node-1", "cali2", 5, "10.65.0.2/32"),
				wishing(wep("one", "node-1", iface, 1, "10.65.0.1/32", "fd65::1/128"), tc.sources, tc.nats...))
			s.Problems = nil
			s.Restrict(tc.permit)
			got := s.Endpoints[calc.EndpointID{Namespace: "ns1", Name: "one"}]
			same := cmpopts.EquateComparable(netip.Prefix{}, calc.Floating{})
			if diff := cmp.Diff(tc.want.Sources, got.Sources, same, cmpopts.EquateEmpty()) + cmp.Diff(tc.want.Floating, got.Floating, same, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(got.Addrs) != 2 {
				t.Errorf("its own addresses: %v", got.Addrs)
			}
			if len(s.Problems) != len(tc.problems) {
				t.Fatalf("problems %v", s.Problems)
			}
			for i, says := range tc.problems {
				if !strings.Contains(s.Problems[i].String(), says) {
					t.Errorf("problem %q does not say %q", s.Problems[i], says)
				}
			}
		})
	}
}

// TestOfTwoPodsTheNewerHasTheFloatingAddress, and the older has it when that one is gone.
func TestOfTwoPodsTheNewerHasTheFloatingAddress(t *testing.T) {
	g := calc.New("node-1")
	floating := api.IPNAT{ExternalIP: "10.65.9.9", InternalIP: "10.65.0.1"}
	second := floating
	second.InternalIP = "10.65.0.2"
	g.Update([]datastore.SyncUpdate{
		poolUpdate("p4", "10.65.0.0/16", false, false),
		wishing(wep("old", "node-1", "cali1", 9, "10.65.0.1/32"), nil, floating),
		wishing(wep("new", "node-1", "cali2", 1, "10.65.0.2/32"), nil, second),
	})
	has := func(name string) bool {
		s := g.State()
		s.Restrict(calc.Permit{Floating: true})
		told := slices.ContainsFunc(s.Problems, func(p calc.Problem) bool {
			return strings.Contains(p.Reason, "floating address 10.65.9.9 belongs to the newer") && p.Key.Name == "old"
		})
		if told != (name == "new") {
			t.Errorf("problems %v", s.Problems)
		}
		return len(s.Endpoints[calc.EndpointID{Namespace: "ns1", Name: name}].Floating) == 1
	}
	if !has("new") {
		t.Error("the newer has it not")
	}
	g.Update([]datastore.SyncUpdate{gone(wepKey("new"))})
	if !has("old") {
		t.Error("the older has not got it back")
	}
}

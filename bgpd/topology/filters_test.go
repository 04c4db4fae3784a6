package topology

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

func aFilter(name string, spec api.BGPFilterSpec) *api.BGPFilter {
	return &api.BGPFilter{ObjectMeta: meta(name), Spec: spec}
}

// TestFiltersOfAPeerAreJoinedInTheirOrder: those of the session's family only.
func TestFiltersOfAPeerAreJoinedInTheirOrder(t *testing.T) {
	in := Input{
		Node: "node1", Nodes: threeNodes()[:1],
		Filters: []*api.BGPFilter{
			aFilter("b", api.BGPFilterSpec{
				ExportV4: []api.BGPFilterRule{{CIDR: "10.2.0.0/16", Operator: v3.In, Action: v3.Reject}},
				ImportV6: []api.BGPFilterRule{{CIDR: "fd02::/16", Operator: v3.Equal, Action: v3.Reject}},
			}),
			aFilter("a", api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{{CIDR: "10.1.0.0/16", Operator: v3.NotIn, Action: v3.Accept}}}),
		},
		Peers: []*v3.BGPPeer{
			aPeer("v4", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999, Filters: []string{"b", "a"}}),
			aPeer("v6", v3.BGPPeerSpec{PeerIP: "fd01::fe", ASNumber: 64999, Filters: []string{"b", "a"}}),
		},
	}
	out := Compute(in)
	if len(out.Problems) > 0 || len(out.Peers) != 2 {
		t.Fatalf("peers %v, problems %q", out.Peers, out.Problems)
	}
	filters := out.Desired().Filters
	v4, v6 := filters[out.Peers[0].Address], filters[out.Peers[1].Address]
	if len(v4.Import) != 0 || len(v4.Export) != 2 || v4.Export[0].Prefix.String() != "10.2.0.0/16" || v4.Export[0].Outside ||
		v4.Export[1].Prefix.String() != "10.1.0.0/16" || !v4.Export[1].Outside || !v4.Export[1].Accept {
		t.Errorf("IPv4: %+v", v4)
	}
	if len(v6.Export) != 0 || len(v6.Import) != 1 || v6.Import[0].Min != 16 || v6.Import[0].Max != 16 {
		t.Errorf("IPv6: %+v", v6)
	}
}

// TestFilterThatCannotBeCarriedOutTurnsOnlyItsPeerOff names filter, field and reason.
func TestFilterThatCannotBeCarriedOutTurnsOnlyItsPeerOff(t *testing.T) {
	priority := 512
	prepend := []api.BGPFilterOperation{{PrependASPath: &api.BGPFilterPrependASPath{Prefix: []api.ASN{65000}}}}
	for _, tt := range []struct {
		name, want string
		rule       api.BGPFilterRule
		asn        api.ASN
	}{
		{"action", `spec.exportV4[0].action: "" is neither Accept nor Reject`, api.BGPFilterRule{}, 64999},
		{"cidr", `spec.exportV4[0].cidr: "fd00::/8" is no CIDR of the family`, api.BGPFilterRule{CIDR: "fd00::/8", Operator: v3.In, Action: v3.Reject}, 64999},
		{"operator", `spec.exportV4[0].matchOperator: "Is" is none of`, api.BGPFilterRule{CIDR: "10.0.0.0/8", Operator: "Is", Action: v3.Reject}, 64999},
		{
			"prepend", `spec.exportV4[0].operations: prependASPath: to a peer of another AS only this node's own AS number, 64512, can be prepended, not 65000`,
			api.BGPFilterRule{Action: v3.Accept, Operations: prepend},
			64999,
		},
		{"priority", `spec.importV4[0].priority: can't be matched on routes of a peer in the same AS`, api.BGPFilterRule{Action: v3.Reject, Priority: &priority}, 64512},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{tt.rule}}
			if strings.Contains(tt.want, "import") {
				spec = api.BGPFilterSpec{ImportV4: []api.BGPFilterRule{tt.rule}}
			}
			out := Compute(Input{
				Node: "node1", Nodes: threeNodes()[:1], Filters: []*api.BGPFilter{aFilter("f", spec)},
				Peers: []*v3.BGPPeer{
					aPeer("bad", v3.BGPPeerSpec{PeerIP: "10.1.1.253", ASNumber: tt.asn, Filters: []string{"f"}}),
					aPeer("good", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: tt.asn}),
				},
			})
			if len(out.Peers) != 1 || out.Peers[0].Name != "good" {
				t.Errorf("peers %v, want the good one", out.Peers)
			}
			want := "BGPPeer bad: BGPFilter f: " + tt.want
			if len(out.Problems) != 1 || !strings.HasPrefix(out.Problems[0], want) || !strings.HasSuffix(out.Problems[0], "; the peer is not configured") {
				t.Errorf("problems %q, want %q…", out.Problems, want)
			}
		})
	}
}

// TestNothingElseMakesTheSessionOfAPeerWithoutItsFilter: neither the mesh nor a BGPPeer
// for more nodes. One for fewer nodes does, as its say goes first.
func TestNothingElseMakesTheSessionOfAPeerWithoutItsFilter(t *testing.T) {
	in := Input{
		Node: "node1", Nodes: threeNodes()[:2],
		Peers: []*v3.BGPPeer{
			aPeer("filtered", v3.BGPPeerSpec{NodeSelector: "all()", PeerIP: "10.1.1.12", ASNumber: 64512, Filters: []string{"none"}}),
			aPeer("plain", v3.BGPPeerSpec{PeerIP: "10.1.1.12", ASNumber: 64512}),
		},
	}
	out := Compute(in)
	if len(out.Peers) != 1 || out.Peers[0].Address.String() != "fd01::12" {
		t.Errorf("peers %v, want that of the other family only", out.Peers)
	}
	want := []string{
		"BGPPeer filtered: spec.filters[0]: there is no BGPFilter none that can be read: create it, or take it out of spec.filters; the peer is not configured",
		"BGPPeer plain: 10.1.1.12 is the peer of another BGPPeer, whose filters can't be carried out; it is not configured without them",
	}
	if !slices.Equal(out.Problems, want) {
		t.Errorf("problems %q\nwant     %q", out.Problems, want)
	}
	in.Peers = append(in.Peers, aPeer("first", v3.BGPPeerSpec{Node: "node1", PeerIP: "10.1.1.12", ASNumber: 64512}))
	if out := Compute(in); len(out.Peers) != 2 || out.Peers[0].Reason != "BGPPeer first" {
		t.Errorf("peers %v, want the one for this node", out.Peers)
	}
}

// TestPrefixAdvertisements: every one that a prefix is inside of counts, by the name of
// its community or by value, and those of the node's own BGPConfiguration instead.
func TestPrefixAdvertisements(t *testing.T) {
	conf := func(name string, ads ...v3.PrefixAdvertisement) *v3.BGPConfiguration {
		c := defaultConfig(v3.BGPConfigurationSpec{
			Communities:          []v3.Community{{Name: "pods", Value: "64512:100"}, {Name: "large", Value: "64512:1:2"}},
			PrefixAdvertisements: ads,
		})[0]
		c.Name = name
		return c
	}
	all := conf("default",
		v3.PrefixAdvertisement{CIDR: "10.65.0.0/16", Communities: []string{"pods", "large", "64512:7"}},
		v3.PrefixAdvertisement{CIDR: "10.65.1.0/26", Communities: []string{"64512:7", "no such"}},
		v3.PrefixAdvertisement{CIDR: "fd65::/16", Communities: []string{"pods"}},
		v3.PrefixAdvertisement{CIDR: "nonsense", Communities: []string{"pods"}},
		v3.PrefixAdvertisement{CIDR: "10.65.1.0/27", Communities: []string{"64512:9"}})
	in := Input{Node: "node1", Nodes: threeNodes()[:1], Configs: []*v3.BGPConfiguration{all}}
	for _, b := range []string{"10.65.1.0/26", "10.65.2.0/26", "fd65:1::/122", "fd66:1::/122"} {
		in.Affinities = append(in.Affinities, affinity("node1", b, api.AffinityConfirmed))
	}
	exports := func(out Output) string {
		var got []string
		for _, e := range out.Exports {
			got = append(got, fmt.Sprint(e.Prefix, e.Communities))
		}
		return strings.Join(got, " ")
	}
	out := Compute(in)
	const want = "10.65.1.0/26[64512:7 64512:100 64512:1:2] 10.65.2.0/26[64512:7 64512:100 64512:1:2] fd65:1::/122[64512:100] fd66:1::/122[]"
	if got := strings.ReplaceAll(exports(out), " [", "["); got != want {
		t.Errorf("exports %s\nwant    %s", got, want)
	}
	problems := []string{
		`BGPConfiguration default: spec.prefixAdvertisements[1].communities[1]: "no such" is no community: want aa:nn (16 bits each) or aa:nn:mm (32 bits each); it is not added`,
		`BGPConfiguration default: spec.prefixAdvertisements[3].cidr "nonsense" is not a CIDR; it is ignored`,
	}
	if !slices.Equal(out.Problems, problems) {
		t.Errorf("problems %q\nwant     %q", out.Problems, problems)
	}
	in.Configs = append(in.Configs, conf("node.node1", v3.PrefixAdvertisement{CIDR: "10.65.0.0/16", Communities: []string{"large"}}))
	const own = "10.65.1.0/26[64512:1:2] 10.65.2.0/26[64512:1:2] fd65:1::/122[] fd66:1::/122[]"
	if got := strings.ReplaceAll(exports(Compute(in)), " [", "["); got != own {
		t.Errorf("with the node's own: exports %s\nwant %s", got, own)
	}
}

package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

// read makes the rules of a filter given as the JSON of its spec.
func read(t *testing.T, spec string, s Session) (speaker.Filter, error) {
	t.Helper()
	f := &api.BGPFilter{}
	f.Name = "f"
	if err := json.Unmarshal([]byte(spec), &f.Spec); err != nil {
		t.Fatal(err)
	}
	return Read([]*api.BGPFilter{f}, s)
}

func TestReadMakesRulesOfEveryField(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		session    Session
		want       speaker.Filter
	}{
		{
			"In with lengths narrows them",
			`{"exportV4":[{"cidr":"10.65.0.0/16","matchOperator":"In","prefixLength":{"min":8,"max":26},"action":"Accept"}]}`,
			Session{},
			speaker.Filter{Export: []speaker.Rule{{Prefix: netip.MustParsePrefix("10.65.0.0/16"), Min: 16, Max: 26, Accept: true}}},
		},
		{
			"NotIn with lengths that none has matches all, In none",
			`{"exportV4":[{"cidr":"10.65.0.0/16","matchOperator":"NotIn","prefixLength":{"max":8},"action":"Reject"},{"cidr":"10.65.0.0/16","matchOperator":"In","prefixLength":{"max":8},"action":"Reject"}]}`,
			Session{},
			speaker.Filter{Export: []speaker.Rule{{}}},
		},
		{
			"NotEqual", `{"importV6":[{"cidr":"fd65::/16","matchOperator":"NotEqual","action":"Reject"}],"importV4":[{"action":"Reject"}]}`,
			Session{IPv6: true},
			speaker.Filter{Import: []speaker.Rule{{Prefix: netip.MustParsePrefix("fd65::/16"), Min: 16, Max: 16, Outside: true}}},
		},
		{
			"what comes from a peer is from remote peers anyway",
			`{"importV4":[{"source":"RemotePeers","interface":"eth*","action":"Reject"}],"exportV4":[{"source":"RemotePeers","action":"Reject"}]}`,
			Session{},
			speaker.Filter{Import: []speaker.Rule{{Interface: "eth*"}}, Export: []speaker.Rule{{Learned: true}}},
		},
		{
			"rules for peers of another type fall away",
			`{"importV4":[{"peerType":"iBGP","action":"Reject"},{"peerType":"eBGP","asPathPrefix":[65001,65002],"action":"Accept"}]}`,
			Session{External: true},
			speaker.Filter{Import: []speaker.Rule{{ASPath: []uint32{65001, 65002}, Accept: true}}},
		},
		{
			"priority is known of what a node originates",
			`{"exportV4":[{"priority":1024,"action":"Accept"},{"priority":512,"action":"Reject"}]}`,
			Session{},
			speaker.Filter{Export: []speaker.Rule{{Accept: true}}},
		},
		{
			"and of what comes from another AS",
			`{"importV4":[{"priority":2147483547,"action":"Reject"},{"priority":1024,"action":"Reject"}]}`,
			Session{External: true},
			speaker.Filter{Import: []speaker.Rule{{}}},
		},
		{
			"operations, the later prepended before the earlier",
			`{"importV4":[{"communities":{"values":["65001:1:2"]},"action":"Accept","operations":[{"addCommunity":{"value":"1:2"}},{"prependASPath":{"prefix":[1,2]}},{"prependASPath":{"prefix":[3]}},{"setPriority":{"value":512}}]}]}`,
			Session{},
			speaker.Filter{Import: []speaker.Rule{{
				Community: speaker.Community{Large: true, A: 65001, B: 1, C: 2}, Accept: true,
				Add: []speaker.Community{{A: 1, B: 2}}, Prepend: []uint32{3, 1, 2}, LocalPref: 2147483135,
			}}},
		},
		{
			"one's own AS number is prepended to any peer",
			`{"exportV4":[{"action":"Accept","operations":[{"prependASPath":{"prefix":[64512,64512]}}]}]}`,
			Session{External: true, LocalASN: 64512},
			speaker.Filter{Export: []speaker.Rule{{Accept: true, Prepend: []uint32{64512, 64512}}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := read(t, tt.spec, tt.session)
			for _, rules := range [][]speaker.Rule{got.Import, got.Export} {
				for i := range rules {
					if !strings.HasPrefix(rules[i].Name, "BGPFilter f spec.") {
						t.Errorf("rule %d is called %q", i, rules[i].Name)
					}
					rules[i].Name = ""
				}
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func TestReadNamesWhatItRefuses(t *testing.T) {
	for _, tt := range []struct {
		spec    string
		session Session
		want    string
	}{
		{`{"exportV4":[{"action":"Accept"},{"action":"Drop"}]}`, Session{}, `BGPFilter f: spec.exportV4[1].action: "Drop"`},
		{`{"importV4":[{"action":"Reject","source":"Local"}]}`, Session{}, `spec.importV4[0].source: "Local"`},
		{`{"importV4":[{"action":"Reject","matchOperator":"In"}]}`, Session{}, `spec.importV4[0].cidr: is required`},
		{`{"importV4":[{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"Equal","prefixLength":{"min":9}}]}`, Session{}, `spec.importV4[0].prefixLength: says nothing`},
		{`{"importV4":[{"action":"Reject","communities":{"values":[]}}]}`, Session{}, `spec.importV4[0].communities: want just one`},
		{`{"importV4":[{"action":"Reject","communities":{"values":["1:65536"]}}]}`, Session{}, `spec.importV4[0].communities: "1:65536" is no community`},
		{`{"importV4":[{"action":"Reject","communities":{"values":["0:0"]}}]}`, Session{}, `spec.importV4[0].communities: community 0:0 is reserved`},
		{`{"importV4":[{"action":"Reject","peerType":"any"}]}`, Session{}, `spec.importV4[0].peerType: "any"`},
		{`{"importV4":[{"action":"Reject","priority":1}]}`, Session{}, `spec.importV4[0].priority: can't be matched`},
		{`{"exportV4":[{"action":"Reject","priority":1}]}`, Session{Transit: true}, `spec.exportV4[0].priority: a route reflector`},
		{`{"exportV4":[{"action":"Reject","operations":[{"setPriority":{"value":1}}]}]}`, Session{}, `spec.exportV4[0].operations: can't be combined`},
		{`{"exportV4":[{"action":"Accept","operations":[{}]}]}`, Session{}, `spec.exportV4[0].operations[0]: says no operation`},
		{`{"exportV4":[{"action":"Accept","operations":[{"setPriority":{"value":0}}]}]}`, Session{}, `spec.exportV4[0].operations[0].setPriority: 0 is not`},
		{`{"exportV4":[{"action":"Accept","operations":[{"prependASPath":{"prefix":[1]}}]}]}`, Session{External: true, LocalASN: 64512}, `only this node's own AS number, 64512, can be prepended, not 1`},
		{`{"importV4":[{"action":"Accept","asPathPrefix":[1],"operations":[{"prependASPath":{"prefix":[1,2]}}]}]}`, Session{}, `can't be combined with asPathPrefix`},
	} {
		if got, err := read(t, tt.spec, tt.session); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want %s", tt.spec, got, err, tt.want)
		}
	}
}

func TestFirstMatchingRuleDecides(t *testing.T) {
	f, err := read(t, `{"importV4":[
		{"cidr":"10.65.0.0/16","matchOperator":"In","prefixLength":{"min":26},"action":"Accept"},
		{"cidr":"10.65.0.0/16","matchOperator":"In","action":"Reject"},
		{"communities":{"values":["1:1"]},"action":"Reject"},
		{"interface":"eth0","action":"Reject"},
		{"asPathPrefix":[1,2],"action":"Reject"}]}`, Session{})
	if err != nil {
		t.Fatal(err)
	}
	links := []speaker.Link{{Name: "eth0", Subnet: netip.MustParsePrefix("10.1.1.0/24")}}
	for _, tt := range []struct {
		prefix, nextHop string
		path            []uint32
		community       speaker.Community
		want            string
	}{
		{"10.65.1.0/26", "10.1.1.1", nil, speaker.Community{A: 1, B: 1}, "true 0"},
		{"10.65.1.0/25", "10.1.2.1", nil, speaker.Community{}, "false 1"},
		{"10.66.1.0/26", "10.1.1.1", nil, speaker.Community{A: 1, B: 1}, "false 2"},
		{"10.66.1.0/26", "10.1.1.1", []uint32{1, 2, 3}, speaker.Community{}, "false 3"},
		{"10.66.1.0/26", "10.1.2.1", []uint32{1, 2, 3}, speaker.Community{}, "false 4"},
		{"10.66.1.0/26", "10.1.2.1", []uint32{1}, speaker.Community{A: 1, B: 2}, "true -1"},
	} {
		r := Route{Prefix: netip.MustParsePrefix(tt.prefix), NextHop: netip.MustParseAddr(tt.nextHop), ASPath: tt.path, Communities: []speaker.Community{tt.community}}
		_, accepted, by := Decide(f.Import, links, r)
		if got := fmt.Sprint(accepted, by); got != tt.want {
			t.Errorf("%+v: %s, want %s", r, got, tt.want)
		}
	}
}

func TestMatchesDevice(t *testing.T) {
	for text, want := range map[string]bool{
		"eth0 eth0": true, "eth0 eth01": false, "eth* eth01": true, "* x": true, "*.calico vxlan.calico": true, "v*.c*o vxlan.calico": true,
		"v*.c*o vxlan.calicos": false, "cali* docker0": false, "a*a a": false, "*a*b* xaxbx": true, " ": true,
	} {
		pattern, name, _ := strings.Cut(text, " ")
		if got := MatchesDevice(pattern, name); got != want {
			t.Errorf("%q means %q: %v", pattern, name, got)
		}
	}
}

// FuzzFilter: whatever filter is stored, reading it and deciding by it end, and a route
// that is rejected or that no rule matches stays as it was.
func FuzzFilter(f *testing.F) {
	f.Add([]byte(`{"exportV4":[{"cidr":"10.65.0.0/16","matchOperator":"In","prefixLength":{"min":26},"interface":"*e*","action":"Accept","operations":[{"addCommunity":{"value":"1:2"}}]}]}`), uint32(1), uint8(26), true)
	f.Add([]byte(`{"importV6":[{"cidr":"fd65::/16","matchOperator":"NotIn","asPathPrefix":[1,"1.1"],"action":"Reject"}]}`), uint32(7), uint8(64), false)
	f.Fuzz(func(t *testing.T, spec []byte, seed uint32, bits uint8, flag bool) {
		filter := &api.BGPFilter{}
		if json.Unmarshal(spec, &filter.Spec) != nil {
			return
		}
		for _, s := range []Session{{}, {IPv6: true, External: flag, LocalASN: seed}, {External: true, LocalASN: 64512, Transit: flag}} {
			rules, err := Read([]*api.BGPFilter{filter}, s)
			if err != nil {
				continue
			}
			a := netip.AddrFrom4([4]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
			r := Route{Prefix: netip.PrefixFrom(a, int(bits)%33).Masked(), NextHop: a, Own: flag, ASPath: []uint32{seed, seed}, Communities: []speaker.Community{{A: seed & 0xffff}}}
			for _, list := range [][]speaker.Rule{rules.Import, rules.Export} {
				out, accepted, by := Decide(list, []speaker.Link{{Name: "eth0", Subnet: r.Prefix}}, r)
				if (!accepted || by < 0) && !reflect.DeepEqual(out, r) {
					t.Errorf("%+v became %+v by rule %d", r, out, by)
				}
				if accepted && len(out.ASPath) < len(r.ASPath) {
					t.Errorf("the AS path of %+v became shorter: %+v", r, out)
				}
			}
		}
	})
}

package gobgp

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"tortie/bgpd/filter"
	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

// FuzzFilterIsTaken: the library takes the statements of any filter that can be read. It
// panics over those that it doesn't.
func FuzzFilterIsTaken(f *testing.F) {
	for _, spec := range []string{
		`{"exportV4":[{"cidr":"10.65.0.0/16","matchOperator":"In","prefixLength":{"min":26},"source":"RemotePeers","action":"Accept","operations":[{"addCommunity":{"value":"1:2"}},{"addCommunity":{"value":"1:2:3"}},{"prependASPath":{"prefix":[64512,64512]}},{"setPriority":{"value":7}}]}]}`,
		`{"importV4":[{"cidr":"0.0.0.0/0","matchOperator":"NotEqual","asPathPrefix":[64512,"1.1"],"interface":"eth*","action":"Reject"},{"communities":{"values":["1:2:3"]},"action":"Reject"}]}`,
		`{"importV4":[{"communities":{"values":["65535:65535"]},"action":"Accept","operations":[{"prependASPath":{"prefix":[1,2,2,4294967295]}}]}]}`,
	} {
		f.Add([]byte(spec), uint32(65001))
	}
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, spec []byte, asn uint32) {
		filter := &api.BGPFilter{}
		if json.Unmarshal(spec, &filter.Spec) != nil {
			return
		}
		p := speaker.Peer{Address: netip.MustParseAddr("10.0.0.1"), ASN: asn}
		rules, err := policy.Read([]*api.BGPFilter{filter}, policy.Session{External: asn != 64512, LocalASN: 64512})
		if err != nil {
			return
		}
		d := speaker.Desired{
			Global: speaker.Global{ASN: 64512}, Peers: []speaker.Peer{p}, Filters: map[netip.Addr]speaker.Filter{p.Address: rules},
			Links: []speaker.Link{{Name: "eth0", Subnet: netip.MustParsePrefix("10.0.0.0/24")}},
		}
		for _, withdrawing := range []map[netip.Addr]bool{nil, {p.Address: true}} {
			if err := s.setPolicies(t.Context(), d, withdrawing); err != nil {
				t.Errorf("%s: %v", spec, err)
			}
		}
	})
}

// update is the body of an UPDATE message.
func update(tb testing.TB, attrs ...bgp.PathAttributeInterface) []byte {
	tb.Helper()
	m := bgp.NewBGPUpdateMessage(nil, attrs, []*bgp.IPAddrPrefix{bgp.NewIPAddrPrefix(26, "10.65.1.0")})
	b, err := m.Body.Serialize()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// patience is for an UPDATE to be read, on a machine that is very busy.
const patience = 20 * time.Second

// FuzzImport: whatever a peer sends, reading it ends, as the library reads it and as we
// read what that made of it; and what of it may go into the kernel is a route that contract
// 3 allows.
func FuzzImport(f *testing.F) {
	path := bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{65001})})
	f.Add(update(f, bgp.NewPathAttributeOrigin(0), path, bgp.NewPathAttributeNextHop("10.0.0.1"),
		bgp.NewPathAttributeCommunities([]uint32{1}), bgp.NewPathAttributeLargeCommunities([]*bgp.LargeCommunity{bgp.NewLargeCommunity(1, 2, 3)})))
	f.Add(update(f, bgp.NewPathAttributeOrigin(0), path, bgp.NewPathAttributeMpReachNLRI("fd00::1", []bgp.AddrPrefixInterface{bgp.NewIPv6AddrPrefix(64, "fd65::")})))
	rules := []speaker.Rule{{Community: speaker.Community{A: 1}}, {ASPath: []uint32{65001}, Accept: true}}
	scope := filter.Scope{Segments: []filter.Segment{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Link: "eth0"}}}
	f.Fuzz(func(t *testing.T, body []byte) {
		hangs := time.AfterFunc(patience, func() { panic("no end of reading an UPDATE") })
		defer hangs.Stop()
		u := received(t, body)
		if u == nil {
			return
		}
		nlris := []bgp.AddrPrefixInterface{}
		for _, n := range u.NLRI {
			nlris = append(nlris, n)
		}
		for _, attr := range u.PathAttributes {
			if mp, ok := attr.(*bgp.PathAttributeMpReachNLRI); ok {
				nlris = append(nlris, mp.Value...)
			}
		}
		for _, nlri := range nlris {
			p, err := apiutil.NewPath(nlri, false, u.PathAttributes, time.Time{})
			if err != nil {
				continue
			}
			p.NeighborIp = "10.0.0.1"
			got, err := pathFromAPI(p)
			if err != nil {
				continue
			}
			if !got.Prefix.IsValid() || got.Local() {
				t.Errorf("a path without prefix or peer: %+v", got)
			}
			policy.Decide(rules, nil, policy.Route{Prefix: got.Prefix, NextHop: got.NextHop, ASPath: got.ASPath, Communities: got.Communities})
			if scope.Import(got) == "" && (got.Prefix.Bits() == 0 || !got.NextHop.IsValid() || got.Prefix.Overlaps(scope.Segments[0].Prefix)) {
				t.Errorf("accepted %+v", got)
			}
		}
	})
}

// received is an UPDATE as the library goes on with it (RFC 7606); nil where it ends the
// session. It takes every error for one of its own kind, and would crash over another.
func received(t *testing.T, body []byte) *bgp.BGPUpdate {
	t.Helper()
	handling := func(err error) bgp.ErrorHandling {
		if err == nil {
			return bgp.ERROR_HANDLING_NONE
		}
		own, ok := err.(*bgp.MessageError) //nolint:errorlint // as the library does
		if !ok {
			t.Fatalf("an error of the kind %T: %v", err, err)
		}
		return own.ErrorHandling
	}
	m, err := bgp.ParseBGPBody(&bgp.BGPHeader{Type: bgp.BGP_MSG_UPDATE, Len: uint16(len(body) + bgp.BGP_HEADER_LENGTH)}, body)
	u := m.Body.(*bgp.BGPUpdate)
	for range 2 {
		switch handling(err) {
		case bgp.ERROR_HANDLING_AFISAFI_DISABLE, bgp.ERROR_HANDLING_SESSION_RESET:
			return nil
		case bgp.ERROR_HANDLING_TREAT_AS_WITHDRAW:
			u = bgp.TreatAsWithdraw(u)
		}
		families := map[bgp.RouteFamily]bgp.BGPAddPathMode{bgp.RF_IPv4_UC: bgp.BGP_ADD_PATH_NONE, bgp.RF_IPv6_UC: bgp.BGP_ADD_PATH_NONE}
		_, err = bgp.ValidateUpdateMsg(u, families, true, false, false)
	}
	return u
}

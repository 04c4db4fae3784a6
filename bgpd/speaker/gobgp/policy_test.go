package gobgp_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
)

// The world of these tests is small, so that rules and routes meet.

const (
	ownASN      = 64512
	sourceASN   = 65001
	routeCount  = 60
	exportCount = 12
)

func links() []speaker.Link {
	return []speaker.Link{
		{Name: "eth0", Subnet: prefix("10.1.1.0/24")}, {Name: "eth1", Subnet: prefix("10.1.2.0/24")}, {Name: "bond0.7", Subnet: prefix("10.1.3.0/24")},
	}
}

func communities() []speaker.Community {
	return []speaker.Community{{A: 65001, B: 1}, {A: 65001, B: 11}, {A: 1, B: 65001}, {Large: true, A: 65001, B: 1, C: 1}, {Large: true, A: 1, B: 65001, C: 1}}
}

func somePrefix(random func(int) int) netip.Prefix {
	raw := [4]byte{10, byte(64 + random(3)), byte(random(3) * 64), byte(random(4) * 64)}
	return netip.PrefixFrom(netip.AddrFrom4(raw), 8+random(25)).Masked()
}

// some is a random part of a list, in its order.
func some[T any](random func(int) int, list []T) (out []T) {
	for _, v := range list {
		if random(3) == 0 {
			out = append(out, v)
		}
	}
	return out
}

// randomRoutes have prefixes of their own each, and so have the exports.
func randomRoutes(random func(int) int) (learned []policy.Route, own []speaker.Export) {
	taken := map[netip.Prefix]bool{}
	for len(taken) < routeCount+exportCount {
		p := somePrefix(random)
		if taken[p] {
			continue
		}
		taken[p] = true
		if len(own) < exportCount {
			own = append(own, speaker.Export{Prefix: p, Communities: some(random, communities())})
			continue
		}
		learned = append(learned, policy.Route{
			Prefix: p, ASPath: somePath(random), Communities: some(random, communities()), NextHop: someNextHop(random),
		})
	}
	return learned, own
}

func somePath(random func(int) int) []uint32 {
	path := []uint32{sourceASN}
	for range random(4) {
		path = append(path, uint32(65001+random(3)))
	}
	return path
}

func someNextHop(random func(int) int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 1, byte(1 + random(4)), byte(1 + random(200))})
}

// randomRule is any that policy.Read could make for the direction.
func randomRule(rt *rapid.T, exportTo uint32) speaker.Rule {
	random := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }
	r := speaker.Rule{Accept: random(2) == 0}
	if random(4) > 0 {
		r.Prefix = somePrefix(random)
		if random(4) == 0 {
			r.Prefix = prefix("0.0.0.0/0")
		}
		r.Min = r.Prefix.Bits() + random(33-r.Prefix.Bits())
		r.Max = r.Min + random(33-r.Min)
		r.Outside = random(4) == 0
	}
	r.Learned = exportTo != 0 && random(4) == 0
	if random(5) == 0 {
		r.Interface = []string{"eth0", "eth*", "*", "*.7", "lo"}[random(5)]
	}
	if random(3) == 0 {
		r.Community = communities()[random(len(communities()))]
	}
	if random(3) == 0 {
		r.ASPath = []uint32{sourceASN}
		for range random(3) {
			r.ASPath = append(r.ASPath, uint32(65001+random(3)))
		}
	}
	if !r.Accept {
		return r
	}
	r.Add = some(random, communities())
	if random(4) == 0 {
		r.LocalPref = uint32(1 + random(1<<31-2))
	}
	for range random(4) {
		asn := uint32(65001 + random(3))
		if len(r.ASPath) > 0 && len(r.Prepend) > 0 {
			asn = r.Prepend[0]
		}
		if exportTo != 0 && exportTo != ownASN {
			asn = ownASN
		}
		r.Prepend = append(r.Prepend, asn)
	}
	return r
}

func randomRules(rt *rapid.T, exportTo uint32) []speaker.Rule {
	rules := make([]speaker.Rule, rapid.IntRange(0, 4).Draw(rt, "rules"))
	for i := range rules {
		rules[i] = randomRule(rt, exportTo)
	}
	return rules
}

// sorted makes routes comparable: communities are a set.
func sorted(r policy.Route) string {
	c := slices.Clone(r.Communities)
	slices.SortFunc(c, speaker.Community.Compare)
	return fmt.Sprintf("%s path %v communities %v preference %d", r.Prefix, r.ASPath, slices.Compact(c), r.LocalPref)
}

// TestFiltersDoWhatTheModelSays changes filters of two live sessions again and again, and
// then the routes: what is in the table and what the other peer has been told is what
// policy.Decide makes of them, and no session is lost. The seed that rapid prints on
// failure repeats it.
func TestFiltersDoWhatTheModelSays(t *testing.T) {
	for name, sinkASN := range map[string]uint32{"to a peer of another AS": 65009, "to a peer of the same AS": ownASN} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, sinkASN)
			rapid.Check(t, func(rt *rapid.T) {
				mark := func(n byte) netip.Prefix {
					return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2 + n, b.round}), 32)
				}
				b.round++
				b.want.Exports = append(slices.Clone(b.own), speaker.Export{Prefix: mark(0)})
				b.filter = speaker.Filter{
					Import: append(markers(), randomRules(rt, 0)...), Export: append(markers(), randomRules(rt, sinkASN)...),
				}
				b.want.Filters = map[netip.Addr]speaker.Filter{addr("127.0.0.2"): {Import: b.filter.Import}, addr("127.0.0.3"): {Export: b.filter.Export}}
				if err := b.speaker.Apply(t.Context(), b.want); err != nil {
					rt.Fatal(err)
				}
				b.compare(rt, mark(0))
				// The same filters with other routes: what is no longer accepted is withdrawn.
				random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)).IntN
				for range 20 {
					r := &b.learned[random(len(b.learned))]
					r.Communities, r.ASPath, r.NextHop = some(random, communities()), somePath(random), someNextHop(random)
					b.source.announce(*r)
				}
				last := policy.Route{Prefix: mark(1), ASPath: []uint32{sourceASN}, NextHop: addr("10.1.9.1")}
				b.learned = append(b.learned[:routeCount], last)
				b.source.withdraw(b.lastMark)
				b.source.announce(last)
				b.lastMark = last.Prefix
				b.compare(rt, last.Prefix)
			})
		})
	}
}

// markers accept what tells the end of a round.
func markers() []speaker.Rule {
	return []speaker.Rule{{Prefix: prefix("192.0.2.0/23"), Min: 32, Max: 32, Accept: true}}
}

// bench is a speaker between a peer that announces and one that is told.
type bench struct {
	t            *testing.T
	speaker      *gobgp.Speaker
	source, sink *rawPeer
	sinkASN      uint32
	learned      []policy.Route
	own          []speaker.Export
	want         speaker.Desired
	filter       speaker.Filter
	round        byte
	lastMark     netip.Prefix
}

func newBench(t *testing.T, sinkASN uint32) *bench {
	b := &bench{t: t, sinkASN: sinkASN, speaker: newSpeaker(t, gobgp.Config{}), lastMark: prefix("192.0.3.255/32")}
	b.learned, b.own = randomRoutes(rand.New(rand.NewPCG(1, uint64(sinkASN))).IntN)
	port := freePort(t)
	b.want = speaker.Desired{Global: global("127.0.0.1", ownASN, port), Exports: b.own, Links: links()}
	b.want.Global.Transit = true
	for remote, asn := range map[string]uint32{"127.0.0.2": sourceASN, "127.0.0.3": sinkASN} {
		p := peer("127.0.0.1", remote, asn, port)
		p.Passive = true
		b.want.Peers = append(b.want.Peers, p)
	}
	apply(t, b.speaker, b.want)
	b.source = dialRaw(t, "127.0.0.2", "127.0.0.1", sourceASN, port)
	b.sink = dialRaw(t, "127.0.0.3", "127.0.0.1", sinkASN, port)
	for _, r := range b.learned {
		b.source.announce(r)
	}
	b.sink.until("all routes", func(heard map[netip.Prefix]policy.Route) bool { return len(heard) == routeCount+exportCount })
	return b
}

// compare waits for the mark and holds what is there against the model.
func (b *bench) compare(rt *rapid.T, mark netip.Prefix) {
	rt.Helper()
	var heard map[netip.Prefix]policy.Route
	b.sink.until("the end of a round", func(now map[netip.Prefix]policy.Route) bool {
		heard = maps.Clone(now)
		_, there := now[mark]
		return there
	})
	table, told := expected(b.want, b.filter, b.learned, b.sinkASN)
	compare(rt, "in the table", table, inTable(b.t, b.speaker))
	compare(rt, "told", told, heard)
}

// expected is what the model makes of the routes: what is learned, and what is told.
func expected(d speaker.Desired, f speaker.Filter, learned []policy.Route, sinkASN uint32) (table, told map[netip.Prefix]policy.Route) {
	table, told = map[netip.Prefix]policy.Route{}, map[netip.Prefix]policy.Route{}
	candidates := []policy.Route{}
	for _, r := range learned {
		if out, accepted, _ := policy.Decide(f.Import, d.Links, r); accepted {
			candidates = append(candidates, out)
			if out.LocalPref == 0 { // as from a peer of another AS
				out.LocalPref = 100
			}
			table[r.Prefix] = out
		}
	}
	for _, e := range d.Exports {
		candidates = append(candidates, policy.Route{Prefix: e.Prefix, Own: true, Communities: e.Communities, LocalPref: speaker.OwnPreference})
	}
	for _, r := range candidates {
		out, accepted, _ := policy.Decide(f.Export, d.Links, r)
		switch {
		case !accepted:
			continue
		case sinkASN != ownASN:
			// Our own number is put before the path as it was, the prepended ones are the same.
			out.ASPath, out.LocalPref = append([]uint32{ownASN}, out.ASPath...), 0
		case out.LocalPref == 0:
			out.LocalPref = 100
		}
		told[r.Prefix] = out
	}
	return table, told
}

func inTable(t *testing.T, s *gobgp.Speaker) map[netip.Prefix]policy.Route {
	t.Helper()
	paths, err := s.Routes(t.Context(), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[netip.Prefix]policy.Route{}
	for _, p := range paths {
		if !p.Local() {
			out[p.Prefix] = policy.Route{Prefix: p.Prefix, ASPath: p.ASPath, Communities: p.Communities, LocalPref: p.LocalPref}
		}
	}
	return out
}

func compare(rt *rapid.T, where string, want, got map[netip.Prefix]policy.Route) {
	rt.Helper()
	for p := range want {
		if r, ok := got[p]; !ok {
			rt.Errorf("%s is not %s, want %s", p, where, sorted(want[p]))
		} else if sorted(r) != sorted(want[p]) {
			rt.Errorf("%s is %s\nwant %s", sorted(r), where, sorted(want[p]))
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			rt.Errorf("%s is %s, which the filter rejects", sorted(got[p]), where)
		}
	}
}

// TestWellKnownCommunitiesAreHeeded: what another peer has announced with them; our own
// are for the peer to heed.
func TestWellKnownCommunitiesAreHeeded(t *testing.T) {
	to := func(i int) netip.Prefix { return prefix(fmt.Sprintf("198.51.100.%d/32", i)) }
	for sinkASN, want := range map[uint32]string{65009: "0 4", ownASN: "0 1 3 4"} {
		b := newBench(t, sinkASN)
		noExport := speaker.Community{A: 65535, B: 65281}
		for i, c := range []speaker.Community{{A: 1, B: 65281}, noExport, {A: 65535, B: 65282}, {A: 65535, B: 65283}} {
			b.source.announce(policy.Route{
				Prefix: to(i), ASPath: []uint32{sourceASN}, NextHop: addr("10.1.1.1"), Communities: []speaker.Community{c},
			})
		}
		// In the order of the session: the last is heard when all before it have been decided on.
		last := policy.Route{Prefix: prefix("192.0.2.1/32"), ASPath: []uint32{sourceASN}, NextHop: addr("10.1.1.1")}
		b.source.announce(last)
		b.want.Exports = append(b.want.Exports, speaker.Export{Prefix: to(4), Communities: []speaker.Community{noExport}})
		apply(t, b.speaker, b.want)
		var got []string
		b.sink.until("the last route", func(heard map[netip.Prefix]policy.Route) bool {
			got = nil
			for i := range 5 {
				if _, told := heard[to(i)]; told {
					got = append(got, fmt.Sprint(i))
				}
			}
			_, own := heard[to(4)]
			_, there := heard[last.Prefix]
			return own && there
		})
		if got := strings.Join(got, " "); got != want {
			t.Errorf("AS %d was told of routes %s, want %s", sinkASN, got, want)
		}
	}
}

// TestPeerIsNeverToldWithoutItsFilter: not when it comes, nor when it goes, nor when what
// its filter rejects is new.
func TestPeerIsNeverToldWithoutItsFilter(t *testing.T) {
	port := freePort(t)
	s := newSpeaker(t, gobgp.Config{})
	p := peer("127.0.0.1", "127.0.0.3", 65009, port)
	p.Passive = true
	d := speaker.Desired{
		Global: global("127.0.0.1", ownASN, port), Peers: []speaker.Peer{p}, Exports: []speaker.Export{{Prefix: prefix("10.65.1.0/26")}, {Prefix: prefix("10.66.1.0/26")}},
		Filters: map[netip.Addr]speaker.Filter{p.Address: {Export: []speaker.Rule{{Prefix: prefix("10.66.0.0/16"), Min: 16, Max: 32}}}},
	}
	apply(t, s, d)
	sink := dialRaw(t, "127.0.0.3", "127.0.0.1", 65009, port)
	sink.until("the export", func(heard map[netip.Prefix]policy.Route) bool { return len(heard) > 0 })
	// A new block and the filter that keeps it back come together.
	d.Exports = append(d.Exports, speaker.Export{Prefix: prefix("10.67.1.0/26")}, speaker.Export{Prefix: prefix("10.65.2.0/26")})
	d.Filters = map[netip.Addr]speaker.Filter{p.Address: {Export: []speaker.Rule{{Prefix: prefix("10.66.0.0/15"), Min: 15, Max: 32}}}}
	apply(t, s, d)
	sink.until("the second export", func(heard map[netip.Prefix]policy.Route) bool {
		_, there := heard[prefix("10.65.2.0/26")]
		return there
	})
	d.Peers, d.Filters = nil, nil
	apply(t, s, d)
	<-sink.gone
	want := map[netip.Prefix]bool{prefix("10.65.1.0/26"): true, prefix("10.65.2.0/26"): true}
	if !maps.Equal(sink.ever, want) {
		t.Errorf("told of %v, want %v", sink.ever, want)
	}
}

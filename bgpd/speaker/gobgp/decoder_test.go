package gobgp

import (
	"net/netip"
	"testing"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tortie/bgpd/speaker"
)

// learnedPath is a path as a watch tells it.
func learnedPath(prefix, peer string, learned int64) *gobgpapi.Path {
	p := exportToAPI(speaker.Export{Prefix: netip.MustParsePrefix(prefix)}, false)
	p.NeighborIp, p.SourceId, p.SourceAsn, p.Age = peer, "192.0.2.9", 64512, timestamppb.New(time.Unix(learned, 0))
	return p
}

func TestPathsThatDifferByTheirPrefixAreOne(t *testing.T) {
	var d decoder
	read := func(p *gobgpapi.Path) *speaker.Path {
		t.Helper()
		prefix, path, err := d.path(p)
		if err != nil || !prefix.IsValid() {
			t.Fatalf("prefix %s, %v", prefix, err)
		}
		return path
	}
	first := read(learnedPath("10.65.1.0/26", "10.0.0.1", 1))
	was := *first
	if again := read(learnedPath("10.65.2.0/26", "10.0.0.1", 1)); again != first {
		t.Error("a path that differs by its prefix only is read anew")
	}
	stale, withdrawn := learnedPath("10.65.3.0/26", "10.0.0.1", 1), learnedPath("10.65.3.0/26", "10.0.0.1", 1)
	stale.Stale = true
	withdrawn.Pattrs = nil
	for name, p := range map[string]*gobgpapi.Path{
		"another peer": learnedPath("10.65.3.0/26", "10.0.0.2", 1), "another time": learnedPath("10.65.3.0/26", "10.0.0.1", 2),
		"stale": stale, "other attributes": withdrawn,
	} {
		if other := read(p); other == first {
			t.Errorf("%s: taken for the path before", name)
		}
	}
	if first.Peer != was.Peer || first.Learned != was.Learned || first.Stale || first.NextHop != was.NextHop {
		t.Errorf("a path that others share has changed: %+v, was %+v", *first, was)
	}
}

func TestEqualPathsOfOnePrefixAreNotThoseOfTheNext(t *testing.T) {
	s := &Speaker{events: newEvents(time.Now, newCauses())}
	s.watchedPaths([]*gobgpapi.Path{learnedPath("10.65.1.0/26", "10.0.0.1", 1)})
	s.watchedPaths([]*gobgpapi.Path{learnedPath("10.65.2.0/26", "10.0.0.1", 1), learnedPath("10.65.2.0/26", "10.0.0.2", 1), learnedPath("10.65.2.0/26", "10.0.0.3", 1)})
	s.watchedPaths([]*gobgpapi.Path{learnedPath("10.65.3.0/26", "10.0.0.1", 1)})
	best := s.Take().Best
	for prefix, want := range map[string]int{"10.65.1.0/26": 0, "10.65.2.0/26": 2, "10.65.3.0/26": 0} {
		p := best[netip.MustParsePrefix(prefix)]
		if p == nil || !p.Best || len(p.Equals) != want || p.Peer != netip.MustParseAddr("10.0.0.1") {
			t.Fatalf("%s: %+v, want the best path and %d as good", prefix, p, want)
		}
		for i, e := range p.Equals {
			if e.Best || e.Prefix.String() != prefix || e.Peer != netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i)}) {
				t.Errorf("%s: equal path %+v", prefix, e)
			}
		}
	}
}

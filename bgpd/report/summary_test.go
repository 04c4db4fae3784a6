package report

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/bgpsummary"
	"tortie/internal/control/nodestatus"
)

func TestSummarySaysWhatRoutesStandOn(t *testing.T) {
	now := time.Unix(1000, 0)
	peer := func(name, address, kind, state string, since int64) *nodestatus.Peer {
		return &nodestatus.Peer{Resource: name, Address: address, Type: kind, State: state, Since: since, Info: "why"}
	}
	route := func(prefix, from, hop, kernel string) *nodestatus.Route {
		return &nodestatus.Route{Prefix: prefix, Peer: from, NextHop: hop, Kernel: kernel}
	}
	const mesh, ours, in = "node-to-node mesh", "node specific", "via x"
	peers := []*nodestatus.Peer{
		peer("n2", "10.0.0.2", mesh, "Established", 900), peer("n3", "10.0.0.3", mesh, "Established", 990), peer("n4", "10.0.0.4", mesh, "Active", 1),
		peer("rr", "10.0.0.8", ours, "Established", 995), peer("rr", "10.0.0.9", ours, "Established", 10),
	}
	stale := route("10.65.7.0/26", "10.0.0.2", "10.0.0.2", in)
	stale.Stale = true
	routes := []*nodestatus.Route{
		{Prefix: "10.65.1.0/26"},                                                                             // its own
		route("10.65.2.0/26", "10.0.0.2", "10.0.0.2", in),                                                    // by the mesh alone
		route("10.65.3.0/26", "10.0.0.3", "10.0.0.3", in), route("10.65.3.0/26", "10.0.0.8", "10.0.0.3", ""), // by both
		route("10.65.4.0/26", "10.0.0.4", "10.0.0.4", in),                                                    // of a session that is down
		route("10.65.5.0/26", "10.0.0.8", "10.0.0.5", in),                                                    // by one reflector
		route("10.65.6.0/26", "10.0.0.8", "10.0.0.5", in), route("10.65.6.0/26", "10.0.0.9", "10.0.0.5", ""), // by two
		stale,
		route("10.65.8.0/26", "10.0.0.8", "10.0.0.8", in), // the reflector's own
		route("10.65.9.0/26", "10.0.0.2", "10.0.0.2", ""), // not in the kernel
	}
	want := bgpsummary.Summary{
		Mesh:     bgpsummary.Group{Sessions: 3, Youngest: 10, Down: map[string]string{"10.0.0.4": "why"}},
		Peers:    map[string]bgpsummary.Group{"rr": {Sessions: 2, Youngest: 5}},
		MeshOnly: 1, Only: map[string]int{"10.0.0.8": 2}, Reflected: map[string]int{"10.0.0.5": 2}, Kept: 2,
	}
	if diff := cmp.Diff(want, summarize("", peers, routes, now)); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	want.ClusterID, want.Only = "224.0.0.1", nil
	if diff := cmp.Diff(want, summarize("224.0.0.1", peers, routes, now)); diff != "" {
		t.Errorf("summary of a reflector (-want +got):\n%s", diff)
	}
}

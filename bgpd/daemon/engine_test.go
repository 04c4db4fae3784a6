package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
)

// table is a speaker that holds what it was told and has the paths and sessions
// a test gives it.
type table struct {
	desired speaker.Desired
	paths   []speaker.Path
	states  []speaker.PeerState
	waiting speaker.Changes // for Take
	resets  []netip.Addr
	// resetErr is what Reset fails with.
	resetErr error
	in, out  map[netip.Addr][]speaker.Path
}

func (s *table) AdjIn(_ context.Context, peer netip.Addr, prefix netip.Prefix) ([]speaker.Path, error) {
	return only(s.in[peer], prefix), nil
}

func (s *table) AdjOut(_ context.Context, peer netip.Addr, prefix netip.Prefix) ([]speaker.Path, error) {
	return only(s.out[peer], prefix), nil
}

// only are the paths to one prefix; all when it is not valid.
func only(paths []speaker.Path, prefix netip.Prefix) []speaker.Path {
	var of []speaker.Path
	for _, p := range paths {
		if !prefix.IsValid() || p.Prefix == prefix {
			of = append(of, p)
		}
	}
	return of
}

func (s *table) Apply(_ context.Context, d speaker.Desired) error {
	s.desired = d
	return nil
}

func (s *table) Changed() <-chan struct{} { return nil }
func (s *table) Close() error             { return nil }

func (s *table) Take() speaker.Changes {
	defer func() { s.waiting = speaker.Changes{} }()
	return s.waiting
}

func (s *table) Reset(_ context.Context, peer netip.Addr) error {
	s.resets = append(s.resets, peer)
	return s.resetErr
}

func (s *table) Peers(context.Context) ([]speaker.PeerState, error) { return s.states, nil }

func (s *table) Routes(_ context.Context, prefix netip.Prefix) ([]speaker.Path, error) {
	var out []speaker.Path
	for _, e := range s.desired.Exports {
		out = append(out, speaker.Path{Prefix: e.Prefix, Best: true})
	}
	out = append(out, s.paths...)
	return only(out, prefix), nil
}

// bench is an engine on node1, 10.1.1.11 on eth0 with a default route, and what
// it logs.
type bench struct {
	t   *testing.T
	k   *fakekernel.Kernel
	s   *table
	e   *engine
	log bytes.Buffer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	k := fakekernel.New()
	link, err := k.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "wire"})
	for _, err := range []error{
		err, k.SetUp(link.PeerIndex), k.AddAddress(link.Index, netip.MustParsePrefix("10.1.1.11/24")),
		k.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix("10.1.2.0/24"), Protocol: kernel.ProtocolBoot, Link: link.Index,
			Gateway: netip.MustParseAddr("10.1.1.254"),
		}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{t: t, k: k, s: &table{}}
	log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	b.e = newEngine(k, b.s, log, time.Now)
	if err := b.e.fib.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) take(in topology.Input) {
	in.Node = "node1"
	b.e.take(b.t.Context(), plan{Output: topology.Compute(in)})
}

// logged is what was logged since the last call.
func (b *bench) logged() string {
	defer b.log.Reset()
	return b.log.String()
}

// service answers from the engine as it stands.
func (b *bench) service() *statusService {
	go func() {
		for {
			select {
			case f := <-b.e.calls:
				f()
			case <-b.t.Context().Done():
				return
			}
		}
	}()
	return &statusService{
		engine: b.e, node: "node1", inSync: func() bool { return true }, datastore: func() error { return nil },
	}
}

func claim(node, cidr string) *api.BlockAffinity {
	return &api.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: node + cidr},
		Spec:       api.BlockAffinitySpec{State: api.AffinityConfirmed, Type: api.AffinityHost, Node: node, CIDR: cidr},
	}
}

func TestChangedConfigurationIsLogged(t *testing.T) {
	b := newBench(t)
	node1, node2 := node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")
	rack := &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "rack"}, Spec: v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999}}
	off := false
	meshOff := []*v3.BGPConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &off}}}
	changed := rack.DeepCopy()
	changed.Spec.ASNumber = 64998
	for _, step := range []struct {
		what string
		in   topology.Input
		want string
	}{
		{
			"the start",
			topology.Input{Nodes: []*api.Node{node1, node2}},
			"level=INFO msg=\"configuration read\" asn=64512 router-id=10.1.1.11 mesh=true\n" +
				"level=INFO msg=\"peer added\" name=node2 peer=10.1.1.12 asn=64512 type=\"node-to-node mesh\"\n",
		},
		{"nothing new", topology.Input{Nodes: []*api.Node{node1, node2}}, ""},
		{
			"a BGPPeer",
			topology.Input{Nodes: []*api.Node{node1, node2}, Peers: []*v3.BGPPeer{rack}},
			"level=INFO msg=\"peer added\" name=rack peer=10.1.1.254 asn=64999 type=global\n",
		},
		{
			"the mesh switched off",
			topology.Input{Nodes: []*api.Node{node1, node2}, Peers: []*v3.BGPPeer{rack}, Configs: meshOff},
			"level=INFO msg=\"node-to-node mesh switched off\"\n" +
				"level=INFO msg=\"peer removed\" name=node2 peer=10.1.1.12\n",
		},
		{
			"the mesh switched on, and another AS number",
			topology.Input{Nodes: []*api.Node{node1, node2}, Peers: []*v3.BGPPeer{changed}},
			"level=INFO msg=\"node-to-node mesh switched on\"\n" +
				"level=INFO msg=\"peer added\" name=node2 peer=10.1.1.12 asn=64512 type=\"node-to-node mesh\"\n" +
				"level=INFO msg=\"peer changed, its session starts anew\" name=rack peer=10.1.1.254 asn=64998 type=global\n",
		},
	} {
		b.take(step.in)
		if d := gocmp.Diff(step.want, b.logged()); d != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, d)
		}
	}
}

// TestDeletedNodeGoesOnAndSaysSo: sessions and exports outlive the Node resource.
// logLines counts the lines of a log that have a text.
func logLines(log, text string) int {
	n := 0
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func TestProblemIsLoggedOnceEvenIfItStoodThereBeforeTheNode(t *testing.T) {
	b := newBench(t)
	in := topology.Input{Peers: []*v3.BGPPeer{{ObjectMeta: metav1.ObjectMeta{Name: "bad"}}}}
	b.take(in)
	for _, n := range []*api.Node{node("node1", "10.1.1.11/24"), node("node1", "10.1.1.11/24"), node("node1", "")} {
		in.Nodes = []*api.Node{n}
		b.take(in)
	}
	in.Nodes = []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")}
	b.take(in)
	if log := b.logged(); logLines(log, "BGPPeer bad") != 1 {
		t.Errorf("log:\n%s\nwant one line about BGPPeer bad", log)
	}
}

// TestUnreadableRecordIsLeftToTheSyncersLog: it stands in the status.
func TestUnreadableRecordIsLeftToTheSyncersLog(t *testing.T) {
	b := newBench(t)
	const line = "/calico/x/node2 can't be read and is ignored: broken JSON"
	b.e.take(t.Context(), plan{
		unreadable: []string{line},
		Output:     topology.Compute(topology.Input{Node: "node1", Nodes: []*api.Node{node("node1", "10.1.1.11/24")}}),
	})
	st, err := b.service().Status(t.Context(), &nodestatus.StatusRequest{})
	if err != nil || len(st.Problems) != 1 || st.Problems[0] != line {
		t.Errorf("status %v, %v; want the one problem %s", st, err, line)
	}
	if log := b.logged(); strings.Contains(log, "node2") {
		t.Errorf("logged once more:\n%s", log)
	}
}

func TestDeletedNodeGoesOnAndSaysSo(t *testing.T) {
	b := newBench(t)
	in := topology.Input{
		Nodes:      []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")},
		Affinities: []*api.BlockAffinity{claim("node1", "10.65.1.0/26")},
	}
	b.take(in)
	before := b.s.desired
	problem := func() string {
		st, err := b.service().Status(t.Context(), &nodestatus.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(st.Problems, "\n")
	}
	gone := in
	gone.Nodes = in.Nodes[1:]
	b.take(gone)
	const want = "this node's Node resource is gone: there is no Node node1: create it with its BGP address, " +
		"or set NODENAME to the name of an existing Node; until then sessions and exports stay as they were"
	if got := problem(); got != want {
		t.Errorf("problems %q, want %q", got, want)
	}
	bare := in
	bare.Nodes = []*api.Node{node("node1", ""), in.Nodes[1]}
	b.take(bare)
	if got := problem(); !strings.HasPrefix(got, "this node's Node resource can no longer be used: Node node1 has no usable BGP address") {
		t.Errorf("problems %q, want what the Node lacks", got)
	}
	if d := gocmp.Diff(before, b.s.desired, gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("the speaker was told something else:\n%s", d)
	}
	b.take(in)
	if got := problem(); got != "" {
		t.Errorf("problems %q of a node that is back", got)
	}
}

// routesBench has node2 on the segment, node3 behind the router, node4 without a
// session, and a router that is a peer.
func routesBench(t *testing.T) *bench {
	b := newBench(t)
	hidden := &v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "hidden"}, Spec: v3.IPPoolSpec{CIDR: "10.66.0.0/16", DisableBGPExport: true}}
	b.take(topology.Input{
		Nodes: []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24"), node("node3", "10.1.2.13/24"), node("node5", "10.9.9.5/24")},
		Peers: []*v3.BGPPeer{{ObjectMeta: metav1.ObjectMeta{Name: "rack"}, Spec: v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999}}},
		Pools: []*v3.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "v4"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16"}}, hidden},
		Affinities: []*api.BlockAffinity{
			claim("node1", "10.65.1.0/26"), claim("node1", "10.66.1.0/26"), claim("node2", "10.65.2.0/26"), claim("node3", "10.65.3.0/26"),
			claim("node4", "10.65.4.0/26"), claim("node5", "10.65.5.0/26"), claim("node3", "10.65.6.0/26"),
		},
		Blocks: []*api.IPAMBlock{blockWith("10.65.2.0/26", "host:node2", "node1")},
		Configs: []*v3.BGPConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{
			ServiceClusterIPs: []v3.ServiceClusterIPBlock{{CIDR: "10.96.0.0/12"}}, ServiceExternalIPs: []v3.ServiceExternalIPBlock{{CIDR: "203.0.113.7/32"}},
			ServiceLoadBalancerIPs: []v3.ServiceLoadBalancerIPBlock{{CIDR: "203.0.113.128/25"}},
		}}},
		Services: []*api.AdvertisedService{localService("web", "203.0.113.130", "node1"), localService("far", "203.0.113.131", "node2"), localService("idle", "203.0.113.132")},
	})
	node2, node3, rack := netip.MustParseAddr("10.1.1.12"), netip.MustParseAddr("10.1.2.13"), netip.MustParseAddr("10.1.1.254")
	b.s.states = []speaker.PeerState{
		{Peer: speaker.Peer{Address: node2}, State: speaker.Established},
		{Peer: speaker.Peer{Address: rack}, State: speaker.Established},
		{Peer: speaker.Peer{Address: node3}, State: speaker.Idle, Info: "connection lost"},
	}
	changes := speaker.Changes{Best: map[netip.Prefix]*speaker.Path{}}
	add := func(p speaker.Path, prefix string, from netip.Addr) {
		p.Prefix, p.Peer, p.LocalPref = netip.MustParsePrefix(prefix), from, cmp.Or(p.LocalPref, 100)
		if !p.NextHop.IsValid() {
			p.NextHop = from
		}
		if p.Best {
			best := p
			changes.Best[p.Prefix] = &best
		}
		b.s.paths = append(b.s.paths, p)
	}
	best := speaker.Path{Best: true}
	add(best, "10.65.2.0/26", node2)
	add(speaker.Path{ASPath: []uint32{64999}}, "10.65.2.0/26", rack)
	add(best, "10.65.3.0/26", node3)
	add(speaker.Path{LocalPref: 50}, "10.65.3.0/26", rack)
	add(best, "10.65.2.7/32", node3) // borrowed
	add(best, "10.65.1.9/32", node2) // borrowed of us
	add(best, "192.0.2.0/24", node2) // not the mesh's business
	add(best, "198.51.0.0/16", rack) // the fabric's
	add(speaker.Path{Best: true, NextHop: netip.MustParseAddr("10.9.9.9")}, "198.51.100.0/24", rack)
	add(speaker.Path{}, "10.65.1.0/26", rack)
	add(speaker.Path{}, "10.96.0.0/12", node2)
	add(best, "203.0.113.131/32", node2)
	add(best, "10.96.7.0/24", rack)
	b.e.fib.Update(changes, time.Now())
	return b
}

func TestRoutesSayWhatTheyAreAndWhyTheyAreNotInstalled(t *testing.T) {
	resp, err := routesBench(t).service().Routes(t.Context(), &nodestatus.RoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range resp.Routes {
		got[r.Prefix+" from "+r.Peer] = r.Reason
	}
	want := map[string]string{
		"10.65.1.0/26 from ":              "block of this node",
		"10.65.2.0/32 from ":              "address borrowed from block 10.65.2.0/26 of node2",
		"10.65.2.0/26 from 10.1.1.12":     "block of node2, node-to-node mesh",
		"10.65.2.0/26 from 10.1.1.254":    "block of node2, BGPPeer rack, loses to 10.1.1.12 by AS path length: 0, not 1",
		"10.65.3.0/26 from 10.1.2.13":     "block of node3, node-to-node mesh, via router 10.1.1.254",
		"10.65.3.0/26 from 10.1.1.254":    "block of node3, BGPPeer rack, loses to 10.1.2.13 by local preference: 100, not 50",
		"10.65.2.7/32 from 10.1.2.13":     "borrowed address of node3, from a block of node2, node-to-node mesh, via router 10.1.1.254",
		"10.65.1.9/32 from 10.1.1.12":     "borrowed address of node2, from a block of this node, node-to-node mesh",
		"192.0.2.0/24 from 10.1.1.12":     "prefix of no block, node-to-node mesh, not installed: outside every IP pool and block: from the node-to-node mesh only pods' addresses are taken",
		"198.51.0.0/16 from 10.1.1.254":   "prefix of no block, BGPPeer rack",
		"198.51.100.0/24 from 10.1.1.254": "prefix of no block, BGPPeer rack, not installed: next hop 10.9.9.9 is unreachable: no route to it",
		"10.65.1.0/26 from 10.1.1.254":    "block of this node, BGPPeer rack, loses to this node's own",

		"10.96.0.0/12 from ":              "range of service cluster addresses",
		"10.96.0.0/12 from 10.1.1.12":     "range of service cluster addresses, node-to-node mesh, loses to this node's own",
		"10.96.7.0/24 from 10.1.1.254":    "part of 10.96.0.0/12, a range of service addresses, BGPPeer rack, not installed: inside 10.96.0.0/12, a range of service addresses: kube-proxy handles them on every node",
		"203.0.113.128/25 from ":          "range of service load balancer addresses",
		"203.0.113.130/32 from ":          "service default/web, load balancer address",
		"203.0.113.131/32 from 10.1.1.12": "service default/far, load balancer address, node-to-node mesh, not installed: inside 203.0.113.128/25, a range of service addresses: kube-proxy handles them on every node",
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("reasons (-want +got):\n%s", d)
	}
}

// localService is one of policy Local.
func localService(name, loadBalancer string, nodes ...string) *api.AdvertisedService {
	s := &api.AdvertisedService{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec = api.AdvertisedServiceSpec{LoadBalancerIPs: []string{loadBalancer}, ExternalTrafficPolicy: api.TrafficPolicyLocal}
	if len(nodes) > 0 {
		s.Spec.IPv4Endpoints = &api.ServiceEndpoints{Nodes: nodes}
	}
	return s
}

func TestRoutesToAnAddress(t *testing.T) {
	s := routesBench(t).service()
	for _, tt := range []struct {
		ask  string
		want string // the prefixes, in order
		why  string // of an error
	}{
		{"10.65.3.9", "10.65.3.0/26 10.65.3.0/26", ""},
		{"10.65.2.7", "10.65.2.7/32", ""},
		{"10.65.1.0/26", "10.65.1.0/26 10.65.1.0/26", ""},
		{"198.51.100.1", "198.51.100.0/24 198.51.0.0/16", ""}, // the first is not installed
		{"192.0.2.1", "192.0.2.0/24", ""},                     // not installed, with the reason
		{"10.66.1.1", "", "no route to 10.66.1.1: it is in block 10.66.1.0/26 of this node, which its IP pool keeps from being advertised"},
		{"10.65.4.1", "", "no route to 10.65.4.1: it is in block 10.65.4.0/26 of node4, which no peer announces: this node has no session with it"},
		{"10.65.6.0/26", "", "no route to 10.65.6.0/26: it is in block 10.65.6.0/26 of node3, which no peer announces: the session with 10.1.2.13 is down, Idle: connection lost"},
		{"10.65.5.1", "", "no route to 10.65.5.1: it is in block 10.65.5.0/26 of node5, which no peer announces: the session with 10.9.9.5 is not configured in the speaker"},
		{"10.65.9.1", "", "no route to 10.65.9.1: it is in the IP pool 10.65.0.0/16, but in no block that a node has"},
		{"203.0.113.1", "", "no route to 203.0.113.1: it is outside every IP pool and block, and no peer announces it"},
		{"203.0.113.130", "203.0.113.130/32", ""},
		{"203.0.113.132", "203.0.113.128/25", ""},
		{"203.0.113.132/32", "", "no route to 203.0.113.132/32: service default/idle, load balancer address: the nodes with a ready endpoint announce it, those excepted that have the label node.kubernetes.io/exclude-from-external-load-balancers, and this node hears of none"},
		{"203.0.113.7", "", "no route to 203.0.113.7: it is in 203.0.113.7/32, a range of service addresses, and belongs to no service that is announced by itself"},
		{"10.1.1.11", "", "no route to 10.1.1.11: it is this node's own address"},
	} {
		resp, err := s.Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: tt.ask})
		if tt.why != "" {
			if st := status.Convert(err); st.Code() != codes.NotFound || st.Message() != tt.why {
				t.Errorf("%s: %v, want %q", tt.ask, err, tt.why)
			}
			continue
		}
		var got []string
		for _, r := range resp.GetRoutes() {
			got = append(got, r.Prefix)
		}
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, %v; want %s", tt.ask, got, err, tt.want)
		}
	}
}

func TestRoutesOfANodeThatWaitsSayWhatForItWaits(t *testing.T) {
	b := newBench(t)
	b.take(topology.Input{})
	s := b.service()
	_, err := s.Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "10.65.1.1"})
	if st := status.Convert(err); st.Code() != codes.NotFound || !strings.HasPrefix(st.Message(), "no route to 10.65.1.1: there is no Node node1: create it") {
		t.Errorf("error %v, want what is missing", err)
	}
	if resp, err := s.Routes(t.Context(), &nodestatus.RoutesRequest{}); err != nil || len(resp.Routes) != 0 {
		t.Errorf("all routes: %v, %v; want none", resp, err)
	}
}

func TestLostSessionIsLoggedWithTheCause(t *testing.T) {
	b := routesBench(t)
	b.logged()
	b.e.learn(t.Context(), speaker.Changes{Peers: map[netip.Addr]speaker.Session{netip.MustParseAddr("10.1.2.13"): {}}})
	const want = "level=WARN msg=\"BGP session down\" peer=10.1.2.13 name=node3 cause=\"connection lost\"\n"
	if got := b.logged(); got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
}

// A read that failed is tried again, whatever else goes well meanwhile.
func TestFailedReadOfTheKernelIsNotForgotten(t *testing.T) {
	b := newBench(t)
	b.e.planned = true
	b.k.SetFault(func(op fakekernel.Op) error {
		if op.Name == "read links" {
			return kernel.ErrDumpInterrupted
		}
		return nil
	})
	b.e.read(t.Context())
	b.e.apply(t.Context())
	if len(b.e.problems()) != 1 || b.e.readErr == nil {
		t.Errorf("problems %q, read error %v", b.e.problems(), b.e.readErr)
	}
	b.k.SetFault(nil)
	b.e.retry(t.Context())
	b.e.apply(t.Context())
	if len(b.e.problems()) != 0 {
		t.Errorf("problems %q", b.e.problems())
	}
}

// counting counts how often the kernel's routes are read.
type counting struct {
	*fakekernel.Kernel
	reads atomic.Int64
}

func (c *counting) Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error) {
	c.reads.Add(1)
	return c.Kernel.Routes(ctx, f)
}

// TestPodsComeAndGoWithoutTheKernelBeingRead: the node's own pods change nothing
// for BGP; anybody else's change may.
func TestPodsComeAndGoWithoutTheKernelBeingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &counting{Kernel: fakekernel.New()}
		e := newEngine(k, &table{}, slog.New(slog.DiscardHandler), time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.run(ctx, nil) }()
		readsWithin := func(what func() error) int64 {
			t.Helper()
			synctest.Wait()
			before := k.reads.Load()
			if err := what(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			return k.reads.Load() - before
		}

		var link kernel.Link
		pod := kernel.Route{Dst: netip.MustParsePrefix("10.65.0.2/32"), Protocol: kernel.ProtocolFelix}
		for _, step := range []struct {
			name  string
			do    func() error
			reads int64
		}{
			{"a pod's device", func() (err error) {
				link, err = k.CreateVeth(kernel.VethSpec{Host: "cali0123456789a", Peer: "cali-peer"})
				pod.Link = link.Index
				return errors.Join(err, k.SetUp(link.PeerIndex))
			}, 0},
			{"a pod's route", func() error { return k.AddRoute(pod) }, 0},
			{"the end of a pod's route", func() error { return k.DeleteRoute(pod) }, 0},
			{"a device set aside", func() error { return k.Rename(link.Index, "calx7") }, 0},
			{"a device that is no pod's any more", func() error { return k.Rename(link.Index, "eth7") }, 1},
			{"a foreign route", func() error {
				foreign := pod
				foreign.Protocol = kernel.ProtocolStatic
				return k.AddRoute(foreign)
			}, 1},
		} {
			if got := readsWithin(step.do); (got > 0) != (step.reads > 0) {
				t.Errorf("%s: the routes were read %d times, want %d", step.name, got, step.reads)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestKernelIsReadAtAPaceWhileEventsKeepComing: promptly after a quiet time, and then
// a few times a second, whatever others do on the node.
func TestKernelIsReadAtAPaceWhileEventsKeepComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &counting{Kernel: fakekernel.New()}
		e := newEngine(k, &table{}, slog.New(slog.DiscardHandler), time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.run(ctx, nil) }()
		time.Sleep(time.Second)
		before := k.reads.Load()
		link, err := k.CreateVeth(kernel.VethSpec{Host: "veth0", Peer: "veth1"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(settle + time.Millisecond)
		first := k.reads.Load() - before
		if first == 0 {
			t.Error("the first event after a quiet time was not heeded at once")
		}
		before = k.reads.Load()
		for range 200 { // for two seconds
			if err := errors.Join(k.SetDown(link.Index), k.SetUp(link.Index)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := (k.reads.Load() - before) / first; n < 6 || n > 10 {
			t.Errorf("read %d times in two seconds, want about 8", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNodeInGracefulShutdownShowsIt, in its own status and with each session that is up.
func TestNodeInGracefulShutdownShowsIt(t *testing.T) {
	b := newBench(t)
	draining := node("node1", "10.1.1.11/24")
	draining.Labels = map[string]string{api.LabelGracefulShutdown: "true"}
	b.take(topology.Input{Nodes: []*api.Node{draining, node("node2", "10.1.1.12/24"), node("node3", "10.1.1.13/24")}})
	b.s.states = []speaker.PeerState{
		{Peer: speaker.Peer{Address: netip.MustParseAddr("10.1.1.12")}, State: speaker.Established},
		{Peer: speaker.Peer{Address: netip.MustParseAddr("10.1.1.13")}, State: speaker.Idle, Info: "connection lost"},
	}
	s := b.service()
	if st, err := s.Status(t.Context(), &nodestatus.StatusRequest{}); err != nil || !st.GetGracefulShutdown() || len(st.GetProblems()) > 0 {
		t.Errorf("status %v, %v; want graceful shutdown, which is no problem", st, err)
	}
	peers, err := s.Peers(t.Context(), &nodestatus.PeersRequest{})
	if err != nil || len(peers.GetPeers()) != 2 || peers.Peers[0].GetInfo() != "graceful shutdown: the peer is asked to prefer other ways" || peers.Peers[1].GetInfo() != "connection lost" {
		t.Errorf("peers %v, %v", peers, err)
	}
}

package report

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

// node answers as bgpd does.
type node struct {
	mu    sync.Mutex
	peers []*nodestatus.Peer
	err   error
}

func (n *node) set(err error, peers ...*nodestatus.Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers, n.err = peers, err
}

func (n *node) Status(context.Context, *nodestatus.StatusRequest) (*nodestatus.StatusResponse, error) {
	return &nodestatus.StatusResponse{
		Node: "node1", Version: "v1", Started: 1_700_000_000, Configured: 1_700_000_060, RouterId: "10.0.0.1", DatastoreInSync: true,
	}, nil
}

func (n *node) Peers(context.Context, *nodestatus.PeersRequest) (*nodestatus.PeersResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &nodestatus.PeersResponse{Peers: n.peers}, n.err
}

func (n *node) Routes(context.Context, *nodestatus.RoutesRequest) (*nodestatus.RoutesResponse, error) {
	return &nodestatus.RoutesResponse{Routes: []*nodestatus.Route{
		{Prefix: "10.65.1.0/26", Best: true},
		{Prefix: "10.65.2.0/26", Peer: "10.0.0.2", NextHop: "10.0.0.2", Best: true, Kernel: "via 10.0.0.254 dev eth0"},
		{Prefix: "10.65.2.0/26", Peer: "10.0.0.9", NextHop: "10.0.0.9"},
		{Prefix: "fd65::/122", Peer: "fd00::9", NextHop: "fd00::9", Best: true},
	}}, nil
}

func up(address string) *nodestatus.Peer {
	return &nodestatus.Peer{Name: "node2", Address: address, Type: "node-to-node mesh", State: "Established", Since: 1_700_000_000}
}

// bench is a reporter of node1 on a store.
type bench struct {
	t     *testing.T
	store *memory.Store
	node  *node
}

// start runs one until the test ends; within synctest.
func start(t *testing.T) *bench {
	b := &bench{t: t, store: memory.New(api.NewRegistry()), node: &node{peers: []*nodestatus.Peer{up("10.0.0.2")}}}
	log := slog.New(slog.DiscardHandler)
	r := New(Config{Node: "node1", Client: b.store.Client(), Server: b.node, Now: time.Now, Log: log})
	syncer := datastore.NewSyncer(datastore.SyncerConfig{Client: b.store.Client(), Ranges: Ranges(), Sink: r, Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	running.Go(func() { _ = syncer.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return b
}

func (b *bench) ask(name, node string, period uint32, annotations map[string]string, classes ...v3.NodeStatusClassType) {
	b.t.Helper()
	o := &v3.CalicoNodeStatus{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec:       v3.CalicoNodeStatusSpec{Node: node, Classes: classes, UpdatePeriodSeconds: &period},
	}
	if _, _, err := datastore.NewResources(b.store.Client(), api.NewRegistry(), time.Now).Apply(b.t.Context(), o); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) get(name string) (*v3.CalicoNodeStatus, datastore.Revision) {
	b.t.Helper()
	e, err := b.store.Client().Get(b.t.Context(), api.Key{Kind: api.KindCalicoNodeStatus, Name: name})
	if err != nil {
		b.t.Fatal(err)
	}
	return e.Object.(*v3.CalicoNodeStatus), e.Revision
}

const (
	agentClass  = v3.NodeStatusClassTypeAgent
	bgpClass    = v3.NodeStatusClassTypeBGP
	routesClass = v3.NodeStatusClassTypeRoutes
)

func TestStatusIsFilledAtOnceInUpstreamsForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.node.set(nil, up("10.0.0.2"), &nodestatus.Peer{Name: "tor", Address: "10.0.0.9", Type: "global", State: "Active"},
			&nodestatus.Peer{Address: "fd00::9", Type: "node specific", State: "Idle"}, &nodestatus.Peer{Name: "bad", State: "Disabled"})
		b.ask("mine", "node1", 10, nil, agentClass, bgpClass, routesClass)
		got, _ := b.get("mine")
		daemon := v3.BGPDaemonStatus{
			State: "Ready", Version: "v1", RouterID: "10.0.0.1", LastBootTime: "2023-11-14T22:13:20Z", LastReconfigurationTime: "2023-11-14T22:14:20Z",
		}
		want := v3.CalicoNodeStatusStatus{
			LastUpdated: got.Status.LastUpdated,
			Agent:       v3.CalicoNodeAgentStatus{BIRDV4: daemon, BIRDV6: daemon},
			BGP: v3.CalicoNodeBGPStatus{
				NumberEstablishedV4: 1, NumberNotEstablishedV4: 1, NumberNotEstablishedV6: 1,
				PeersV4: []v3.CalicoNodePeer{
					{PeerIP: "10.0.0.2", Type: "NodeMesh", State: "Established", Since: "2023-11-14T22:13:20Z"},
					{PeerIP: "10.0.0.9", Type: "GlobalPeer", State: "Active"},
				},
				PeersV6: []v3.CalicoNodePeer{{PeerIP: "fd00::9", Type: "NodePeer", State: "Idle"}},
			},
			Routes: v3.CalicoNodeBGPRouteStatus{
				RoutesV4: []v3.CalicoNodeRoute{
					{Type: "FIB", Destination: "10.65.1.0/26", Gateway: "N/A", Interface: "blackhole", LearnedFrom: v3.CalicoNodeRouteLearnedFrom{SourceType: "Static"}},
					{
						Type: "FIB", Destination: "10.65.2.0/26", Gateway: "10.0.0.254", Interface: "eth0",
						LearnedFrom: v3.CalicoNodeRouteLearnedFrom{SourceType: "NodeMesh", PeerIP: "10.0.0.2"},
					},
					{Type: "RIB", Destination: "10.65.2.0/26", Gateway: "10.0.0.9", LearnedFrom: v3.CalicoNodeRouteLearnedFrom{SourceType: "BGPPeer", PeerIP: "10.0.0.9"}},
				},
				RoutesV6: []v3.CalicoNodeRoute{{Type: "RIB", Destination: "fd65::/122", Gateway: "fd00::9", LearnedFrom: v3.CalicoNodeRouteLearnedFrom{SourceType: "BGPPeer", PeerIP: "fd00::9"}}},
			},
		}
		if d := cmp.Diff(want, got.Status); d != "" {
			t.Errorf("status (-want +got):\n%s", d)
		}
		if !got.Status.LastUpdated.Time.Equal(time.Now().Truncate(time.Second)) {
			t.Errorf("lastUpdated %v at %v", got.Status.LastUpdated, time.Now())
		}
	})
}

func TestStatusIsWrittenAtItsPeriodAndOnlyWhenItChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.ask("mine", "node1", 10, nil, bgpClass)
		b.ask("others", "node2", 1, nil, bgpClass)
		b.ask("once", "node1", 0, nil, bgpClass)
		_, first := b.get("mine")
		time.Sleep(25 * time.Second)
		if _, now := b.get("mine"); now != first {
			t.Errorf("revision %d, was %d: written though nothing changed", now, first)
		}
		b.node.set(nil, up("10.0.0.2"), up("10.0.0.3"))
		time.Sleep(4 * time.Second) // 29 s
		if got, _ := b.get("mine"); len(got.Status.BGP.PeersV4) != 1 {
			t.Error("written before its period was over")
		}
		time.Sleep(2 * time.Second)
		if got, _ := b.get("mine"); len(got.Status.BGP.PeersV4) != 2 {
			t.Error("not written after its period was over")
		}
		if got, _ := b.get("once"); len(got.Status.BGP.PeersV4) != 1 {
			t.Error("period 0: written more than once")
		}
		if got, _ := b.get("others"); !got.Status.LastUpdated.IsZero() {
			t.Error("wrote another node's status")
		}
		b.ask("once", "node1", 0, nil, bgpClass, agentClass)
		if got, _ := b.get("once"); got.Status.Agent.BIRDV4.State != "Ready" {
			t.Error("what is asked for anew is not answered at once")
		}
		if _, err := b.store.Client().Txn(t.Context(), datastore.DeleteAny(api.Key{Kind: api.KindCalicoNodeStatus, Name: "mine"})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if paths := b.store.Paths("/calico/resources/v3/projectcalico.org/caliconodestatuses/mine"); len(paths) != 0 {
			t.Error("a deleted resource is back")
		}
	})
}

func TestStatusIsTriedAgainWhenBgpdOrTheDatastoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.node.set(errors.New("busy"))
		b.ask("mine", "node1", 3600, nil, bgpClass)
		if got, _ := b.get("mine"); !got.Status.LastUpdated.IsZero() {
			t.Error("a status was written that nobody gave")
		}
		b.store.SetUnavailable(true)
		b.node.set(nil, up("10.0.0.2"))
		time.Sleep(10 * time.Second)
		b.store.SetUnavailable(false)
		time.Sleep(10 * time.Second)
		if got, _ := b.get("mine"); got.Status.BGP.NumberEstablishedV4 != 1 {
			t.Errorf("status %+v after all is well", got.Status)
		}
	})
}

func TestPeersWithAllDetailsAreInTheAnnotationThatAsksForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.ask("mine", "node1", 3600, map[string]string{nodestatus.PeersAnnotation: "", "mine": "kept"}, bgpClass)
		got, _ := b.get("mine")
		peers, err := nodestatus.DecodePeers(got.Annotations[nodestatus.PeersAnnotation])
		if err != nil || len(peers.Peers) != 1 || peers.Peers[0].Name != "node2" || got.Annotations["mine"] != "kept" {
			t.Errorf("annotations %v: %v, %v", got.Annotations, peers, err)
		}
	})
}

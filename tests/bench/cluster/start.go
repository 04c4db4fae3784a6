package cluster

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/tests/bench/lightpeer"
	"tortie/tests/bench/probe"
)

const (
	// clusterSize is the number of nodes, blocksEach how many blocks each has.
	clusterSize = 1_000
	blocksEach  = 2
	// middle is the node under measurement: half of the others connect to it, the other
	// half it has to connect to.
	middle = clusterSize / 2
)

// Start is what it took one node to join a cluster.
type Start struct {
	Wall, CPU time.Duration // until all blocks of all nodes were in the kernel
	Peak      int           // bytes
}

// StartInMesh starts the agent of one node in a mesh of 1,000: 999 sessions, 1,998 blocks;
// or a BIRD in its place.
func StartInMesh(ctx context.Context, bird bool) (Start, error) { return start(ctx, true, bird) }

// StartByReflector starts it as the client of a route reflector that has all blocks.
func StartByReflector(ctx context.Context, bird bool) (Start, error) { return start(ctx, false, bird) }

func start(ctx context.Context, mesh, bird bool) (out Start, err error) {
	h, err := newHub(ctx)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	n, err := h.plug(nodeName(middle), nodeAddr(middle))
	if err != nil {
		return out, err
	}
	begin, err := h.agent(n, mesh, bird)
	if err != nil {
		return out, err
	}
	stop, err := h.others(ctx, mesh, n)
	if err != nil {
		return out, err
	}
	defer stop()
	n.want = (clusterSize - 1) * blocksEach
	if out.Wall, err = h.took("all blocks", begin, have(n)); err != nil {
		return out, err
	}
	var cpuErr, peakErr error
	out.CPU, cpuErr = probe.CPU(n.pid())
	out.Peak, peakErr = probe.Peak(n.pid())
	return out, errors.Join(cpuErr, peakErr)
}

// agent makes ready what starts the node's speaker.
func (h *hub) agent(n *node, mesh, bird bool) (begin func() error, err error) {
	if bird {
		peers := []birdPeer{{addr: reflectorAddr()}}
		if mesh {
			peers = nil
			for addr := range otherNodes() {
				peers = append(peers, birdPeer{addr, connects(addr, n.addr)})
			}
		}
		return func() error { return h.startBIRD(n, peers...) }, nil
	}
	var extra []api.Object
	if !mesh {
		extra = []api.Object{
			&v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: new(bool)}},
			&v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "reflector"}, Spec: v3.BGPPeerSpec{PeerIP: reflectorAddr().String(), ASNumber: numorstring.ASNumber(peerASN)}},
		}
	}
	all, err := Content(h.ctx, clusterOf(clusterSize, blocksEach, extra...)...)
	return func() error { return h.startNode(n, all) }, err
}

func reflectorAddr() netip.Addr { return nodeAddr(clusterSize + 1) }

// otherNodes are the numbers of the nodes beside the one in the middle.
func otherNodes() map[netip.Addr]int {
	out := map[netip.Addr]int{}
	for i := 1; i <= clusterSize; i++ {
		if i != middle {
			out[nodeAddr(i)] = i
		}
	}
	return out
}

// connects reports which of two nodes connects to the other: the one whose address is
// greater as text waits.
func connects(a, b netip.Addr) bool { return a.String() < b.String() }

// others are the cluster's other nodes, as light peers: each announces its own blocks, or
// the reflector those of all.
func (h *hub) others(ctx context.Context, mesh bool, n *node) (stop func(), err error) {
	of := otherNodes()
	announce := func(from netip.Addr, p *lightpeer.Peer) {
		for addr, i := range of {
			if mesh && addr != from {
				continue
			}
			if p.Announce(addr, block(i, 0), block(i, 1)) != nil {
				return // the session is gone; there will be another
			}
		}
		_ = p.EndOfRIB()
	}
	addrs := []netip.Addr{reflectorAddr()}
	dialing := addrs
	if mesh {
		addrs = slices.Collect(maps.Keys(of))
		dialing = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !connects(a, n.addr) })
	}
	if err := h.take(addrs...); err != nil {
		return nil, err
	}
	mac, err := h.mac()
	if err != nil {
		return nil, err
	}
	if err := n.meet(mac, addrs...); err != nil {
		return nil, err
	}
	l, err := lightpeer.Listen(h.ns, announce)
	if err != nil {
		return nil, err
	}
	end := h.sessions(ctx, dialing, n.addr, announce)
	return func() { end(); l.Close() }, nil
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/tests/bench/probe"
)

// Mesh is what a mesh of whole bgpds has shown.
type Mesh struct {
	// One is the time from a new block of one node being confirmed to its being in the
	// kernel of every other node; All that of one of every node at once.
	One, All []time.Duration
	Resident int // memory of one of them, bytes
}

// NewBlocks measures new blocks in a mesh of size bgpds on this machine.
func NewBlocks(ctx context.Context, size, rounds int) (out Mesh, err error) {
	h, err := newHub(ctx)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.mesh(size); err != nil {
		return out, err
	}
	for i := range rounds {
		took, err := h.confirm(1, h.nodes[i%size])
		if err != nil {
			return out, err
		}
		out.One = append(out.One, took)
	}
	for i := range rounds {
		took, err := h.confirm(2+i, h.nodes...)
		if err != nil {
			return out, err
		}
		out.All = append(out.All, took)
	}
	out.Resident, err = probe.Resident(h.nodes[0].pid())
	return out, err
}

// wave is how many nodes of a mesh start at once: all of them would keep one another from
// the processor until sessions are given up.
const wave = 10

// mesh starts size nodes with a block each and waits until every one knows them all.
func (h *hub) mesh(size int, extra ...api.Object) error {
	all, err := Content(h.ctx, clusterOf(size, 1, extra...)...)
	if err != nil {
		return err
	}
	for i := 1; i <= size; i++ {
		n, err := h.plug(nodeName(i), nodeAddr(i))
		if err != nil {
			return err
		}
		n.index = i
	}
	for _, n := range h.nodes {
		for _, other := range h.nodes {
			if err := n.meet(other.mac, other.addr); err != nil {
				return err
			}
		}
	}
	for started := 0; started < size; {
		next := min(started+wave, size)
		for _, n := range h.nodes[started:next] {
			if err := h.startNode(n, all); err != nil {
				return err
			}
		}
		started = next
		for _, n := range h.nodes[:started] {
			n.want = started - 1 // the others' blocks
		}
		if err := h.until(fmt.Sprintf("the mesh of %d", started), have(h.nodes[:started]...)); err != nil {
			return err
		}
	}
	return nil
}

// confirm gives nodes their k-th block and returns how long it took until it was in the
// kernel of every other node.
func (h *hub) confirm(k int, of ...*node) (time.Duration, error) {
	var told strings.Builder
	for _, owner := range of {
		text, err := Content(h.ctx, confirmed(owner.index, k))
		if err != nil {
			return 0, err
		}
		told.WriteString(text)
		for _, n := range h.nodes {
			if n != owner {
				n.want++
			}
		}
	}
	return h.took("new blocks", func() error {
		for _, n := range h.nodes {
			if _, err := io.WriteString(n.in, told.String()); err != nil {
				return err
			}
		}
		return nil
	}, have(h.nodes...))
}

// DeadNodes measures, in a mesh with BFD, how long it takes from pulling a node's cable to
// there being no route by it on any other node.
func DeadNodes(ctx context.Context, victims int) (out []time.Duration, err error) {
	h, err := newHub(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	const survivors = 3
	err = h.mesh(survivors+victims, &v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{
		Name: "default", Annotations: map[string]string{api.AnnotationBFD: "on"},
	}})
	if err != nil {
		return nil, err
	}
	if err := h.until("BFD", h.guarded); err != nil {
		return nil, err
	}
	for len(h.alive()) > survivors {
		victim := h.alive()[0]
		victim.cut = true
		for _, n := range h.alive() {
			n.want--
		}
		took, err := h.took("routes by a dead node to go", func() error { return h.cut(victim) }, have(h.alive()...))
		if err != nil {
			return nil, err
		}
		out = append(out, took)
	}
	return out, nil
}

// alive are the nodes with a cable.
func (h *hub) alive() []*node {
	return slices.DeleteFunc(slices.Clone(h.nodes), func(n *node) bool { return n.cut })
}

// guarded reports whether every node has BFD with every other one.
func (h *hub) guarded() (bool, error) {
	for _, n := range h.nodes {
		up, err := n.guards(h)
		if err != nil || up != len(h.nodes)-1 {
			return false, err
		}
	}
	return true, nil
}

// guards is how many sessions of BFD a node has up.
func (n *node) guards(h *hub) (int, error) {
	conn, err := grpc.NewClient("unix://"+n.socket(h), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	peers, err := nodestatus.NewNodeStatusClient(conn).Peers(h.ctx, &nodestatus.PeersRequest{})
	if err != nil {
		return 0, err
	}
	up := 0
	for _, p := range peers.Peers {
		if strings.HasPrefix(p.Bfd, "Up") {
			up++
		}
	}
	return up, nil
}

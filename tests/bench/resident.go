package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/tests/bench/cluster"
	"tortie/tests/bench/probe"
	"tortie/tests/lab"
)

const (
	// loadPods run on the node, loadNodes are the others, with as many blocks each.
	loadPods  = 250
	loadNodes = 999
	fewBlocks = 2
	allBlocks = 10
	loadStart = 5
	idleTime  = 30 * time.Second
	// settled is when felix has looked at its memory.
	settled = 20 * time.Second
)

// resident is felix on a full node of a large cluster.
type resident struct {
	*bench
	client *clientv3.Client
}

// residentFelix measures what felix takes there, at rest and at its start.
func residentFelix(ctx context.Context, bin string, w io.Writer) (err error) {
	spec := lab.DefaultSpec()
	spec.Name, spec.Nodes, spec.PoolV4 = "benchfelix", 1, netip.MustParsePrefix("10.64.0.0/12")
	l, err := lab.Up(ctx, spec, bin, func(step string) { fmt.Fprintln(os.Stderr, "…", step) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	client, err := etcdOf(l)
	if err != nil {
		return err
	}
	defer client.Close()
	r := &resident{bench: &bench{lab: l, bin: bin}, client: client}
	t := table.NewWriter()
	t.SetTitle(fmt.Sprintf("felix on a node with %d pods, %d other nodes", loadPods, loadNodes))
	t.AppendHeader(table.Row{"WHAT", "FELIX", "TARGET"})
	for _, part := range []func(context.Context, table.Writer) error{r.pods, r.fewBlocks, r.fewTunnels, r.allTunnels, r.starts, r.idle} {
		if err := part(ctx, t); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, t.Render())
	return nil
}

// etcdOf is a client of a lab's etcd.
func etcdOf(l *lab.Lab) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{l.EtcdEndpoint()}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return l.Dial(ctx, "node1", "tcp", strings.TrimPrefix(l.EtcdEndpoint(), "http://"))
		})},
	})
}

func (r *resident) pid() int { return r.lab.Daemon("felix", "node1").PID }

func (r *resident) pods(context.Context, table.Writer) error {
	step(fmt.Sprintf("%d pods", loadPods))
	ours, err := r.ours()
	if err != nil {
		return err
	}
	pods, err := r.sandboxes("load", loadPods)
	if err != nil {
		return err
	}
	_, err = together(pods, func(pod *lab.Pod) error { return r.ask(ours, "ADD", pod) })
	return err
}

func (r *resident) fewBlocks(ctx context.Context, t table.Writer) error {
	step(fmt.Sprintf("%d nodes with %d blocks each", loadNodes, fewBlocks))
	if err := r.write(ctx, 0, fewBlocks); err != nil {
		return err
	}
	if err := r.restart(ctx); err != nil {
		return err
	}
	size, err := r.atRest(ctx)
	t.AppendRow(table.Row{fmt.Sprintf("memory at rest, %d blocks, routed by BGP, MB", loadNodes*fewBlocks), mb(size), "≤ 60"})
	return err
}

// fewTunnels has the cluster's packets go by VXLAN, so that felix has a route to each block.
func (r *resident) fewTunnels(ctx context.Context, t table.Writer) error {
	step("… by VXLAN")
	var out strings.Builder
	err := r.lab.Exec("node1", []string{"calicoctl", "patch", "ippool", "pool-v4", "-p", `{"spec": {"vxlanMode": "Always"}}`}, lab.Stdio{Out: &out, Err: &out})
	if err != nil {
		return fmt.Errorf("calicoctl patch: %w: %s", err, out.String())
	}
	if err := r.routed(ctx, fewBlocks); err != nil {
		return err
	}
	if err := r.restart(ctx); err != nil {
		return err
	}
	size, err := r.atRest(ctx)
	t.AppendRow(table.Row{"… by VXLAN, MB", mb(size), "≤ 60"})
	return err
}

// atRest is what felix has of memory when it has given back what it started with.
func (r *resident) atRest(ctx context.Context) (int, error) {
	if err := errors.Join(sleep(ctx, settled), probe.Resting(ctx, r.pid())); err != nil {
		return 0, err
	}
	return probe.Resident(r.pid())
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func mb(bytes int) string { return fmt.Sprintf("%.1f", float64(bytes)/1e6) }

// allTunnels gives the other nodes more blocks.
func (r *resident) allTunnels(ctx context.Context, t table.Writer) error {
	step(fmt.Sprintf("%d blocks each, by VXLAN", allBlocks))
	if err := r.write(ctx, fewBlocks, allBlocks); err != nil {
		return err
	}
	if err := r.routed(ctx, allBlocks); err != nil {
		return err
	}
	size, err := r.atRest(ctx)
	t.AppendRow(table.Row{fmt.Sprintf("… %d blocks, by VXLAN, MB", loadNodes*allBlocks), mb(size), ""})
	return err
}

// routed waits for the route to every block, of so many a node.
func (r *resident) routed(ctx context.Context, blocks int) error {
	return probe.Until(ctx, func() (bool, error) {
		n, err := probe.Routes(r.pid())
		return n >= loadNodes*blocks+loadPods, err
	})
}

// starts measures from the start of the process to the first answer to a STATUS that says
// it takes pods, and counts what is written of the node's network meanwhile.
func (r *resident) starts(ctx context.Context, t table.Writer) error {
	step("starts of felix")
	var took sample
	changes := 0
	for range loadStart {
		watch, err := watchWritten(r.lab, "node1")
		if err != nil {
			return err
		}
		began := time.Now()
		err = r.restart(ctx)
		took = append(took, time.Since(began))
		if err = errors.Join(err, probe.Resting(ctx, r.pid()), watch.stop()); err != nil {
			return err
		}
		if changes += watch.n; watch.n > 0 {
			fmt.Fprintf(os.Stderr, "… written at a start: %d, last %s\n", watch.n, watch.last)
		}
	}
	t.AppendRow(table.Row{fmt.Sprintf("start → takes pods, %d routes there, ms", loadNodes*allBlocks+loadPods), took, "≤ 1,000"})
	t.AppendRow(table.Row{fmt.Sprintf("… changes of the node's network meanwhile, %d starts", loadStart), changes, "0"})
	return nil
}

// restart ends felix, however, and waits until it takes pods again.
func (r *resident) restart(ctx context.Context) error {
	if err := r.lab.KillDaemon("felix", "node1", syscall.SIGKILL); err != nil {
		return err
	}
	if err := r.lab.StartDaemon("felix", "node1"); err != nil {
		return err
	}
	ours, err := r.ours()
	if err != nil {
		return err
	}
	return probe.Until(ctx, func() (bool, error) {
		return r.ask(ours, "STATUS", &lab.Pod{Node: "node1", Namespace: "default", Name: "none"}) == nil, nil
	})
}

func (r *resident) idle(ctx context.Context, t table.Writer) error {
	step("felix at rest")
	before, err := probe.CPU(r.pid())
	if err != nil {
		return err
	}
	if err := sleep(ctx, idleTime); err != nil {
		return err
	}
	after, err := probe.CPU(r.pid())
	t.AppendRow(table.Row{"processor at rest, % of one", fmt.Sprintf("%.2f", 100*(after-before).Seconds()/idleTime.Seconds()), "< 0.5"})
	return err
}

// write puts the other nodes' blocks from the one to before the other into the store.
func (r *resident) write(ctx context.Context, from, to int) error {
	var objects []api.Object
	for i := range loadNodes {
		if from == 0 {
			objects = append(objects, loadNode(i))
		}
		for k := from; k < to; k++ {
			objects = append(objects, loadBlock(i, k)...)
		}
	}
	text, err := cluster.Content(ctx, objects...)
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		ops = append(ops, clientv3.OpPut(key, value))
	}
	for some := range slices.Chunk(ops, 100) {
		if _, err := r.client.Txn(ctx).Then(some...).Commit(); err != nil {
			return fmt.Errorf("write the cluster's nodes and blocks: %w", err)
		}
	}
	return nil
}

func loadName(i int) string { return fmt.Sprintf("other%d", i) }

// loadNode is another node, behind the router, with the address of its tunnel.
func loadNode(i int) api.Object {
	return &api.Node{ObjectMeta: metav1.ObjectMeta{Name: loadName(i)}, Spec: api.NodeSpec{
		BGP:                 &api.NodeBGPSpec{IPv4Address: fmt.Sprintf("10.201.%d.%d/24", i/250, i%250+1)},
		IPv4VXLANTunnelAddr: loadPrefix(i, 0).Addr().String(),
	}}
}

// loadPrefix is the k-th block of another node, in the second half of the pool.
func loadPrefix(i, k int) netip.Prefix {
	n := uint32(10)<<24 | 68<<16 + uint32(i*allBlocks+k)<<6
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 26)
}

// loadBlock is a block with the claim to it, and its first address in use.
func loadBlock(i, k int) []api.Object {
	affinity, cidr := api.HostAffinity(loadName(i)), loadPrefix(i, k)
	stored, handle, first := "host:"+loadName(i), "vxlan-tunnel-addr-"+loadName(i), 0
	block := api.IPAMBlockSpec{
		CIDR: cidr.String(), Affinity: &stored, Allocations: make([]*int, 64),
		Attributes: []api.BlockAttributes{{HandleID: &handle}}, SequenceNumberForAllocation: map[string]uint64{"0": 1},
	}
	block.Allocations[0] = &first
	for n := 1; n < 64; n++ {
		block.Unallocated = append(block.Unallocated, n)
	}
	key := api.BlockAffinityKey(affinity, cidr)
	return []api.Object{
		&api.BlockAffinity{ObjectMeta: metav1.ObjectMeta{Name: key.Name}, Spec: api.BlockAffinitySpec{
			State: api.AffinityConfirmed, Type: api.AffinityHost, Node: loadName(i), CIDR: cidr.String(),
		}},
		&api.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: api.BlockKey(cidr).Name}, Spec: block},
	}
}

// Package cluster measures bgpd as one node of many: how long it takes until a node has
// joined, a block is known everywhere and a dead node is out of the way, and what sessions
// and time cost in memory.
//
// Nodes under measurement are whole bgpds, each a process in a network namespace of its
// own on one bridge. Their datastore is in their memory and told everything by the bench,
// as a watch would. The rest of the cluster are light peers.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/kernel"
	"tortie/tests/bench/lightpeer"
	"tortie/tests/bench/probe"
)

// The arguments with which the bench's program is a bgpd; see ServeNode and ServeRouter.
const (
	NodeCommand   = "serve-node"
	RouterCommand = "serve-router"
)

const (
	// segmentBits is the length of the one segment's prefix.
	segmentBits = 16
	peerASN     = lightpeer.ASN
)

// hub is a segment: a bridge in a namespace, in which the light peers live as well.
type hub struct {
	ctx   context.Context
	dir   string
	ns    *kernel.Netns
	nodes []*node
}

// node is a bgpd.
type node struct {
	name string
	addr netip.Addr
	ns   *kernel.Netns
	port string // its port of the bridge
	cmd  *exec.Cmd
	in   io.WriteCloser
	log  string
	mac  net.HardwareAddr
	// index is its number in a mesh, base how many routes it had before it was started, want
	// how many more it is to have, cut whether its cable was pulled.
	index, base, want int
	cut               bool
}

// nodeAddr is the address of the i-th node of a cluster, from 1 on.
func nodeAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 200, byte(i / 250), byte(i%250 + 1)})
}

func nodeName(i int) string { return fmt.Sprintf("node%d", i) }

// block is the k-th block of the i-th node.
func block(i, k int) netip.Prefix {
	n := uint32(10)<<24 | 64<<16 | uint32(i*8+k)<<6
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 26)
}

func newHub(ctx context.Context) (h *hub, err error) {
	h = &hub{ctx: ctx}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.dir, err = os.MkdirTemp("", "tortie-cluster"); err != nil {
		return h, err
	}
	if h.ns, err = kernel.CreateNetns(); err != nil {
		return h, err
	}
	return h, h.ns.Do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "segment"}}
		return errors.Join(loopbackUp(), netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge))
	})
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// take gives the light peers an address on the segment.
func (h *hub) take(addrs ...netip.Addr) error {
	return h.ns.Do(func() error {
		bridge, err := netlink.LinkByName("segment")
		if err != nil {
			return err
		}
		for _, a := range addrs {
			parsed, err := netlink.ParseAddr(netip.PrefixFrom(a, segmentBits).String())
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(bridge, parsed); err != nil {
				return fmt.Errorf("add address %s: %w", a, err)
			}
		}
		return nil
	})
}

// plug makes the namespace of a node, on the segment.
func (h *hub) plug(name string, addr netip.Addr) (*node, error) {
	n := &node{name: name, addr: addr, port: "to-" + name, log: filepath.Join(h.dir, name+".log")}
	var err error
	if n.ns, err = kernel.CreateNetns(); err != nil {
		return nil, err
	}
	h.nodes = append(h.nodes, n)
	near, err := h.ns.Open()
	if err != nil {
		return nil, err
	}
	defer near.Close()
	if _, err := near.CreateVeth(kernel.VethSpec{Host: n.port, Peer: "eth0", PeerNetns: n.ns}); err != nil {
		return nil, err
	}
	err = h.ns.Do(func() error {
		bridge, err := netlink.LinkByName("segment")
		if err != nil {
			return err
		}
		port, err := netlink.LinkByName(n.port)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port))
	})
	if err != nil {
		return nil, err
	}
	return n, n.ns.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		parsed, err := netlink.ParseAddr(netip.PrefixFrom(addr, segmentBits).String())
		if err != nil {
			return err
		}
		n.mac = eth0.Attrs().HardwareAddr
		if err := errors.Join(loopbackUp(), netlink.AddrAdd(eth0, parsed), netlink.LinkSetUp(eth0)); err != nil {
			return err
		}
		n.base, err = probe.RoutesHere()
		return err
	})
}

// meet tells a node who on the segment has which addresses. The kernel of this machine
// holds no more than 1,024 neighbours that it has found out itself, of all namespaces.
func (n *node) meet(mac net.HardwareAddr, addrs ...netip.Addr) error {
	return n.ns.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range addrs {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
			})
			if err != nil {
				return fmt.Errorf("set neighbour %s: %w", a, err)
			}
		}
		return nil
	})
}

// mac is that of the light peers.
func (h *hub) mac() (mac net.HardwareAddr, err error) {
	err = h.ns.Do(func() error {
		bridge, err := netlink.LinkByName("segment")
		if err == nil {
			mac = bridge.Attrs().HardwareAddr
		}
		return err
	})
	return mac, err
}

// start runs this program in the node's namespace.
func (h *hub) start(n *node, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return h.run(n, exec.CommandContext(h.ctx, self, args...))
}

// run runs a program in the node's namespace, in the place of a bgpd.
func (h *hub) run(n *node, cmd *exec.Cmd) error {
	n.cmd = cmd
	log, err := os.Create(n.log)
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		return err
	}
	return n.ns.Do(n.cmd.Start)
}

// startNode runs a node's bgpd with what is in the datastore.
func (h *hub) startNode(n *node, content string) error {
	if err := h.start(n, NodeCommand, n.name, n.socket(h)); err != nil {
		return err
	}
	_, err := io.WriteString(n.in, content+"\n")
	return err
}

func (n *node) socket(h *hub) string { return filepath.Join(h.dir, n.name+".sock") }

func (n *node) pid() int { return n.cmd.Process.Pid }

// cut pulls a node's cable.
func (h *hub) cut(n *node) error {
	return h.ns.Do(func() error {
		port, err := netlink.LinkByName(n.port)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(port)
	})
}

// close ends and removes everything.
func (h *hub) close() error {
	for _, n := range h.nodes {
		if n.cmd != nil && n.cmd.Process != nil {
			_ = n.cmd.Process.Kill()
		}
	}
	for _, n := range h.nodes {
		if n.cmd != nil && n.cmd.Process != nil {
			_ = n.cmd.Wait() // it was killed
		}
		n.ns.Close()
	}
	if h.ns != nil {
		h.ns.Close()
	}
	return os.RemoveAll(h.dir)
}

// until waits, and says what the nodes have logged when that is in vain.
func (h *hub) until(what string, done func() (bool, error)) error {
	err := probe.Until(h.ctx, done)
	if err == nil {
		return nil
	}
	var said strings.Builder
	for _, n := range h.nodes[:min(len(h.nodes), 3)] {
		if text, readErr := os.ReadFile(n.log); readErr == nil && len(text) > 0 {
			fmt.Fprintf(&said, "\n%s: %s", n.name, text[max(0, len(text)-2000):])
		}
	}
	return fmt.Errorf("wait for %s: %w%s", what, err, said.String())
}

// have reports whether each node's kernel has just as many routes by BGP as are wanted.
func have(nodes ...*node) func() (bool, error) {
	return func() (bool, error) {
		for _, n := range nodes {
			if have, err := n.routes(); err != nil || have != n.want {
				return false, err
			}
		}
		return true, nil
	}
}

// routes is how many came since the node was started.
func (n *node) routes() (int, error) {
	have, err := probe.Routes(n.pid())
	return have - n.base, err
}

// took is how long something takes from now on.
func (h *hub) took(what string, do func() error, done func() (bool, error)) (time.Duration, error) {
	began := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	err := h.until(what, done)
	return time.Since(began), err
}

// Content is what a datastore holds with these objects in it, as ServeNode reads it.
func Content(ctx context.Context, objects ...api.Object) (string, error) {
	registry := api.NewRegistry()
	store := memory.New(registry)
	for _, o := range objects {
		key, err := registry.KeyOf(o)
		if err != nil {
			return "", err
		}
		if _, err := store.Txn(ctx, datastore.Create(key, o)); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	for _, path := range store.Paths("/") {
		value, _ := store.RawGet(path)
		fmt.Fprintf(&b, "%s %s\n", path, value)
	}
	return b.String(), nil
}

// clusterOf are the resources of n nodes with as many blocks each.
func clusterOf(n, blocks int, extra ...api.Object) []api.Object {
	out := append([]api.Object{
		&v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v3.IPPoolSpec{CIDR: "10.64.0.0/12", BlockSize: 26}},
	}, extra...)
	for i := 1; i <= n; i++ {
		out = append(out, &api.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}, Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{
			IPv4Address: netip.PrefixFrom(nodeAddr(i), segmentBits).String(),
		}}})
		for k := range blocks {
			out = append(out, confirmed(i, k))
		}
	}
	return out
}

// confirmed is the i-th node's claim to its k-th block.
func confirmed(i, k int) *api.BlockAffinity {
	key := api.BlockAffinityKey(api.HostAffinity(nodeName(i)), block(i, k))
	return &api.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec:       api.BlockAffinitySpec{State: api.AffinityConfirmed, Type: api.AffinityHost, Node: nodeName(i), CIDR: block(i, k).String()},
	}
}

package repair_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/datastore/etcd/etcdtest"
	"tortie/internal/datastore/memory"
	"tortie/ipam"
	"tortie/ipam/check"
	"tortie/ipam/proof"
	"tortie/ipam/repair"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// The paths of the store of world.
const (
	root      = "/calico/ipam/v2/"
	blockA    = root + "assignment/ipv4/block/10.65.0.0-30"
	blockB    = root + "assignment/ipv4/block/10.65.0.4-30"
	block6    = root + "assignment/ipv6/block/fd65::-126"
	handle1   = root + "handle/net.c1"
	handle2   = root + "handle/net.c2"
	affinityA = root + "host/a/ipv4/block/10.65.0.0-30"
	affinityB = root + "host/b/ipv4/block/10.65.0.4-30"
	affinity6 = root + "host/a/ipv6/block/fd65::-126"
	resources = "/calico/resources/v3/projectcalico.org/"
	endpoint1 = resources + "workloadendpoints/ns1/a-k8s-pod1-eth0"
	endpoint3 = resources + "workloadendpoints/ns1/a-k8s-pod3-eth0"
	endpoint2 = resources + "workloadendpoints/ns1/b-k8s-pod2-eth0"
	loans     = "/calico/tortie/v1/loans/"
	confirmed = `{"state":"confirmed","deleted":false}`
)

// cluster is what Kubernetes says, in the form in which check and repair ask for it.
type cluster check.Kubernetes

func (c *cluster) Pod(_ context.Context, namespace, name string) (*proof.Pod, error) {
	if p, ok := c.Pods[namespace+"/"+name]; ok {
		return &p, nil
	}
	return nil, nil
}

func (c *cluster) HasNode(_ context.Context, name string) (bool, error) { return c.Nodes[name], nil }

// raw is a store as a foreign program sees it.
type raw interface {
	RawPut(path string, value []byte) datastore.Revision
	RawGet(path string) ([]byte, bool)
	RawDelete(path string) bool
	Paths(prefix string) []string
}

// onEtcd is a real etcd in the way of the store in memory.
type onEtcd struct{ *etcdtest.Raw }

func (e onEtcd) RawPut(path string, value []byte) datastore.Revision { e.Put(path, value); return 0 }
func (e onEtcd) RawGet(path string) ([]byte, bool)                   { return e.Get(path) }
func (e onEtcd) RawDelete(path string) bool {
	_, ok := e.Get(path)
	e.Delete(path)
	return ok
}

// world is a healthy store of two nodes and two pods, one of them with both IP versions.
type world struct {
	*testing.T
	reg    *api.Registry
	mem    raw
	client datastore.Client
	// memory is the store in memory, if it is one.
	memory *memory.Store
	kube   *cluster
}

func newWorld(t *testing.T) *world {
	reg := api.NewRegistry()
	mem := memory.New(reg)
	return worldOn(t, reg, mem, mem, mem)
}

func worldOn(t *testing.T, reg *api.Registry, store raw, client datastore.Client, mem *memory.Store) *world {
	w := &world{T: t, reg: reg, mem: store, client: client, memory: mem, kube: &cluster{
		Pods:  map[string]proof.Pod{"ns1/pod1": {Node: "a", IPs: []string{"10.65.0.1", "fd65::2"}}, "ns1/pod2": {Node: "b", IPs: []string{"10.65.0.4"}}},
		Nodes: map[string]bool{"a": true, "b": true},
	}}
	w.put(resources+"ippools/p", `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},"spec":{"cidr":"10.65.0.0/24","blockSize":30,"nodeSelector":"all()"}}`)
	w.put(resources+"ippools/p6", `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"p6"},"spec":{"cidr":"fd65::/112","blockSize":126,"nodeSelector":"all()"}}`)
	for _, node := range []string{"a", "b"} {
		w.put(resources+"nodes/"+node, `{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"`+node+`"},"spec":{"orchRefs":[{"nodeName":"`+node+`","orchestrator":"k8s"}]},"status":{}}`)
	}
	w.put(blockA, blockText("10.65.0.0/30", "a", holder{1, "net.c1", "a", "pod1"}))
	w.put(block6, blockText("fd65::/126", "a", holder{2, "net.c1", "a", "pod1"}))
	w.put(blockB, blockText("10.65.0.4/30", "b", holder{0, "net.c2", "b", "pod2"}))
	w.put(handle1, `{"block":{"10.65.0.0/30":1,"fd65::/126":1},"deleted":false}`)
	w.put(handle2, `{"block":{"10.65.0.4/30":1},"deleted":false}`)
	for _, path := range []string{affinityA, affinityB, affinity6} {
		w.put(path, confirmed)
	}
	w.put(endpoint1, endpointText("a", "pod1", "c1", "10.65.0.1/32", "fd65::2/128"))
	w.put(endpoint2, endpointText("b", "pod2", "c2", "10.65.0.4/32"))
	return w
}

func (w *world) put(path, value string) { w.mem.RawPut(path, []byte(value)) }

// edit replaces a text in a value.
func (w *world) edit(path, old, with string) {
	w.Helper()
	value, ok := w.mem.RawGet(path)
	if !ok || !bytes.Contains(value, []byte(old)) {
		w.Fatalf("%s has no %q: %s", path, old, value)
	}
	w.put(path, strings.Replace(string(value), old, with, 1))
}

func (w *world) delete(path string) {
	w.Helper()
	if !w.mem.RawDelete(path) {
		w.Fatalf("%s is not there", path)
	}
}

// lend gives a pod on node a an address of b's block, as a program does that knows nothing
// of loans.
func (w *world) lend() {
	w.Helper()
	w.put(blockB, blockText("10.65.0.4/30", "b", holder{0, "net.c2", "b", "pod2"}, holder{1, "net.c3", "a", "pod3"}))
	w.put(root+"handle/net.c3", `{"block":{"10.65.0.4/30":1},"deleted":false}`)
	w.put(endpoint3, endpointText("a", "pod3", "c3", "10.65.0.5/32"))
	w.kube.Pods["ns1/pod3"] = proof.Pod{Node: "a", IPs: []string{"10.65.0.5"}}
}

type holder struct {
	ordinal           int
	handle, node, pod string
}

// blockText is a block of four addresses.
func blockText(cidr, owner string, holders ...holder) string {
	allocations, unallocated := []string{"null", "null", "null", "null"}, []string{"0", "1", "2", "3"}
	var attributes, sequences []string
	for i, h := range holders {
		allocations[h.ordinal] = fmt.Sprint(i)
		unallocated = slices.DeleteFunc(unallocated, func(s string) bool { return s == fmt.Sprint(h.ordinal) })
		attributes = append(attributes, fmt.Sprintf(`{"handle_id":%q,"secondary":{"namespace":"ns1","node":%q,"pod":%q}}`, h.handle, h.node, h.pod))
		sequences = append(sequences, fmt.Sprintf(`"%d":7`, h.ordinal))
	}
	affinity := "null"
	if owner != "" {
		affinity = `"host:` + owner + `"`
	}
	return fmt.Sprintf(`{"cidr":%q,"affinity":%s,"allocations":[%s],"unallocated":[%s],"attributes":[%s],"sequenceNumber":8,"sequenceNumberForAllocation":{%s},"deleted":false}`,
		cidr, affinity, strings.Join(allocations, ","), strings.Join(unallocated, ","), strings.Join(attributes, ","), strings.Join(sequences, ","))
}

func endpointText(node, pod, container string, networks ...string) string {
	return fmt.Sprintf(`{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"%s-k8s-%s-eth0","namespace":"ns1"},`+
		`"spec":{"orchestrator":"k8s","node":%q,"containerID":%q,"pod":%q,"endpoint":"eth0","ipNetworks":["%s"]}}`,
		node, pod, node, container, pod, strings.Join(networks, `","`))
}

func (w *world) bytes() map[string]string {
	all := map[string]string{}
	for _, path := range w.mem.Paths("/calico/") {
		if strings.HasPrefix(path, "/calico/tortie/v1/history/") {
			continue // what happened stays known when it is undone
		}
		value, _ := w.mem.RawGet(path)
		all[path] = string(value)
	}
	return all
}

func (w *world) check() check.Result {
	w.Helper()
	in, err := check.Read(w.Context(), w.client)
	if err != nil {
		w.Fatal(err)
	}
	if w.kube != nil {
		kube := check.Kubernetes(*w.kube)
		in.Kubernetes = &kube
	}
	return check.Check(in)
}

// found lists findings as "kind: where".
func found(list []check.Finding) []string {
	out := []string{}
	for _, f := range list {
		out = append(out, string(f.Kind)+": "+f.Where)
	}
	return out
}

// repair mends all that can be mended and returns the undo file and what was changed.
func (w *world) repair() (undo []byte, changed []string) {
	w.Helper()
	var file bytes.Buffer
	rec, err := repair.NewRecorder(&file, w.reg, "guid", time.Unix(0, 0))
	if err != nil {
		w.Fatal(err)
	}
	what := ""
	m := repair.Mender{Client: &repair.Journal{
		Client: w.client,
		Before: func(changes []repair.Change) error {
			for _, c := range changes {
				changed = append(changed, c.String())
			}
			return rec.Record(what, changes)
		},
		Failed: func() { _ = rec.Cancel() },
	}}
	if w.kube != nil {
		m.Kubernetes = w.kube
	}
	for _, f := range w.check().Findings {
		if !f.Mendable {
			continue
		}
		what = f.What
		if err := m.Mend(w.Context(), f); err != nil && !errors.Is(err, repair.ErrChanged) {
			w.Errorf("mend %s %s: %v", f.Kind, f.Where, err)
		}
	}
	return file.Bytes(), changed
}

func (w *world) undo(file []byte) (refused []string) {
	w.Helper()
	u, err := repair.ReadUndo(bytes.NewReader(file), w.reg)
	if err != nil {
		w.Fatal(err)
	}
	err = u.Apply(w.Context(), w.client, w.reg, false, func(d repair.Undone) {
		if d.Refused != nil {
			refused = append(refused, d.Refused.Error())
		}
	})
	if err != nil {
		w.Fatal(err)
	}
	return refused
}

type damage struct {
	name   string
	make   func(w *world)
	want   []string // what check finds, as "kind: where"
	change []string // what fsck changes
	left   []string // what check finds afterwards; nil for nothing
}

func damages() []damage {
	return []damage{
		{
			name: "pod gone without a release",
			make: func(w *world) { w.delete(endpoint1); delete(w.kube.Pods, "ns1/pod1") },
			want: []string{"leaked addresses: 10.65.0.1, fd65::2"},
			change: []string{
				"IPAMBlock(10.65.0.0/30): 10.65.0.1 released", "IPAMBlock(fd65::/126): fd65::2 released",
				"IPAMHandle(net.c1): deleted, it counted 1 in 10.65.0.0/30, 1 in fd65::/126",
			},
		},
		{
			name:   "pod gone, and its handle",
			make:   func(w *world) { w.delete(endpoint2); w.delete(handle2); delete(w.kube.Pods, "ns1/pod2") },
			want:   []string{"leaked addresses: 10.65.0.4", "addresses whose handle is missing: IPAMHandle(net.c2)"},
			change: []string{"IPAMBlock(10.65.0.4/30): 10.65.0.4 released"},
		},
		{
			name: "pod on another node now",
			make: func(w *world) {
				w.delete(endpoint2)
				w.kube.Pods["ns1/pod2"] = proof.Pod{Node: "a", IPs: []string{"10.65.0.9"}}
			},
			want:   []string{"leaked addresses: 10.65.0.4"},
			change: []string{"IPAMBlock(10.65.0.4/30): 10.65.0.4 released", "IPAMHandle(net.c2): deleted, it counted 1 in 10.65.0.4/30"},
		},
		{
			name: "container that is no pod",
			make: func(w *world) {
				w.delete(endpoint2)
				delete(w.kube.Pods, "ns1/pod2")
				w.edit(blockB, `"namespace":"ns1","node":"b","pod":"pod2"`, `"node":"b"`)
			},
			want: []string{"leaked addresses: 10.65.0.4"},
			left: []string{"leaked addresses: 10.65.0.4"},
		},
		{
			name: "node gone",
			make: func(w *world) {
				w.delete(resources + "nodes/b")
				w.delete(endpoint2)
				delete(w.kube.Nodes, "b")
			},
			want: []string{"node that is gone: node b"},
			change: []string{
				"IPAMBlock(10.65.0.4/30): 10.65.0.4 released", "IPAMHandle(net.c2): deleted, it counted 1 in 10.65.0.4/30",
				"BlockAffinity(host:b/10.65.0.4/30): pendingDeletion, not confirmed",
				"IPAMBlock(10.65.0.4/30): deleted", "BlockAffinity(host:b/10.65.0.4/30): deleted",
			},
		},
		{
			name: "node gone with an endpoint left",
			make: func(w *world) { w.delete(resources + "nodes/b"); delete(w.kube.Nodes, "b") },
			want: []string{"node that is gone: node b"},
			left: []string{"node that is gone: node b"},
		},
		{
			name: "node unknown here that Kubernetes has",
			make: func(w *world) { w.delete(resources + "nodes/b") },
			want: []string{},
		},
		{
			name: "address of a load balancer",
			make: func(w *world) {
				w.put(root+"assignment/ipv4/block/10.65.0.32-30", strings.NewReplacer("host:x", "virtual:load-balancer", `"namespace":"ns1","node":"","pod":""`,
					`"node":"virtual:load-balancer","service":"ns1/web"`).Replace(blockText("10.65.0.32/30", "x", holder{0, "lb-1", "", ""})))
				w.put(root+"virtual/load-balancer/ipv4/block/10.65.0.32-30", confirmed)
				w.put(root+"handle/lb-1", `{"block":{"10.65.0.32/30":1},"deleted":false}`)
				w.kube.LoadBalancers = map[netip.Addr]string{netip.MustParseAddr("10.65.0.32"): "ns1/web"}
			},
			want: []string{},
		},
		{
			name: "kubeconfig of another cluster",
			make: func(w *world) {
				w.delete(endpoint1)
				w.kube.Pods, w.kube.Nodes = nil, map[string]bool{"x": true}
			},
			want: []string{"leaked addresses: 10.65.0.1, fd65::2"},
			left: []string{"leaked addresses: 10.65.0.1, fd65::2"},
		},
		{
			name: "node gone, by the kubeconfig of another cluster",
			make: func(w *world) {
				w.delete(resources + "nodes/b")
				w.delete(endpoint2)
				w.kube.Pods, w.kube.Nodes = nil, map[string]bool{"x": true}
			},
			want: []string{"node that is gone: node b"},
			left: []string{"node that is gone: node b"},
		},
		{
			name: "one address in two endpoints",
			make: func(w *world) {
				w.edit(endpoint2, "10.65.0.4/32", "10.65.0.1/32")
				w.kube.Pods["ns1/pod2"] = proof.Pod{Node: "b", IPs: []string{"10.65.0.1"}}
			},
			want: []string{"address with two users: 10.65.0.1", "leaked addresses: 10.65.0.4"},
			left: []string{"address with two users: 10.65.0.1", "leaked addresses: 10.65.0.4"},
		},
		{
			name: "address named twice by one endpoint",
			make: func(w *world) { w.edit(endpoint2, `"10.65.0.4/32"`, `"10.65.0.4/32","10.65.0.4"`) },
			want: []string{},
		},
		{
			name: "one address in two endpoints during a live migration",
			make: func(w *world) {
				w.edit(blockB, `"pod":"pod2"}`, `"pod":"pod2"},"alternateOwnerAttrs":{"node":"a","pod":"pod2b"}`)
				w.put(resources+"workloadendpoints/ns1/a-k8s-pod2b-eth0", endpointText("a", "pod2b", "c2b", "10.65.0.4/32"))
			},
			want: []string{},
		},
		{
			name: "address of another pod",
			make: func(w *world) { w.edit(blockB, `"pod":"pod2"`, `"pod":"pod3"`) },
			want: []string{"address with two users: 10.65.0.4"},
			left: []string{"address with two users: 10.65.0.4"},
		},
		{
			name: "released under a living pod",
			make: func(w *world) { w.put(blockB, blockText("10.65.0.4/30", "b")); w.delete(handle2) },
			want: []string{"endpoint without an allocated address: 10.65.0.4"},
			change: []string{
				"IPAMHandle(net.c2): created, counting 1 in 10.65.0.4/30", "IPAMBlock(10.65.0.4/30): 10.65.0.4 given out",
			},
		},
		{
			name: "endpoint whose block is gone",
			make: func(w *world) { w.delete(blockB); w.delete(affinityB); w.delete(handle2) },
			want: []string{"endpoint without an allocated address: 10.65.0.4"},
			left: []string{"endpoint without an allocated address: 10.65.0.4"},
		},
		{
			name: "endpoint of another IPAM",
			make: func(w *world) {
				w.put(resources+"workloadendpoints/ns1/a-k8s-pod9-eth0", endpointText("a", "pod9", "c9", "192.0.2.9/32"))
			},
			want: []string{"endpoint with an address outside every pool: 192.0.2.9"},
			left: []string{"endpoint with an address outside every pool: 192.0.2.9"},
		},
		{
			name: "handle without addresses",
			make: func(w *world) { w.put(root+"handle/net.c9", `{"block":{"10.65.0.0/30":1},"deleted":false}`) },
			want: []string{"handle without addresses: IPAMHandle(net.c9)"},
			change: []string{
				"IPAMBlock(10.65.0.0/30): written once more, so that whoever is about to change it looks again",
				"IPAMHandle(net.c9): deleted, it counted 1 in 10.65.0.0/30",
			},
		},
		{
			name:   "handle of a block that is gone",
			make:   func(w *world) { w.put(root+"handle/net.c9", `{"block":{"10.65.0.64/30":1},"deleted":false}`) },
			want:   []string{"handle without addresses: IPAMHandle(net.c9)"},
			change: []string{"IPAMHandle(net.c9): deleted, it counted 1 in 10.65.0.64/30"},
		},
		{
			name:   "handle that counts too many",
			make:   func(w *world) { w.edit(handle2, `":1`, `":3`) },
			want:   []string{"handle that counts wrong: IPAMHandle(net.c2)"},
			change: []string{"IPAMHandle(net.c2): counts 1 in 10.65.0.4/30, not 3 in 10.65.0.4/30"},
		},
		{
			name:   "handle that misses a block",
			make:   func(w *world) { w.edit(handle1, `,"fd65::/126":1`, ``) },
			want:   []string{"handle that counts wrong: IPAMHandle(net.c1)"},
			change: []string{"IPAMHandle(net.c1): counts 1 in 10.65.0.0/30, 1 in fd65::/126, not 1 in 10.65.0.0/30"},
		},
		{
			name:   "handle missing",
			make:   func(w *world) { w.delete(handle1) },
			want:   []string{"addresses whose handle is missing: IPAMHandle(net.c1)"},
			change: []string{"IPAMHandle(net.c1): created, counting 1 in 10.65.0.0/30, 1 in fd65::/126"},
		},
		{
			name: "block in use outside every pool",
			make: func(w *world) { w.edit(resources+"ippools/p", "10.65.0.0/24", "10.65.0.0/30") },
			want: []string{"block outside every pool: IPAMBlock(10.65.0.4/30)"},
			left: []string{"block outside every pool: IPAMBlock(10.65.0.4/30)"},
		},
		{
			name: "empty block outside every pool",
			make: func(w *world) {
				w.put(root+"assignment/ipv4/block/10.99.0.0-30", blockText("10.99.0.0/30", "a"))
				w.put(root+"host/a/ipv4/block/10.99.0.0-30", confirmed)
			},
			want:   []string{"block outside every pool: IPAMBlock(10.99.0.0/30)"},
			change: []string{"IPAMBlock(10.99.0.0/30): deleted", "BlockAffinity(host:a/10.99.0.0/30): deleted"},
		},
		{
			name: "block outside every pool with addresses kept back for its host",
			make: func(w *world) {
				w.put(root+"assignment/ipv4/block/10.99.0.0-30", strings.Replace(blockText("10.99.0.0/30", "a", holder{3, "windows-reserved-ipam-handle", "", ""}),
					`{"namespace":"ns1","node":"","pod":""}`, `{"note":"windows host rsvd"}`, 1))
				w.put(root+"host/a/ipv4/block/10.99.0.0-30", confirmed)
			},
			want:   []string{"block outside every pool: IPAMBlock(10.99.0.0/30)"},
			change: []string{"IPAMBlock(10.99.0.0/30): deleted, with it 10.99.0.3", "BlockAffinity(host:a/10.99.0.0/30): deleted"},
		},
		{
			name: "empty block within another",
			make: func(w *world) {
				w.put(root+"assignment/ipv4/block/10.65.0.2-31", strings.NewReplacer(",null,null]", "]", "[0,1,2,3]", "[0,1]").Replace(blockText("10.65.0.2/31", "b")))
				w.put(root+"host/b/ipv4/block/10.65.0.2-31", confirmed)
			},
			want:   []string{"blocks that overlap: IPAMBlock(10.65.0.2/31)"},
			change: []string{"IPAMBlock(10.65.0.2/31): deleted", "BlockAffinity(host:b/10.65.0.2/31): deleted"},
		},
		{
			name: "one address given out by two blocks",
			make: func(w *world) {
				text := strings.NewReplacer("[null,0,null,null]", "[null,0]", "[0,2,3]", "[0]").Replace(blockText("10.65.0.0/31", "b", holder{1, "net.c1", "a", "pod1"}))
				w.put(root+"assignment/ipv4/block/10.65.0.0-31", text)
				w.put(root+"host/b/ipv4/block/10.65.0.0-31", confirmed)
				w.put(loans+"a/10.65.0.0-31", `{"node":"a","cidr":"10.65.0.0/31"}`)
				w.edit(handle1, `{"10.65.0.0/30":1`, `{"10.65.0.0/30":1,"10.65.0.0/31":1`)
			},
			want: []string{"address with two users: 10.65.0.1", "blocks that overlap: IPAMBlock(10.65.0.0/31)"},
			left: []string{"address with two users: 10.65.0.1", "blocks that overlap: IPAMBlock(10.65.0.0/31)"},
		},
		{
			name:   "free address that is in no list",
			make:   func(w *world) { w.edit(blockA, "[0,2,3]", "[0,2]") },
			want:   []string{"block that contradicts itself: IPAMBlock(10.65.0.0/30)"},
			change: []string{"IPAMBlock(10.65.0.0/30): its list of free addresses written anew, with 3"},
		},
		{
			name:   "address in use that is listed as free",
			make:   func(w *world) { w.edit(blockA, "[0,2,3]", "[1,0,2,2,3,99]") },
			want:   []string{"block that contradicts itself: IPAMBlock(10.65.0.0/30)"},
			change: []string{"IPAMBlock(10.65.0.0/30): its list of free addresses written anew, with 3"},
		},
		{
			name: "address in use by nobody known",
			make: func(w *world) {
				w.edit(blockA, "[null,0,null,null]", "[5,0,null,null]")
				w.edit(blockA, "[0,2,3]", "[2,3]")
			},
			want: []string{"block that contradicts itself: IPAMBlock(10.65.0.0/30)", "leaked addresses: 10.65.0.0"},
			change: []string{
				"IPAMBlock(10.65.0.0/30): an unknown holder noted where there was none",
			},
			left: []string{"leaked addresses: 10.65.0.0"},
		},
		{
			name:   "affinity without a block",
			make:   func(w *world) { w.put(root+"host/a/ipv4/block/10.65.0.8-30", confirmed) },
			want:   []string{"affinity without a block: BlockAffinity(host:a/10.65.0.8/30)"},
			change: []string{"BlockAffinity(host:a/10.65.0.8/30): deleted"},
		},
		{
			name: "claim under way",
			make: func(w *world) { w.put(root+"host/a/ipv4/block/10.65.0.8-30", `{"state":"pending","deleted":false}`) },
			want: []string{},
		},
		{
			name:   "affinity of another's block",
			make:   func(w *world) { w.put(root+"host/b/ipv4/block/10.65.0.0-30", confirmed) },
			want:   []string{"affinity of another's block: BlockAffinity(host:b/10.65.0.0/30)"},
			change: []string{"BlockAffinity(host:b/10.65.0.0/30): deleted"},
		},
		{
			name:   "affinity never confirmed",
			make:   func(w *world) { w.put(affinityA, `{"state":"pending","deleted":false}`) },
			want:   []string{"affinity that was never finished: BlockAffinity(host:a/10.65.0.0/30)"},
			change: []string{"IPAMBlock(10.65.0.0/30): written once more, so that whoever is about to change it looks again", "BlockAffinity(host:a/10.65.0.0/30): confirmed, not pending"},
		},
		{
			name:   "release that was interrupted",
			make:   func(w *world) { w.put(affinityA, `{"state":"pendingDeletion","deleted":false}`) },
			want:   []string{"affinity that was never finished: BlockAffinity(host:a/10.65.0.0/30)"},
			change: []string{"IPAMBlock(10.65.0.0/30): written once more, so that whoever is about to change it looks again", "BlockAffinity(host:a/10.65.0.0/30): confirmed, not pendingDeletion"},
		},
		{
			name:   "owner without affinity",
			make:   func(w *world) { w.delete(affinityB) },
			want:   []string{"block whose owner has no affinity: IPAMBlock(10.65.0.4/30)"},
			change: []string{"IPAMBlock(10.65.0.4/30): written once more, so that whoever is about to change it looks again", "BlockAffinity(host:b/10.65.0.4/30): created, confirmed"},
		},
		{
			name: "unreadable block",
			make: func(w *world) { w.put(blockB, `{"cidr":`) },
			want: []string{"key that can't be read: " + blockB},
			left: []string{"key that can't be read: " + blockB},
		},
		{
			name:   "borrowed by a program without loans",
			make:   func(w *world) { w.lend() },
			want:   []string{"borrowed addresses without a loan: IPAMLoan(a/10.65.0.4-30)"},
			change: []string{"IPAMLoan(a/10.65.0.4-30): created, of block 10.65.0.4/30 to node a"},
		},
		{
			name: "borrowed, and the loan can't be read",
			make: func(w *world) { w.lend(); w.put(loans+"a/10.65.0.4-30", "{") },
			want: []string{"key that can't be read: " + loans + "a/10.65.0.4-30"},
			left: []string{"key that can't be read: " + loans + "a/10.65.0.4-30"},
		},
		{
			name: "loans that are over",
			make: func(w *world) {
				w.put(loans+"a/10.65.0.4-30", `{"node":"a","cidr":"10.65.0.4/30"}`)
				w.put(loans+"b/10.65.0.4-30", `{"node":"b","cidr":"10.65.0.4/30"}`) // its own block
				w.put(loans+"b/10.65.0.64-30", `{"node":"b","cidr":"10.65.0.64/30"}`)
				w.put(loans+"gone/10.65.0.4-30", `{"node":"gone","cidr":"10.65.0.4/30"}`)
			},
			want: []string{
				"loan without an address: IPAMLoan(a/10.65.0.4-30)", "loan without an address: IPAMLoan(b/10.65.0.4-30)",
				"loan without an address: IPAMLoan(b/10.65.0.64-30)", "loan without an address: IPAMLoan(gone/10.65.0.4-30)",
			},
			change: []string{
				"IPAMLoan(a/10.65.0.4-30): deleted", "IPAMLoan(b/10.65.0.4-30): deleted",
				"IPAMLoan(b/10.65.0.64-30): deleted", "IPAMLoan(gone/10.65.0.4-30): deleted",
			},
		},
		{
			name: "borrower without a release",
			make: func(w *world) {
				w.lend()
				w.put(loans+"a/10.65.0.4-30", `{"node":"a","cidr":"10.65.0.4/30"}`)
				w.delete(endpoint3)
				delete(w.kube.Pods, "ns1/pod3")
			},
			want: []string{"leaked addresses: 10.65.0.5"},
			change: []string{
				"IPAMBlock(10.65.0.4/30): 10.65.0.5 released", "IPAMHandle(net.c3): deleted, it counted 1 in 10.65.0.4/30",
			},
		},
		{
			name: "loans about a block that can't be read",
			make: func(w *world) {
				w.edit(blockB, "[0,null,null,null]", "[0,null]")
				w.put(loans+"a/10.65.0.4-30", `{"node":"a","cidr":"10.65.0.4/30"}`)
			},
			want: []string{"key that can't be read: IPAMBlock(10.65.0.4/30)"},
			left: []string{"key that can't be read: IPAMBlock(10.65.0.4/30)"},
		},
		{
			name: "block with too few addresses",
			make: func(w *world) { w.edit(blockB, "[0,null,null,null]", "[0,null]") },
			want: []string{"key that can't be read: IPAMBlock(10.65.0.4/30)"},
			left: []string{"key that can't be read: IPAMBlock(10.65.0.4/30)"},
		},
		{
			name: "foreign keys",
			make: func(w *world) {
				w.put(root+"assignment/ipv4/block/what", `{}`)
				w.put(root+"strange", `{}`)
				w.put(root+"handle/net.c7", `[]`)
				w.put(resources+"workloadendpoints/ns1/nonsense", `{`)
			},
			want: []string{
				"key that can't be read: " + root + "assignment/ipv4/block/what", "key that can't be read: " + root + "handle/net.c7",
				"key that can't be read: " + root + "strange", "key that can't be read: " + resources + "workloadendpoints/ns1/nonsense",
			},
			left: []string{
				"key that can't be read: " + root + "assignment/ipv4/block/what", "key that can't be read: " + root + "handle/net.c7",
				"key that can't be read: " + root + "strange", "key that can't be read: " + resources + "workloadendpoints/ns1/nonsense",
			},
		},
	}
}

func TestNothingIsFoundInAHealthyStore(t *testing.T) {
	if got := found(newWorld(t).check().Findings); len(got) > 0 {
		t.Errorf("found %v", got)
	}
}

func TestEachDamageIsFoundMendedAndUndone(t *testing.T) {
	for _, d := range damages() {
		t.Run(d.name, func(t *testing.T) { d.foundMendedUndone(newWorld(t)) })
	}
}

func TestEachDamageIsFoundMendedAndUndoneOnEtcd(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	reg := api.NewRegistry()
	client, err := etcd.New(t.Context(), etcd.Config{Config: server.Config(), RequestTimeout: 10 * time.Second}, reg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	store := onEtcd{server.Raw()}
	for _, d := range damages() {
		t.Run(d.name, func(t *testing.T) {
			for _, path := range store.Paths("/calico/") {
				store.Delete(path)
			}
			d.foundMendedUndone(worldOn(t, reg, store, client, nil))
		})
	}
}

func (d damage) foundMendedUndone(w *world) {
	w.Helper()
	d.make(w)
	damaged := w.bytes()
	findings := w.check().Findings
	if diff := cmp.Diff(d.want, found(findings)); diff != "" {
		w.Fatalf("found (-want +got):\n%s", diff)
	}
	for _, f := range findings {
		if f.What == "" || f.Why == "" || f.Do == "" || f.Mendable == (f.Kept != "") {
			w.Errorf("a finding says too little: %+v", f)
		}
	}
	file, changed := w.repair()
	if diff := cmp.Diff(d.change, changed); diff != "" {
		w.Errorf("changed (-want +got):\n%s", diff)
	}
	left := d.left
	if left == nil {
		left = []string{}
	}
	if diff := cmp.Diff(left, found(w.check().Findings)); diff != "" {
		w.Errorf("found after the repair (-want +got):\n%s", diff)
	}
	w.blocksAreSound()
	for range 2 { // the second time it is as it was
		if refused := w.undo(file); len(refused) > 0 {
			w.Errorf("not undone: %v", refused)
		}
		if diff := cmp.Diff(damaged, w.bytes()); diff != "" {
			w.Errorf("undone (-damaged +now):\n%s", diff)
		}
	}
}

// blocksAreSound checks every block that can be read as the allocator does.
func (w *world) blocksAreSound() {
	w.Helper()
	snap, err := w.client.List(w.Context(), datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range snap.Entries {
		if in, err := ipam.Inspect(e); err == nil && len(in.Faults) > 0 {
			w.Errorf("%s: %v", e.Key, in.Faults)
		}
	}
}

func TestWithoutKubernetesNothingOfAPodIsReleased(t *testing.T) {
	for _, d := range damages() {
		w := newWorld(t)
		d.make(w)
		w.kube = nil
		before := w.bytes()
		w.repair()
		for path, value := range w.bytes() {
			if strings.Contains(path, "/assignment/") && before[path] != value {
				for _, gone := range []string{"net.c1", "net.c2"} {
					if strings.Contains(before[path], gone) && !strings.Contains(value, gone) {
						t.Errorf("%s: %s was released: %s", d.name, gone, value)
					}
				}
			}
		}
	}
}

func TestUndoRefusesWhatHasChangedSince(t *testing.T) {
	w := newWorld(t)
	w.delete(endpoint2)
	delete(w.kube.Pods, "ns1/pod2")
	w.put(root+"handle/net.c9", `{"block":{},"deleted":false}`)
	file, _ := w.repair()
	w.put(blockB, strings.Replace(blockText("10.65.0.4/30", "b", holder{0, "net.new", "b", "pod3"}), `"sequenceNumber":8`, `"sequenceNumber":10`, 1))
	before, _ := w.mem.RawGet(blockB)
	if refused := w.undo(file); len(refused) != 1 || !strings.Contains(refused[0], "IPAMBlock(10.65.0.4/30) has changed since") {
		t.Errorf("refused %v", refused)
	}
	if after, _ := w.mem.RawGet(blockB); !bytes.Equal(before, after) {
		t.Error("the block was changed")
	}
	if _, ok := w.mem.RawGet(root + "handle/net.c9"); !ok {
		t.Error("what could be undone was not")
	}
}

// A block that was deleted must not come back over one that was made since.
func TestUndoBringsNoBlockBackOverAnother(t *testing.T) {
	w := newWorld(t)
	path := root + "assignment/ipv4/block/10.99.0.0-30"
	w.put(path, blockText("10.99.0.0/30", ""))
	file, _ := w.repair()
	if _, ok := w.mem.RawGet(path); ok {
		t.Fatal("it was not deleted")
	}
	for _, other := range []string{"10.99.0.0-29", "10.99.0.2-31"} {
		w.put(root+"assignment/ipv4/block/"+other, `{"cidr":`)
		if refused := w.undo(file); len(refused) != 1 || !strings.Contains(refused[0], "has addresses of 10.99.0.0/30 by now") {
			t.Errorf("%s: refused %v", other, refused)
		}
		w.delete(root + "assignment/ipv4/block/" + other)
	}
	if refused := w.undo(file); len(refused) != 0 {
		t.Errorf("refused %v", refused)
	}
}

func TestUndoFileThatIsNoneIsRefused(t *testing.T) {
	reg := api.NewRegistry()
	head := `{"tool":"calicoctl ipam fsck","clusterGUID":"g","time":"2026-01-01T00:00:00Z"}` + "\n"
	for text, want := range map[string]string{
		"":                                  "it is empty",
		"{}\n":                              "line 1 is none of an undo file",
		"nonsense\n":                        "line 1 is none of an undo file",
		head + `{"step":1,"what":2}` + "\n": "line 2 is none of an undo file",
		head + `{"step":1,"changes":[{"path":"/etc/passwd","before":null,"after":null}]}` + "\n":              "line 2: parse key \"/etc/passwd\"",
		head + `{"step":1,"changes":[{"path":"` + resources + `nodes/a","before":null,"after":null}]}` + "\n": "Node(a) is nothing that fsck changes",
		head + `{"step":1,"changes":[{"path":"` + blockA + `","before":"{","after":null}]}` + "\n":            "line 2: decode IPAMBlock",
	} {
		if _, err := repair.ReadUndo(strings.NewReader(text), reg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	// A line that was cut off was never carried out.
	u, err := repair.ReadUndo(strings.NewReader(head+`{"step":1,"cha`), reg)
	if err != nil || u.Steps() != 0 {
		t.Errorf("%v, %d steps", err, u.Steps())
	}
}

// A run that dies between any two writes leaves a file that brings everything back.
func TestUndoAfterARepairThatDied(t *testing.T) {
	for after := range 8 {
		w := newWorld(t)
		w.delete(resources + "nodes/b")
		w.delete(endpoint2)
		delete(w.kube.Nodes, "b")
		w.delete(handle1)
		before := w.bytes()
		var file bytes.Buffer
		rec, _ := repair.NewRecorder(&file, w.reg, "guid", time.Unix(0, 0))
		left := after
		m := repair.Mender{Kubernetes: w.kube, Client: &repair.Journal{Client: w.client, Before: func(changes []repair.Change) error {
			err := rec.Record("", changes)
			if left--; left < 0 { // the reply to this one is lost, and nothing comes after it
				w.memory.LoseReplies(1)
			}
			return err
		}, Failed: func() { _ = rec.Cancel() }}}
		for _, f := range w.check().Findings {
			if err := m.Mend(w.Context(), f); err != nil {
				break
			}
		}
		if refused := w.undo(file.Bytes()); len(refused) > 0 {
			t.Errorf("after %d: %v", after, refused)
		}
		if diff := cmp.Diff(before, w.bytes()); diff != "" {
			t.Errorf("after %d (-before +now):\n%s", after, diff)
		}
	}
}

func TestDryRunSaysTheSameAndWritesNothing(t *testing.T) {
	for _, d := range damages() {
		w := newWorld(t)
		d.make(w)
		before := w.bytes()
		var changed []string
		m := repair.Mender{Kubernetes: w.kube, Client: &repair.Journal{Client: repair.NewOverlay(w.client), Before: func(changes []repair.Change) error {
			for _, c := range changes {
				changed = append(changed, c.String())
			}
			return nil
		}, Failed: func() {}}}
		for _, f := range w.check().Findings {
			if f.Mendable {
				if err := m.Mend(w.Context(), f); err != nil && !errors.Is(err, repair.ErrChanged) {
					t.Errorf("%s: %v", d.name, err)
				}
			}
		}
		if diff := cmp.Diff(d.change, changed); diff != "" {
			t.Errorf("%s (-want +got):\n%s", d.name, diff)
		}
		if !maps.Equal(before, w.bytes()) {
			t.Errorf("%s: a dry run wrote", d.name)
		}
	}
}

func TestLeakThatIsInUseAgainIsKept(t *testing.T) {
	for name, again := range map[string]func(w *world){
		"the pod is back":    func(w *world) { w.kube.Pods["ns1/pod2"] = proof.Pod{Node: "b"} },
		"an endpoint has it": func(w *world) { w.put(endpoint2, endpointText("b", "pod2", "c2", "10.65.0.4/32")) },
		"another endpoint has it": func(w *world) {
			w.put(resources+"workloadendpoints/ns1/b-k8s-pod5-eth0", endpointText("b", "pod5", "c5", "10.65.0.4/32"))
		},
		"an endpoint is unreadable": func(w *world) { w.put(endpoint2, `{`) },
		"it was assigned anew":      func(w *world) { w.edit(blockB, `"0":7`, `"0":9`) },
		"the handle has more": func(w *world) {
			w.put(blockB, blockText("10.65.0.4/30", "b", holder{0, "net.c2", "b", "pod2"}, holder{1, "net.c2", "b", "pod2"}))
		},
	} {
		w := newWorld(t)
		w.delete(endpoint2)
		delete(w.kube.Pods, "ns1/pod2")
		findings := w.check().Findings
		if len(findings) != 1 || !findings[0].Mendable {
			t.Fatalf("%v", found(findings))
		}
		again(w)
		before := w.bytes()
		m := repair.Mender{Client: w.client, Kubernetes: w.kube}
		if err := m.Mend(w.Context(), findings[0]); !errors.Is(err, repair.ErrChanged) {
			t.Errorf("%s: error %v", name, err)
		}
		if !maps.Equal(before, w.bytes()) {
			t.Errorf("%s: something was released", name)
		}
	}
}

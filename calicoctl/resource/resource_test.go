package resource_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

// rival is a client on which somebody else is always a moment faster: before
// each of the first n transactions it runs act.
type rival struct {
	datastore.Client
	n   int
	act func()
}

func (r *rival) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	if r.n != 0 {
		r.n--
		r.act()
	}
	return r.Client.Txn(ctx, ops...)
}

// fixture is a store with a rival at work on it.
type fixture struct {
	*resource.Store
	memory   *memory.Store
	rival    *rival
	warnings []string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	reg := api.NewRegistry()
	mem := memory.New(reg)
	f := &fixture{memory: mem, rival: &rival{Client: mem}}
	f.Store = &resource.Store{
		Client:   f.rival,
		Registry: reg,
		Now:      func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) },
		Warn:     func(text string) { f.warnings = append(f.warnings, text) },
	}
	return f
}

// others writes past the rival.
func (f *fixture) others() *resource.Store {
	s := *f.Store
	s.Client = f.memory
	return &s
}

func (f *fixture) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func peer(name, ip string) *v3.BGPPeer {
	p := v3.NewBGPPeer()
	p.Name = name
	p.Spec = v3.BGPPeerSpec{PeerIP: ip, ASNumber: 64512}
	return p
}

func pool(name, cidr string) *v3.IPPool {
	p := v3.NewIPPool()
	p.Name = name
	p.Spec.CIDR = cidr
	return p
}

func peerKey(name string) api.Key { return api.Key{Kind: api.KindBGPPeer, Name: name} }

func (f *fixture) peerIP(t *testing.T, name string) string {
	t.Helper()
	obj, err := f.Get(t.Context(), peerKey(name))
	f.must(t, err)
	return obj.(*v3.BGPPeer).Spec.PeerIP
}

func TestApplyWinsAgainstOneFasterWriter(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), peer("p", "10.0.0.1")))
	f.rival.n, f.rival.act = 1, func() { f.must(t, f.others().Apply(t.Context(), peer("p", "10.0.0.2"))) }
	f.must(t, f.Apply(t.Context(), peer("p", "10.0.0.3")))
	if got := f.peerIP(t, "p"); got != "10.0.0.3" {
		t.Errorf("peer IP %s, want 10.0.0.3", got)
	}
}

func TestApplyChangesWhatSomebodyElseCreatedFirst(t *testing.T) {
	f := newFixture(t)
	f.rival.n, f.rival.act = 1, func() { f.must(t, f.others().Create(t.Context(), peer("p", "10.0.0.2"))) }
	f.must(t, f.Apply(t.Context(), peer("p", "10.0.0.3")))
	if got := f.peerIP(t, "p"); got != "10.0.0.3" {
		t.Errorf("peer IP %s, want 10.0.0.3", got)
	}
}

func TestReplaceWithVersionNeverWritesOverAnotherChange(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), peer("p", "10.0.0.1")))
	read, err := f.Get(t.Context(), peerKey("p"))
	f.must(t, err)
	f.rival.n, f.rival.act = 1, func() { f.must(t, f.others().Apply(t.Context(), peer("p", "10.0.0.2"))) }
	read.(*v3.BGPPeer).Spec.PeerIP = "10.0.0.3"
	err = f.Replace(t.Context(), read)
	if !errors.Is(err, datastore.ErrConflict) || !strings.Contains(err.Error(), "get it again") {
		t.Errorf("error %v, want a conflict with advice", err)
	}
	if got := f.peerIP(t, "p"); got != "10.0.0.2" {
		t.Errorf("peer IP %s, want the other's 10.0.0.2", got)
	}
}

func TestReplaceGivesUpOnAnObjectThatNeverRests(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), peer("p", "10.0.0.1")))
	f.rival.n, f.rival.act = -1, func() { f.must(t, f.others().Apply(t.Context(), peer("p", "10.0.0.2"))) }
	err := f.Replace(t.Context(), peer("p", "10.0.0.3"))
	if err == nil || !strings.Contains(err.Error(), "changed by others 10 times in a row; try again") {
		t.Errorf("error %v", err)
	}
}

func TestModifyKeepsWhatAnotherWriterChanged(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), peer("p", "10.0.0.1")))
	f.rival.n, f.rival.act = 1, func() { f.must(t, f.others().Apply(t.Context(), peer("p", "10.0.0.2"))) }
	f.must(t, f.Modify(t.Context(), peerKey("p"), func(obj api.Object) error {
		obj.SetLabels(map[string]string{"a": "b"})
		return nil
	}))
	obj, err := f.Get(t.Context(), peerKey("p"))
	f.must(t, err)
	if got := obj.(*v3.BGPPeer); got.Spec.PeerIP != "10.0.0.2" || got.Labels["a"] != "b" {
		t.Errorf("peer %s with labels %v, want both changes", got.Spec.PeerIP, got.Labels)
	}
}

func TestModifyThatRefusesChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), peer("p", "10.0.0.1")))
	before := f.memory.Revision()
	refusal := errors.New("no")
	if err := f.Modify(t.Context(), peerKey("p"), func(api.Object) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("error %v, want the refusal", err)
	}
	// A change that makes the object invalid is refused as well.
	err := f.Modify(t.Context(), peerKey("p"), func(obj api.Object) error {
		obj.(*v3.BGPPeer).Spec.ASNumber = 0
		return nil
	})
	if _, ok := errors.AsType[*api.ValidationError](err); !ok {
		t.Errorf("error %v, want a validation error", err)
	}
	if after := f.memory.Revision(); after != before {
		t.Errorf("revision went from %d to %d", before, after)
	}
}

func TestDeleteSucceedsWhileTheObjectIsBeingChanged(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), peer("p", "10.0.0.1")))
	f.rival.n, f.rival.act = 2, func() { f.must(t, f.others().Apply(t.Context(), peer("p", "10.0.0.2"))) }
	f.must(t, f.Delete(t.Context(), peerKey("p"), resource.Deletion{}))
	if _, err := f.Get(t.Context(), peerKey("p")); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("error %v, want not found", err)
	}
}

func TestDeleteWithVersionSparesAChangedObject(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), peer("p", "10.0.0.1")))
	obj, err := f.Get(t.Context(), peerKey("p"))
	f.must(t, err)
	f.must(t, f.Apply(t.Context(), peer("p", "10.0.0.2")))
	if err := f.Delete(t.Context(), peerKey("p"), resource.Deletion{Version: obj.GetResourceVersion()}); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("error %v, want a conflict", err)
	}
	if got := f.peerIP(t, "p"); got != "10.0.0.2" {
		t.Errorf("peer IP %s", got)
	}
}

// block is a block of four addresses, the first of them in use if used.
func block(cidr, node string, used bool) string {
	allocations, unallocated, attributes := "null,null,null,null", "0,1,2,3", ""
	if used {
		allocations, unallocated = "0,null,null,null", "1,2,3"
		attributes = `{"handle_id":"net.c1","secondary":{"node":"` + node + `"}}`
	}
	return `{"cidr":"` + cidr + `","affinity":"host:` + node + `","allocations":[` + allocations + `],"unallocated":[` + unallocated +
		`],"attributes":[` + attributes + `],"sequenceNumber":1,"sequenceNumberForAllocation":{},"deleted":false}`
}

const (
	blockPath    = "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30"
	affinityPath = "/calico/ipam/v2/host/node1/ipv4/block/10.65.0.0-30"
	confirmed    = `{"state":"confirmed","deleted":false}`
)

func TestDeletePoolLeavesABlockThatGetsAnAddressMeanwhile(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), pool("p", "10.65.0.0/16")))
	f.memory.RawPut(blockPath, []byte(block("10.65.0.0/30", "node1", false)))
	f.memory.RawPut(affinityPath, []byte(confirmed))
	txns := 0
	f.rival.n, f.rival.act = -1, func() {
		if txns++; txns == 2 { // the first disables the pool, the second releases the block
			f.memory.RawPut(blockPath, []byte(block("10.65.0.0/30", "node1", true)))
		}
	}
	f.must(t, f.Delete(t.Context(), api.Key{Kind: api.KindIPPool, Name: "p"}, resource.Deletion{}))
	for _, path := range []string{blockPath, affinityPath} {
		if _, ok := f.memory.RawGet(path); !ok {
			t.Errorf("%s is gone", path)
		}
	}
	if len(f.warnings) != 1 || !strings.Contains(f.warnings[0], "got an address while the pool was being deleted") {
		t.Errorf("warnings %q", f.warnings)
	}
}

func TestDeletePoolDisablesItBeforeItsBlocksGo(t *testing.T) {
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), pool("p", "10.65.0.0/16")))
	f.memory.RawPut(blockPath, []byte(block("10.65.0.0/30", "node1", false)))
	f.memory.RawPut(affinityPath, []byte(confirmed))
	var states []bool
	f.rival.n, f.rival.act = -1, func() {
		obj, err := f.others().Get(t.Context(), api.Key{Kind: api.KindIPPool, Name: "p"})
		f.must(t, err)
		states = append(states, obj.(*v3.IPPool).Spec.Disabled)
	}
	f.must(t, f.Delete(t.Context(), api.Key{Kind: api.KindIPPool, Name: "p"}, resource.Deletion{}))
	if diff := cmp.Diff([]bool{false, true, true}, states); diff != "" {
		t.Errorf("disabled before each write (-want +got):\n%s", diff)
	}
	if paths := f.memory.Paths("/calico/"); len(paths) != 0 {
		t.Errorf("left behind: %v", paths)
	}
}

func TestInterruptedNodeDeletionIsCompletedByDeletingAgain(t *testing.T) {
	seed := func(f *fixture) {
		node := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		f.must(t, f.Create(t.Context(), node))
		local := peer("local", "10.0.0.1")
		local.Spec.Node = "node1"
		f.must(t, f.Create(t.Context(), local))
		f.must(t, f.Create(t.Context(), peer("global", "10.0.0.2")))
		f.memory.RawPut(blockPath, []byte(block("10.65.0.0/30", "node1", true)))
		f.memory.RawPut(affinityPath, []byte(confirmed))
		f.memory.RawPut("/calico/ipam/v2/handle/net.c1", []byte(`{"block":{"10.65.0.0/30":1},"deleted":false}`))
	}
	key := api.Key{Kind: api.KindNode, Name: "node1"}
	for after := range 10 {
		f := newFixture(t)
		seed(f)
		left := after
		f.rival.n, f.rival.act = -1, func() {
			f.memory.SetUnavailable(left == 0)
			left--
		}
		err := f.Delete(t.Context(), key, resource.Deletion{Force: true})
		f.memory.SetUnavailable(false)
		if err != nil && !errors.Is(err, datastore.ErrUnavailable) {
			t.Fatalf("cut off after %d writes: %v", after, err)
		}
		f.rival.n = 0
		if err != nil {
			if _, getErr := f.Get(t.Context(), key); getErr != nil {
				t.Fatalf("cut off after %d writes: the Node went before the rest: %v", after, getErr)
			}
			f.must(t, f.Delete(t.Context(), key, resource.Deletion{Force: true}))
		}
		if diff := cmp.Diff([]string{"/calico/resources/v3/projectcalico.org/bgppeers/global"}, slices.Concat(f.memory.Paths("/calico/resources/"), f.memory.Paths("/calico/ipam/"))); diff != "" {
			t.Errorf("cut off after %d writes, then deleted again (-want +got):\n%s", after, diff)
		}
	}
}

func TestNodeWithWorkloadEndpointsIsDeletedOnlyByForce(t *testing.T) {
	const root = "/calico/resources/v3/projectcalico.org/workloadendpoints/ns1/"
	f := newFixture(t)
	f.must(t, f.Create(t.Context(), &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}))
	for i := range 6 {
		name := fmt.Sprintf("node--1-k8s-pod%d-eth0", i)
		f.memory.RawPut(root+name, fmt.Appendf(nil, `{"kind":"WorkloadEndpoint","spec":{"node":"node-1","orchestrator":"k8s","pod":"pod%d","endpoint":"eth0"}}`, i))
	}
	f.memory.RawPut(root+"node--1-k8s-unreadable-eth0", []byte("{"))
	f.memory.RawPut(root+"node-k8s-other-eth0", []byte(`{"kind":"WorkloadEndpoint","spec":{"node":"node","orchestrator":"k8s","pod":"other","endpoint":"eth0"}}`))
	before := f.memory.Paths("/calico/")
	key := api.Key{Kind: api.KindNode, Name: "node-1"}

	err := f.Delete(t.Context(), key, resource.Deletion{})
	const want = "7 workload endpoints are on node-1: ns1/node--1-k8s-pod0-eth0, ns1/node--1-k8s-pod1-eth0, ns1/node--1-k8s-pod2-eth0, " +
		"ns1/node--1-k8s-pod3-eth0, ns1/node--1-k8s-pod4-eth0 and 2 more; drain the node first, or delete with --force"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if diff := cmp.Diff(before, f.memory.Paths("/calico/")); diff != "" {
		t.Errorf("a refused deletion changed something (-want +got):\n%s", diff)
	}

	f.must(t, f.Delete(t.Context(), key, resource.Deletion{Force: true}))
	if diff := cmp.Diff([]string{root + "node-k8s-other-eth0"}, f.memory.Paths("/calico/")); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
}

func TestUnknownOutcomeOfAWriteIsUnavailable(t *testing.T) {
	f := newFixture(t)
	f.memory.LoseReplies(1)
	if err := f.Create(t.Context(), peer("p", "10.0.0.1")); !errors.Is(err, datastore.ErrUnavailable) {
		t.Errorf("error %v, want unavailable", err)
	}
}

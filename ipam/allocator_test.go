package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testTime = time.Date(2026, 11, 22, 2, 1, 40, 238510910, time.UTC)

// cluster is a store with pools and nodes, and allocators on it.
type cluster struct {
	t     testing.TB
	store *memory.Store
	// tracker state is fed from the store whenever an allocator is made.
	trackers map[string]*ipam.Tracker
	// passed is how long after testTime it is.
	passed atomic.Int64
}

func (c *cluster) now() time.Time { return testTime.Add(time.Duration(c.passed.Load())) }

func (c *cluster) sleep(d time.Duration) { c.passed.Add(int64(d)) }

func newCluster(t testing.TB, objects ...api.Object) *cluster {
	t.Helper()
	c := &cluster{t: t, store: memory.New(api.NewRegistry()), trackers: make(map[string]*ipam.Tracker)}
	for _, obj := range objects {
		c.put(obj)
	}
	return c
}

func (c *cluster) put(obj api.Object) {
	c.t.Helper()
	reg := api.NewRegistry()
	reg.Default(obj)
	key, err := reg.KeyOf(obj)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.store.Txn(c.t.Context(), datastore.Put(key, obj)); err != nil {
		c.t.Fatal(err)
	}
	for _, tracker := range c.trackers {
		c.feed(tracker)
	}
}

func (c *cluster) remove(key api.Key) {
	c.t.Helper()
	if _, err := c.store.Txn(c.t.Context(), datastore.DeleteAny(key)); err != nil {
		c.t.Fatal(err)
	}
	for _, tracker := range c.trackers {
		tracker.Apply([]datastore.SyncUpdate{{Key: key}})
	}
}

func (c *cluster) feed(tracker *ipam.Tracker) {
	c.t.Helper()
	for _, r := range tracker.Ranges() {
		snap, err := c.store.List(context.Background(), r)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, entry := range snap.Entries {
			tracker.Apply([]datastore.SyncUpdate{{Key: entry.Key, Entry: &entry}})
		}
	}
}

func (c *cluster) view(node string) *ipam.Tracker {
	c.t.Helper()
	if c.trackers[node] == nil {
		tracker := ipam.NewTracker(node)
		c.feed(tracker)
		c.trackers[node] = tracker
	}
	return c.trackers[node]
}

// allocator makes an allocator of a node on the store itself, or on another
// client of it.
func (c *cluster) allocator(node string, client ...datastore.Client) *ipam.Allocator {
	c.t.Helper()
	cfg := ipam.Config{Client: c.store, Node: node, View: c.view(node), Now: c.now}
	if len(client) > 0 {
		cfg.Client = client[0]
	}
	a := ipam.New(cfg)
	c.t.Cleanup(a.Close)
	return a
}

func (c *cluster) check() {
	c.t.Helper()
	if err := ipamtest.Check(context.Background(), c.store); err != nil {
		c.t.Fatalf("invariants: %v", err)
	}
}

func newPool(name, cidr string, change ...func(*v3.IPPool)) *v3.IPPool {
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR = name, cidr
	for _, f := range change {
		f(pool)
	}
	return pool
}

func blockSize(n int) func(*v3.IPPool) { return func(p *v3.IPPool) { p.Spec.BlockSize = n } }

func newNode(name string, labels map[string]string) *api.Node {
	return &api.Node{
		TypeMeta:   metav1.TypeMeta{Kind: string(api.KindNode), APIVersion: api.GroupVersion},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
	}
}

func newConfig(change func(*api.IPAMConfigSpec)) *api.IPAMConfig {
	config := &api.IPAMConfig{
		TypeMeta:   metav1.TypeMeta{Kind: string(api.KindIPAMConfig), APIVersion: api.GroupVersion},
		ObjectMeta: metav1.ObjectMeta{Name: api.IPAMConfigKey().Name},
		Spec:       api.IPAMConfigSpec{AutoAllocateBlocks: true},
	}
	change(&config.Spec)
	return config
}

// strict forbids nodes to take addresses of one another's blocks.
func strict() *api.IPAMConfig {
	return newConfig(func(s *api.IPAMConfigSpec) { s.StrictAffinity = true })
}

func assign(t testing.TB, a *ipam.Allocator, handle string, num4, num6 int) []netip.Addr {
	t.Helper()
	got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(handle), Num4: num4, Num6: num6})
	if err != nil {
		t.Fatal(err)
	}
	return addrsOf(got)
}

func addrsOf(assigned []ipam.Assignment) []netip.Addr {
	var addrs []netip.Addr
	for _, at := range assigned {
		addrs = append(addrs, at.Addr)
	}
	return addrs
}

func TestFirstBlockOfANodeIsUpstreams(t *testing.T) {
	for _, tc := range []struct{ node, pool, want string }{
		{"node1", "10.20.0.0/16", "10.20.166.128"},
		{"nodea", "192.168.0.0/16", "192.168.149.0"},
		{"node1", "fd00:20::/48", "fd00:20:0:df9b:fa8:334a:557b:7740"},
	} {
		c := newCluster(t, newPool("p", tc.pool), newNode(tc.node, nil))
		a := c.allocator(tc.node)
		num4 := 0
		if netip.MustParseAddr(tc.want).Is4() {
			num4 = 1
		}
		if got := assign(t, a, "h", num4, 1-num4); got[0].String() != tc.want {
			t.Errorf("%s in %s: got %v, want %s", tc.node, tc.pool, got, tc.want)
		}
		c.check()
	}
}

func TestAutoAssignWritesUpstreamsFormat(t *testing.T) {
	c := newCluster(t, newPool("p", "10.20.0.0/16", blockSize(30)), newNode("node1", nil))
	a := c.allocator("node1")
	got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "net1.cont0", Num4: 1, Namespace: "ns1", Attrs: map[string]string{"pod": "pod1"}})
	if err != nil {
		t.Fatal(err)
	}
	block := got[0].Block
	dashed := strings.Replace(block.String(), "/", "-", 1)
	base := testTime.UnixNano()
	want := map[string]string{
		"/calico/ipam/v2/assignment/ipv4/block/" + dashed: `{"cidr":"` + block.String() + `","affinity":"host:node1","affinity_claim_time":"2026-11-22T02:01:40Z",` +
			`"allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"net1.cont0","secondary":{"namespace":"ns1","node":"node1","pod":"pod1","timestamp":"2026-11-22 02:01:40.23851091 +0000 UTC"}}],` +
			fmt.Sprintf(`"sequenceNumber":%d,"sequenceNumberForAllocation":{"0":%d},"deleted":false}`, base+1, base),
		"/calico/ipam/v2/handle/net1.cont0":               `{"block":{"` + block.String() + `":1},"deleted":false}`,
		"/calico/ipam/v2/host/node1/ipv4/block/" + dashed: `{"state":"confirmed","deleted":false}`,
	}
	for _, path := range c.store.Paths("/calico/ipam/") {
		value, _ := c.store.RawGet(path)
		if string(value) != want[path] {
			t.Errorf("%s:\n got %s\nwant %s", path, value, want[path])
		}
		delete(want, path)
	}
	for path := range want {
		t.Errorf("%s is missing", path)
	}
}

// recorder keeps what is written.
type recorder struct {
	datastore.Client
	written []datastore.Op
}

func (r *recorder) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	r.written = append(r.written, ops...)
	return r.Client.Txn(ctx, ops...)
}

// TestWhatAnAssignmentWritesIsEncodedTheQuickWay: the JSON encoder, which takes what
// the quick way doesn't, takes more than one piece of memory.
func TestWhatAnAssignmentWritesIsEncodedTheQuickWay(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16"), newNode("n", nil))
	client := &recorder{Client: c.store}
	a := c.allocator("n", client)
	for i := range 64 {
		_, err := a.AutoAssign(t.Context(), ipam.Request{
			Handle: ipam.HandleID(fmt.Sprintf("net1.%064d", i)), Num4: 1, Namespace: "ns1", Attrs: map[string]string{api.AttributePod: fmt.Sprint("pod-", i)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	reg, encoded := api.NewRegistry(), map[api.Kind]int{}
	for _, op := range client.written {
		if op.Key.Kind != api.KindIPAMBlock && op.Key.Kind != api.KindIPAMHandle || op.Object == nil {
			continue
		}
		encoded[op.Key.Kind]++
		if n := testing.AllocsPerRun(10, func() { _, _ = reg.Encode(op.Object, op.Unknown) }); n > 1 {
			t.Errorf("%s is encoded in %v pieces of memory", op.Key, n)
		}
	}
	if encoded[api.KindIPAMBlock] < 64 || encoded[api.KindIPAMHandle] < 64 {
		t.Errorf("written: %v", encoded)
	}
}

func TestAutoAssignTakesOldestFreeAddress(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/30", blockSize(30)), newNode("n", nil))
	a := c.allocator("n")
	for i := range 3 {
		assign(t, a, fmt.Sprintf("h%d", i), 1, 0)
	}
	for _, h := range []ipam.HandleID{"h1", "h0"} {
		if _, err := a.ReleaseByHandle(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for i := range 3 {
		got = append(got, assign(t, a, fmt.Sprintf("again%d", i), 1, 0)[0].String())
	}
	if want := []string{"10.0.0.3", "10.0.0.1", "10.0.0.0"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	c.check()
}

func TestDualStackIsOneTransaction(t *testing.T) {
	c := newCluster(t, newPool("p4", "10.0.0.0/16"), newPool("p6", "fd00::/64"), newNode("n", nil))
	a := c.allocator("n")
	assign(t, a, "warm", 1, 1)
	before := c.store.Revision()
	got := assign(t, a, "h", 1, 1)
	if c.store.Revision() != before+1 || len(got) != 2 || !got[0].Is4() || !got[1].Is6() {
		t.Errorf("got %v in %d transactions", got, c.store.Revision()-before)
	}
	held, err := a.ByHandle(t.Context(), "h")
	if err != nil || !slices.Equal(held, got) {
		t.Errorf("ByHandle: %v, %v; want %v", held, err, got)
	}
	released, err := a.ReleaseByHandle(t.Context(), "h")
	if err != nil || !slices.Equal(released, got) {
		t.Errorf("released %v, %v; want %v", released, err, got)
	}
	c.check()
}

func TestHalfASuccessAssignsNothing(t *testing.T) {
	c := newCluster(t, newPool("p4", "10.0.0.0/16"), newNode("n", nil))
	a := c.allocator("n")
	_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1, Num6: 1})
	if !errors.Is(err, ipam.ErrNoPool) {
		t.Fatalf("got %v", err)
	}
	owners, _ := ipamtest.Owners(t.Context(), c.store)
	if len(owners) != 0 {
		t.Errorf("left behind: %v", owners)
	}
	c.check()
}

func TestReleaseOfAnAbsentHandleIsNoError(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16"), newNode("n", nil))
	got, err := c.allocator("n").ReleaseByHandle(t.Context(), "nobody")
	if err != nil || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestConcurrentCallsShareTransactions(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16", blockSize(24)), newNode("n", nil))
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	armed := false
	client := &ipamtest.Faulty{Client: c.store, Decide: func(int, []datastore.Op) ipamtest.Fault {
		if armed {
			once.Do(func() { close(entered); <-gate })
		}
		return ipamtest.Pass
	}}
	a := c.allocator("n", client)
	assign(t, a, "warm", 1, 0)
	armed = true
	before := c.store.Revision()
	var wg sync.WaitGroup
	call := func(i int) {
		wg.Go(func() { assign(t, a, fmt.Sprintf("h%d", i), 1, 0) })
	}
	call(0)
	<-entered
	for i := range 64 {
		call(i + 1)
	}
	ipam.WaitQueued(a, 64)
	close(gate)
	wg.Wait()
	if got := c.store.Revision() - before; got != 2 {
		t.Errorf("65 allocations took %d transactions, want 2", got)
	}
	owners, _ := ipamtest.Owners(t.Context(), c.store)
	if len(owners) != 66 {
		t.Errorf("%d addresses have an owner, want 66", len(owners))
	}
	c.check()
}

func TestHotPathReadsNothing(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16"), newNode("n", nil))
	client := &ipamtest.Faulty{Client: c.store}
	a := c.allocator("n", client)
	assign(t, a, "warm", 1, 0)
	before := client.Operations()
	assign(t, a, "h", 1, 0)
	if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	if got := client.Operations() - before; got != 2 {
		t.Errorf("an assignment and its release took %d operations, want 2", got)
	}
}

// TestNodesMeetNoConflictInTheirOwnBlocks: sixteen nodes, of which each has blocks enough,
// assign and release at once.
func TestNodesMeetNoConflictInTheirOwnBlocks(t *testing.T) {
	const nodes, calls = 16, 32
	objects := []api.Object{newPool("p", "10.0.0.0/16")}
	for n := range nodes {
		objects = append(objects, newNode(fmt.Sprintf("n%d", n), nil))
	}
	c := newCluster(t, objects...)
	var all []*ipam.Allocator
	var before uint64
	for n := range nodes { // one after the other: claims may meet
		a := c.allocator(fmt.Sprintf("n%d", n), c.store)
		assign(t, a, fmt.Sprintf("first-%d", n), 1, 0)
		before += a.Stats(t.Context()).Work.Conflicts
		all = append(all, a)
	}
	var wg sync.WaitGroup
	for n, a := range all {
		for i := range calls {
			wg.Go(func() {
				handle := fmt.Sprintf("h-%d-%d", n, i)
				assign(t, a, handle, 1, 0)
				if _, err := a.ReleaseByHandle(t.Context(), ipam.HandleID(handle)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	var after, committed uint64
	for _, a := range all {
		work := a.Stats(t.Context()).Work
		after, committed = after+work.Conflicts, committed+work.Committed
	}
	if after != before || committed <= nodes {
		t.Errorf("%d conflicts in %d transactions, want none", after-before, committed)
	}
	c.check()
}

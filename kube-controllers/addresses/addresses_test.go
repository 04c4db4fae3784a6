package addresses

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/kube-controllers/kubetest"
	"tortie/kube-controllers/state"
)

// world is a datastore with nodes a and b, and a Counter that follows it.
type world struct {
	*kubetest.World
	counter *Counter
	log     strings.Builder
}

func run(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{World: kubetest.New(t)}
		w.Put(&api.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
		w.counter = New(Config{Cache: w.Cache, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
		test(w)
	})
}

// settle lets the Counter see what has changed, and look at it.
func (w *world) settle() {
	time.Sleep(2 * lookEvery) // simulated
	synctest.Wait()
}

// shows checks that the metrics whose names begin with one of the prefixes are these.
func (w *world) shows(prefixes []string, want ...string) {
	w.Helper()
	var got []string
	for _, line := range lines(w.T, w.counter) {
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				got = append(got, line)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Error(diff)
	}
}

// lines are the samples of a collector.
func lines(t *testing.T, c prometheus.Collector) []string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var out []string
	for line := range strings.Lines(rec.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// said is what was logged since the last time.
func (w *world) said() string {
	defer w.log.Reset()
	return w.log.String()
}

func ippool(name, cidr string, blockSize int) *v3.IPPool {
	p := v3.NewIPPool()
	p.Name, p.Spec.CIDR, p.Spec.BlockSize = name, cidr, blockSize
	return p
}

// block puts a block as its value in the datastore: addresses in use by ordinal, with the
// node each is on.
func (w *world) block(cidr, owner string, used map[int]string) {
	w.Helper()
	w.Store.RawPut("/calico/ipam/v2/assignment/ipv4/block/"+strings.ReplaceAll(cidr, "/", "-"), blockValue(cidr, owner, used))
}

func blockValue(cidr, owner string, used map[int]string) []byte {
	prefix := netip.MustParsePrefix(cidr)
	var allocations, unallocated, attributes []string
	for n := range 1 << (32 - prefix.Bits()) {
		node, ok := used[n]
		if !ok {
			allocations, unallocated = append(allocations, "null"), append(unallocated, fmt.Sprint(n))
			continue
		}
		allocations = append(allocations, fmt.Sprint(len(attributes)))
		attributes = append(attributes, fmt.Sprintf(`{"handle_id":"h%d","secondary":{"node":%q}}`, n, node))
	}
	affinity := "null"
	if owner != "" {
		affinity = fmt.Sprintf("%q", "host:"+owner)
	}
	return fmt.Appendf(nil, `{"cidr":%q,"affinity":%s,"allocations":[%s],"unallocated":[%s],"attributes":[%s],"sequenceNumber":1}`,
		cidr, affinity, strings.Join(allocations, ","), strings.Join(unallocated, ","), strings.Join(attributes, ","))
}

// TestMetricsAreThoseOfTheWholeCluster under upstream's names, by pool and node.
func TestMetricsAreThoseOfTheWholeCluster(t *testing.T) {
	run(t, func(w *world) {
		w.Put(ippool("p", "10.0.0.0/24", 30), ippool("q", "10.1.0.0/24", 30))
		w.block("10.0.0.0/30", "a", map[int]string{0: "a", 1: "b", 2: ""})
		w.block("10.0.0.4/30", "b", map[int]string{0: "b"})
		w.block("10.0.0.8/30", "", map[int]string{3: "a"})
		w.block("10.1.0.0/30", "a", nil)
		w.block("10.9.0.0/30", "gone", nil)
		w.Start(w.counter)
		w.settle()
		w.shows([]string{"ipam_"},
			`ipam_allocations_borrowed{ippool="no_ippool",node="gone"} 0`,
			`ipam_allocations_borrowed{ippool="p",node="a"} 1`,
			`ipam_allocations_borrowed{ippool="p",node="b"} 1`,
			`ipam_allocations_borrowed{ippool="p",node="no_affinity"} 0`,
			`ipam_allocations_borrowed{ippool="p",node="unknown_node"} 0`,
			`ipam_allocations_borrowed{ippool="q",node="a"} 0`,
			`ipam_allocations_borrowed_per_node{node="a"} 1`,
			`ipam_allocations_borrowed_per_node{node="b"} 1`,
			`ipam_allocations_borrowed_per_node{node="gone"} 0`,
			`ipam_allocations_borrowed_per_node{node="no_affinity"} 0`,
			`ipam_allocations_borrowed_per_node{node="unknown_node"} 0`,
			`ipam_allocations_cooling{ippool="no_ippool",node="gone"} 0`,
			`ipam_allocations_cooling{ippool="p",node="a"} 0`,
			`ipam_allocations_cooling{ippool="p",node="b"} 0`,
			`ipam_allocations_cooling{ippool="p",node="no_affinity"} 0`,
			`ipam_allocations_cooling{ippool="p",node="unknown_node"} 0`,
			`ipam_allocations_cooling{ippool="q",node="a"} 0`,
			`ipam_allocations_free{ippool="no_ippool",node="gone"} 4`,
			`ipam_allocations_free{ippool="p",node="a"} 1`,
			`ipam_allocations_free{ippool="p",node="b"} 3`,
			`ipam_allocations_free{ippool="p",node="no_affinity"} 3`,
			`ipam_allocations_free{ippool="p",node="unknown_node"} 0`,
			`ipam_allocations_free{ippool="q",node="a"} 4`,
			`ipam_allocations_in_use{ippool="no_ippool",node="gone"} 0`,
			`ipam_allocations_in_use{ippool="p",node="a"} 2`,
			`ipam_allocations_in_use{ippool="p",node="b"} 2`,
			`ipam_allocations_in_use{ippool="p",node="no_affinity"} 0`,
			`ipam_allocations_in_use{ippool="p",node="unknown_node"} 1`,
			`ipam_allocations_in_use{ippool="q",node="a"} 0`,
			`ipam_allocations_per_node{node="a"} 2`,
			`ipam_allocations_per_node{node="b"} 2`,
			`ipam_allocations_per_node{node="gone"} 0`,
			`ipam_allocations_per_node{node="no_affinity"} 0`,
			`ipam_allocations_per_node{node="unknown_node"} 1`,
			`ipam_block_problems{problem="contradictory"} 0`,
			`ipam_block_problems{problem="outside_pools"} 1`,
			`ipam_block_problems{problem="owner_unknown"} 1`,
			`ipam_block_problems{problem="unreadable"} 0`,
			`ipam_blocks{ippool="no_ippool",node="gone"} 1`,
			`ipam_blocks{ippool="p",node="a"} 1`,
			`ipam_blocks{ippool="p",node="b"} 1`,
			`ipam_blocks{ippool="p",node="no_affinity"} 1`,
			`ipam_blocks{ippool="p",node="unknown_node"} 0`,
			`ipam_blocks{ippool="q",node="a"} 1`,
			`ipam_blocks_per_node{node="a"} 2`,
			`ipam_blocks_per_node{node="b"} 1`,
			`ipam_blocks_per_node{node="gone"} 1`,
			`ipam_blocks_per_node{node="no_affinity"} 1`,
			`ipam_blocks_per_node{node="unknown_node"} 0`,
			`ipam_ippool_blocks{ippool="p"} 64`,
			`ipam_ippool_blocks{ippool="q"} 64`,
			`ipam_ippool_blocks_claimed{ippool="p"} 3`,
			`ipam_ippool_blocks_claimed{ippool="q"} 1`,
			`ipam_ippool_nearly_full{ippool="p"} 0`,
			`ipam_ippool_nearly_full{ippool="q"} 0`,
			`ipam_ippool_size{ippool="p"} 256`,
			`ipam_ippool_size{ippool="q"} 256`,
		)
	})
}

// TestMetricsFollowWhatChanges: blocks that go, pools that come and go.
func TestMetricsFollowWhatChanges(t *testing.T) {
	run(t, func(w *world) {
		w.block("10.0.0.0/30", "a", map[int]string{0: "a"})
		w.Start(w.counter)
		w.settle()
		w.shows([]string{"ipam_allocations_in_use"}, `ipam_allocations_in_use{ippool="no_ippool",node="a"} 1`)
		w.Put(ippool("p", "10.0.0.0/24", 30))
		w.settle()
		w.shows([]string{"ipam_allocations_in_use"}, `ipam_allocations_in_use{ippool="p",node="a"} 1`)
		w.Store.RawDelete("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30")
		w.settle()
		w.shows([]string{"ipam_allocations_in_use", "ipam_ippool_size"}, `ipam_ippool_size{ippool="p"} 256`)
		if _, err := w.Store.Txn(t.Context(), datastore.Delete(api.Key{Kind: api.KindIPPool, Name: "p"}, mustGet(w, "p").Revision)); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.shows([]string{"ipam_ippool"})
	})
}

func mustGet(w *world, pool string) datastore.Entry {
	w.Helper()
	e, err := w.Store.Get(w.Context(), api.Key{Kind: api.KindIPPool, Name: pool})
	if err != nil {
		w.Fatal(err)
	}
	return e
}

// TestBrokenBlocksAreCountedAndStopNoOthers: in each way that a block can be broken.
func TestBrokenBlocksAreCountedAndStopNoOthers(t *testing.T) {
	const key = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.8-30"
	for name, tc := range map[string]struct{ value, problem string }{
		"no JSON":            {"{", "unreadable"},
		"of another block":   {string(blockValue("10.0.0.12/30", "a", nil)), "unreadable"},
		"too few addresses":  {`{"cidr":"10.0.0.8/30","affinity":"host:a","allocations":[null],"unallocated":[0],"attributes":[]}`, "unreadable"},
		"free and in use":    {strings.Replace(string(blockValue("10.0.0.8/30", "a", map[int]string{0: "a"})), `"unallocated":[`, `"unallocated":[0,`, 1), "contradictory"},
		"unknown attributes": {strings.Replace(string(blockValue("10.0.0.8/30", "a", map[int]string{0: "a"})), `"allocations":[0`, `"allocations":[7`, 1), "contradictory"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(w *world) {
				w.Put(ippool("p", "10.0.0.0/24", 30))
				w.block("10.0.0.0/30", "b", map[int]string{0: "b"})
				w.block("10.0.0.8/30", "a", nil)
				w.Start(w.counter)
				w.Store.RawPut(key, []byte(tc.value))
				w.settle()
				var got []string
				for _, line := range lines(t, w.counter) {
					if strings.HasPrefix(line, "ipam_block_problems") && !strings.HasSuffix(line, " 0") || strings.HasPrefix(line, `ipam_allocations_in_use{ippool="p",node="b"}`) {
						got = append(got, line)
					}
				}
				if diff := cmp.Diff([]string{`ipam_allocations_in_use{ippool="p",node="b"} 1`, `ipam_block_problems{problem="` + tc.problem + `"} 1`}, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestReleasedAddressesCool for as long as the configuration says.
func TestReleasedAddressesCool(t *testing.T) {
	run(t, func(w *world) {
		config := &api.IPAMConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		config.Spec = api.IPAMConfigSpec{AutoAllocateBlocks: true, IPCooldownSeconds: 300}
		w.Put(ippool("p", "10.0.0.0/24", 30), config)
		w.block("10.0.0.0/30", "a", map[int]string{0: "a", 1: "a", 2: "a"})
		w.Start(w.counter)
		w.settle()
		const of = `ipam_allocations_cooling{ippool="p",node="a"} `
		w.shows([]string{"ipam_allocations_cooling"}, of+"0")
		w.block("10.0.0.0/30", "a", map[int]string{0: "a"})
		w.settle()
		w.shows([]string{"ipam_allocations_cooling"}, of+"2")
		w.block("10.0.0.0/30", "a", map[int]string{0: "a", 2: "a"}) // one is given out again
		w.settle()
		w.shows([]string{"ipam_allocations_cooling"}, of+"1")
		time.Sleep(5 * time.Minute) // simulated
		w.shows([]string{"ipam_allocations_cooling"}, of+"0")
	})
}

// TestPoolAt80PercentIsSaidInLogAndMetrics once, and when it is over.
func TestPoolAt80PercentIsSaidInLogAndMetrics(t *testing.T) {
	run(t, func(w *world) {
		w.Put(ippool("p", "10.0.0.0/27", 30))
		for n := range 6 {
			w.block(fmt.Sprintf("10.0.0.%d/30", 4*n), "a", nil)
		}
		w.Start(w.counter)
		w.settle()
		if log := w.said(); log != "" {
			t.Errorf("6 of 8 blocks: %s", log)
		}
		w.block("10.0.0.24/30", "b", nil)
		w.settle()
		if log := w.said(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, "an IP pool is nearly full: add a pool") || !strings.Contains(log, "pool=p cidr=10.0.0.0/27 blocks=7 of=8") {
			t.Errorf("7 of 8 blocks: %q", log)
		}
		w.shows([]string{"ipam_ippool_nearly"}, `ipam_ippool_nearly_full{ippool="p"} 1`)
		w.block("10.0.0.24/30", "a", nil)
		w.settle()
		if log := w.said(); log != "" {
			t.Errorf("said twice: %s", log)
		}
		w.Store.RawDelete("/calico/ipam/v2/assignment/ipv4/block/10.0.0.24-30")
		w.settle()
		if log := w.said(); !strings.Contains(log, "don't run out any more") {
			t.Errorf("6 of 8 blocks again: %q", log)
		}
		w.shows([]string{"ipam_ippool_nearly"}, `ipam_ippool_nearly_full{ippool="p"} 0`)
	})
}

// TestNodeAt80PercentOfItsBlocksIsSaidInLogAndMetrics, with the limit as it is set.
func TestNodeAt80PercentOfItsBlocksIsSaidInLogAndMetrics(t *testing.T) {
	run(t, func(w *world) {
		config := &api.IPAMConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		config.Spec = api.IPAMConfigSpec{AutoAllocateBlocks: true, MaxBlocksPerHost: 5}
		w.Put(ippool("p", "10.0.0.0/24", 30), config)
		for n := range 3 {
			w.block(fmt.Sprintf("10.0.0.%d/30", 4*n), "a", nil)
		}
		w.Start(w.counter)
		w.settle()
		w.block("10.0.0.24/30", "a", nil)
		w.settle()
		if log := w.said(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "calicoctl ipam configure --max-blocks-per-host") || !strings.Contains(log, "node=a blocks=4 limit=5 ip-version=4") {
			t.Errorf("4 of 5 blocks: %q", log)
		}
		w.shows([]string{"ipam_node_nearly"}, `ipam_node_nearly_at_block_limit{ip_version="4",node="a"} 1`)
		config.Spec.MaxBlocksPerHost = 0 // 20
		w.Put(config)
		w.settle()
		if log := w.said(); !strings.Contains(log, "don't run out any more") {
			t.Errorf("4 of 20 blocks: %q", log)
		}
		w.shows([]string{"ipam_node_nearly"})
	})
}

// big is a Counter of 10,000 full blocks on 1,000 nodes.
func big(b *testing.B) (*Counter, datastore.Entry) {
	b.Helper()
	cache := state.New(state.Indexes())
	c := New(Config{Cache: cache, Log: slog.New(slog.DiscardHandler)})
	key := api.Key{Kind: api.KindIPPool, Name: "p"}
	updates := []datastore.SyncUpdate{{Key: key, Entry: &datastore.Entry{Key: key, Object: ippool("p", "10.0.0.0/8", 26)}}}
	var last datastore.Entry
	for n := range 10_000 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 10), byte(n >> 2), byte(n << 6)}), 26)
		owner := fmt.Sprintf("node-%d", n%1000)
		affinity := api.HostAffinity(owner).String()
		spec := api.IPAMBlockSpec{CIDR: prefix.String(), Affinity: &affinity, Allocations: make([]*int, 64), Unallocated: []int{}, SequenceNumberForAllocation: map[string]uint64{}}
		for i := range 64 {
			handle, index := fmt.Sprintf("h-%d-%d", n, i), i
			spec.Attributes = append(spec.Attributes, api.BlockAttributes{HandleID: &handle, ActiveOwnerAttrs: map[string]string{
				api.AttributeNode: owner, api.AttributeNamespace: "ns", api.AttributePod: fmt.Sprintf("pod-%d-%d", n, i),
			}})
			spec.Allocations[i] = &index
		}
		last = datastore.Entry{Key: api.BlockKey(prefix), Object: &api.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: prefix.String()}, Spec: spec}}
		updates = append(updates, datastore.SyncUpdate{Key: last.Key, Entry: &last})
	}
	for i := range updates { // each its own entry
		e := *updates[i].Entry
		updates[i].Entry = &e
	}
	cache.OnUpdates(updates)
	if c.sum(time.Now()).claimed["p"] != 10_000 {
		b.Fatal("not all blocks are counted")
	}
	return c, last
}

// BenchmarkScrape is one look at the metrics of 10,000 full blocks on 1,000 nodes;
// the text that Prometheus gets is not in it.
func BenchmarkScrape(b *testing.B) {
	c, _ := big(b)
	for b.Loop() {
		ch := make(chan prometheus.Metric, 10_000)
		c.Collect(ch)
	}
}

// BenchmarkBlockChange is what one change of a full block costs.
func BenchmarkBlockChange(b *testing.B) {
	c, entry := big(b)
	for b.Loop() {
		c.blockChanged(&entry, &entry, entry.Key)
	}
}

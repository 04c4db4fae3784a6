package daemon

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/felix/config"
	"tortie/felix/pathmtu"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/ipam"
)

func TestMetricsShowTheNodesAddresses(t *testing.T) {
	for _, tc := range []struct {
		goMetrics bool
		want      []string
	}{
		{true, []string{"ipam_block_limit 20\n", "\ngo_goroutines ", "\nprocess_open_fds "}},
		{false, []string{"ipam_block_limit 20\n", "ipam_transactions_total{result=\"committed\"} 0\n", "felix_path_mtu_black_holes 0\n", "felix_path_mtu_looks_total{result=\"lost\"} 0\n"}},
	} {
		f := &felix{
			config:    newConfigFollower("n", nil, config.Config{GoMetrics: tc.goMetrics, ProcessMetrics: tc.goMetrics}, slog.New(slog.DiscardHandler)),
			pathMTU:   pathmtu.New(pathmtu.Config{}),
			allocator: ipam.New(ipam.Config{Client: memory.New(api.NewRegistry()), Node: "n", View: ipam.NewTracker("n")}),
		}
		defer f.allocator.Close()
		w := httptest.NewRecorder()
		f.metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for _, want := range tc.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("go metrics %v: %q is missing in\n%s", tc.goMetrics, want, w.Body)
			}
		}
		if !tc.goMetrics && strings.Contains(w.Body.String(), "go_goroutines") {
			t.Error("metrics of the Go runtime, though they are switched off")
		}
	}
}

func TestAddressesThatRunOutAreAProblem(t *testing.T) {
	store, tracker := memory.New(api.NewRegistry()), ipam.NewTracker("n")
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR, pool.Spec.BlockSize = "p", "10.0.0.0/30", 31
	node := &api.Node{TypeMeta: metav1.TypeMeta{Kind: string(api.KindNode), APIVersion: api.GroupVersion}, ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	for key, obj := range map[api.Key]api.Object{{Kind: api.KindIPPool, Name: "p"}: pool, {Kind: api.KindNode, Name: "n"}: node} {
		rev, err := store.Txn(t.Context(), datastore.Put(key, obj))
		if err != nil {
			t.Fatal(err)
		}
		tracker.Apply([]datastore.SyncUpdate{{Key: key, Entry: &datastore.Entry{Key: key, Object: obj, Revision: rev}}})
	}
	f := &felix{allocator: ipam.New(ipam.Config{Client: store, Node: "n", View: tracker})}
	defer f.allocator.Close()
	if found := f.addressProblems(); len(found) != 0 {
		t.Errorf("an empty pool: %v", found)
	}
	if _, err := f.allocator.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 4}); err != nil {
		t.Fatal(err)
	}
	found := f.addressProblems()
	if len(found) != 1 || found[0].Reason != "AddressesRunOut" || !strings.Contains(found[0].Line, "IP pool p (10.0.0.0/30): nodes have 2 of its 2 blocks: add a pool") {
		t.Errorf("a full pool: %v", found)
	}
}

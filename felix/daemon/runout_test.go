package daemon

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/felix/problems"
	"tortie/internal/api"
	"tortie/internal/control/felixstatus"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/kubeevent"
	"tortie/ipam"
	"tortie/ipam/ipammetrics"
)

// TestAddressesThatRunOutAreSaidEverywhere: at 80 % of a pool, and of the blocks that a
// node may have, in the log, in the status, in a metric, and in an Event of the Node.
func TestAddressesThatRunOutAreSaidEverywhere(t *testing.T) {
	for name, tc := range map[string]struct {
		cidr  string
		limit int
		few   int // addresses with which nothing is to be said
		what  string
		line  string
	}{
		"of a pool": {"10.0.0.0/29", 0, 5, "pool p", "IP pool p (10.0.0.0/29): nodes have 4 of its 4 blocks: add a pool (kind: IPPool, calicoctl apply), or find blocks to free"},
		"of a node": {"10.0.0.0/24", 5, 6, "IPv4 blocks", "this node has 4 of the 5 IPv4 blocks it may have: raise the limit (calicoctl ipam configure "},
	} {
		t.Run(name, func(t *testing.T) {
			n := newRunOut(t, tc.cidr, tc.limit)
			n.assign("few", tc.few)
			n.look()
			if log := n.log.String(); log != "" || len(n.told.warnings) > 0 || strings.Contains(n.metrics(), "ipam_nearly_used_up{") {
				t.Errorf("with %d addresses: %s %v", tc.few, log, n.told.warnings)
			}
			n.assign("more", 8-tc.few)
			n.look()
			if log := n.log.String(); strings.Count(log, "AddressesRunOut") != 1 || !strings.Contains(log, tc.line) {
				t.Errorf("log: %q", log)
			}
			if status, err := felixstatus.Read(n.teller.path); err != nil || len(status.Problems) != 1 || !strings.Contains(status.Problems[0], tc.line) {
				t.Errorf("status: %+v, %v", status, err)
			}
			if want := `ipam_nearly_used_up{what="` + tc.what + `"} 1`; !strings.Contains(n.metrics(), want) {
				t.Errorf("metrics lack %s:\n%s", want, n.metrics())
			}
			n.event(tc.line)
		})
	}
}

// runOut is what tells of a node's addresses, with an API server that takes Events.
type runOut struct {
	*testing.T
	f      *felix
	log    strings.Builder
	told   *told
	teller *teller
	board  *problems.Board
}

func newRunOut(t *testing.T, cidr string, limit int) *runOut {
	t.Helper()
	store, tracker := memory.New(api.NewRegistry()), ipam.NewTracker("n")
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR, pool.Spec.BlockSize = "p", cidr, 31
	node := &api.Node{TypeMeta: metav1.TypeMeta{Kind: string(api.KindNode), APIVersion: api.GroupVersion}, ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	config := &api.IPAMConfig{TypeMeta: metav1.TypeMeta{Kind: string(api.KindIPAMConfig), APIVersion: api.GroupVersion}, ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	config.Spec = api.IPAMConfigSpec{AutoAllocateBlocks: true, MaxBlocksPerHost: limit}
	for key, obj := range map[api.Key]api.Object{{Kind: api.KindIPPool, Name: "p"}: pool, {Kind: api.KindNode, Name: "n"}: node, api.IPAMConfigKey(): config} {
		rev, err := store.Txn(t.Context(), datastore.Put(key, obj))
		if err != nil {
			t.Fatal(err)
		}
		tracker.Apply([]datastore.SyncUpdate{{Key: key, Entry: &datastore.Entry{Key: key, Object: obj, Revision: rev}}})
	}
	n := &runOut{T: t, f: &felix{allocator: ipam.New(ipam.Config{Client: store, Node: "n", View: tracker})}, told: &told{}}
	t.Cleanup(n.f.allocator.Close)
	log := slog.New(slog.NewTextHandler(&n.log, nil))
	n.teller = &teller{log: log, events: n.told, path: filepath.Join(t.TempDir(), "status"), status: felixstatus.Status{Node: "n"}}
	n.board = problems.New(log, n.teller.show, n.f.addressProblems)
	return n
}

func (n *runOut) assign(handle ipam.HandleID, count int) {
	n.Helper()
	if _, err := n.f.allocator.AutoAssign(n.Context(), ipam.Request{Handle: handle, Num4: count}); err != nil {
		n.Fatal(err)
	}
}

// look looks as often as makes something a problem.
func (n *runOut) look() { n.board.Look(); n.board.Look() }

func (n *runOut) metrics() string {
	registry := prometheus.NewRegistry()
	registry.MustRegister(ipammetrics.New(n.f.allocator))
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return rec.Body.String()
}

// event checks that what was told makes one Event of the Node that has a line.
func (n *runOut) event(line string) {
	n.Helper()
	var got struct {
		InvolvedObject  kubeevent.Object
		Type            string
		Reason, Message string
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			n.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
	}))
	defer server.Close()
	base, err := url.Parse(server.URL)
	if err != nil || len(n.told.warnings) != 1 {
		n.Fatal(err, n.told.warnings)
	}
	if err := kubeevent.Say(n.Context(), kubeevent.API{Client: server.Client(), Base: base, Component: "felix", Host: "n"}, []kubeevent.Object{kubeevent.Node("n")}, n.told.warnings[0]); err != nil {
		n.Fatal(err)
	}
	if got.InvolvedObject != kubeevent.Node("n") || got.Type != "Warning" || got.Reason != "AddressesRunOut" || !strings.Contains(got.Message, line) {
		n.Errorf("event %+v", got)
	}
}

// TestConfigurationOfAddressesThatCanNotBeReadIsAProblem, and what holds instead.
func TestConfigurationOfAddressesThatCanNotBeReadIsAProblem(t *testing.T) {
	const advice = ": put IPAMConfig default right, which can't be read (broken): look at it with etcdctl get /calico/ipam/v2/config; " +
		"or delete it there, and set it anew with calicoctl ipam configure"
	f, key := &felix{addressing: ipam.NewTracker("n")}, api.IPAMConfigKey()
	broken := datastore.SyncUpdate{Key: key, Invalid: &datastore.Invalid{Key: key, Err: errors.New("broken")}}
	whole := datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: &api.IPAMConfig{}}}
	for i, step := range []struct {
		update datastore.SyncUpdate
		want   string
	}{
		{datastore.SyncUpdate{Key: key}, ""},
		{broken, "addresses are given out of the blocks that this node has alone, as nobody knows whether it may claim others or borrow" + advice},
		{whole, ""},
		{broken, "addresses are given out by the last IPAMConfig that could be read" + advice},
	} {
		f.addressing.Apply([]datastore.SyncUpdate{step.update})
		var lines []string
		for _, p := range f.ipamConfigProblem() {
			lines = append(lines, p.Line)
		}
		if got := strings.Join(lines, "\n"); got != step.want {
			t.Errorf("%d: %q, want %q", i, got, step.want)
		}
	}
}

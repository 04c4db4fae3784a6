package datastore_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

func fixedClock() time.Time { return time.Date(2026, 11, 22, 2, 0, 29, 5e8, time.UTC) }

func newResources(t *testing.T) (*datastore.Resources, *memory.Store) {
	t.Helper()
	reg := api.NewRegistry()
	store := memory.New(reg)
	return datastore.NewResources(store, reg, fixedClock), store
}

func TestCreateDefaultsAndStampsWhatItWrites(t *testing.T) {
	r, store := newResources(t)
	e, err := r.Create(t.Context(), newPool("pool-v4", "10.20.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := store.RawGet(poolRoot + "pool-v4")
	uid := string(e.Object.GetUID())
	want := `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"pool-v4","uid":"` + uid +
		`","creationTimestamp":"2026-11-22T02:00:29Z"},"spec":{"cidr":"10.20.0.0/16","vxlanMode":"Never","ipipMode":"Never",` +
		`"blockSize":26,"nodeSelector":"all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}}`
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Error(diff)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(uid) {
		t.Errorf("uid %q is not a random UUID", uid)
	}
	if stored, err := store.Get(t.Context(), e.Key); err != nil || stored.Revision != e.Revision ||
		stored.Object.GetResourceVersion() != e.Object.GetResourceVersion() {
		t.Errorf("returned revision %d, stored %d, %v", e.Revision, stored.Revision, err)
	}
}

func TestCreateRefusesWhatExistsAndWhatIsFaulty(t *testing.T) {
	r, store := newResources(t)
	if _, err := r.Create(t.Context(), newPool("a", "10.20.0.0/16")); err != nil {
		t.Fatal(err)
	}
	before := store.Revision()
	_, err := r.Create(t.Context(), newPool("a", "10.30.0.0/16"))
	if !errors.Is(err, datastore.ErrAlreadyExists) || err.Error() != "create IPPool(a): already exists" {
		t.Errorf("got %v", err)
	}
	_, err = r.Create(t.Context(), newPool("b", "10.20.0.1/16"))
	var invalid *api.ValidationError
	if !errors.As(err, &invalid) {
		t.Errorf("got %v, want a ValidationError", err)
	}
	if store.Revision() != before {
		t.Error("something was written")
	}
}

func TestReplaceKeepsIdentityAndUnknownFields(t *testing.T) {
	r, store := newResources(t)
	store.RawPut(poolRoot+"a", []byte(`{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a","uid":"u-1","creationTimestamp":"2020-01-01T00:00:00Z"},"spec":{"cidr":"10.20.0.0/16","new":1}}`))
	if _, err := r.Replace(t.Context(), newPool("a", "10.20.0.0/16")); err != nil {
		t.Fatal(err)
	}
	raw, _ := store.RawGet(poolRoot + "a")
	for _, want := range []string{`"uid":"u-1"`, `"creationTimestamp":"2020-01-01T00:00:00Z"`, `"new":1`, `"nodeSelector":"all()"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("stored %s lacks %s", raw, want)
		}
	}
}

func TestReplaceHonoursAResourceVersion(t *testing.T) {
	r, _ := newResources(t)
	e, err := r.Create(t.Context(), newPool("a", "10.20.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	pinned := e.Object.DeepCopyObject().(*v3.IPPool)
	again := newPool("a", "10.20.0.0/16")
	again.Labels = map[string]string{"x": "y"}
	if _, err := r.Replace(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Replace(t.Context(), pinned); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("an old version: got %v", err)
	}
	pinned.ResourceVersion = again.ResourceVersion
	if _, err := r.Replace(t.Context(), pinned); err != nil {
		t.Errorf("the present version: %v", err)
	}
	if _, err := r.Replace(t.Context(), newPool("absent", "10.40.0.0/16")); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("of nothing: got %v", err)
	}
}

func TestApplyCreatesOrReplaces(t *testing.T) {
	r, store := newResources(t)
	for i, wantCreated := range []bool{true, false} {
		p := newPool("a", "10.20.0.0/16")
		p.Labels = map[string]string{"round": string(rune('0' + i))}
		e, created, err := r.Apply(t.Context(), p)
		if err != nil || created != wantCreated {
			t.Fatalf("round %d: created %v, %v", i, created, err)
		}
		stored, err := store.Get(t.Context(), e.Key)
		if err != nil || stored.Object.GetLabels()["round"] != p.Labels["round"] || stored.Object.GetUID() == "" {
			t.Errorf("round %d: stored %v, %v", i, stored.Object.GetLabels(), err)
		}
	}
	gone := newPool("b", "10.30.0.0/16")
	gone.ResourceVersion = "5"
	if _, _, err := r.Apply(t.Context(), gone); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("a version of something that is gone: %v", err)
	}
}

func TestApplyFromManyWritersLosesNobody(t *testing.T) {
	r, store := newResources(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := r.Apply(context.Background(), newPool("a", "10.20.0.0/16")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := store.Revision(); got != 9 {
		t.Errorf("revision %d after 8 writes", got)
	}
}

func TestUpdateRefusesAStaleEntry(t *testing.T) {
	r, store := newResources(t)
	if _, err := r.Create(t.Context(), newPool("a", "10.20.0.0/16")); err != nil {
		t.Fatal(err)
	}
	first, err := store.Get(t.Context(), poolKey("a"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := store.Get(t.Context(), poolKey("a"))
	if err != nil {
		t.Fatal(err)
	}
	updated, err := r.Update(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Update(t.Context(), second); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("got %v", err)
	}
	if _, err := r.Update(t.Context(), updated); err != nil {
		t.Errorf("with what Update returned: %v", err)
	}
}

func TestEnsureInitializedWritesWhatUpstreamWrites(t *testing.T) {
	reg := api.NewRegistry()
	store := memory.New(reg)
	if err := datastore.EnsureInitialized(t.Context(), store, reg, fixedClock); err != nil {
		t.Fatal(err)
	}
	const root = "/calico/resources/v3/projectcalico.org/"
	meta := func(name string) string {
		return `"metadata":{"name":"` + name + `","uid":"UID","creationTimestamp":"2026-11-22T02:00:29Z"}`
	}
	head := func(kind string) string { return `{"kind":"` + kind + `","apiVersion":"projectcalico.org/v3",` }
	want := map[string]string{
		root + "clusterinformations/default": head("ClusterInformation") + meta("default") + `,"spec":{"clusterGUID":"GUID","datastoreReady":true}}`,
		root + "tiers/default":               head("Tier") + meta("default") + `,"spec":{"order":1000000,"defaultAction":"Deny"},"status":{}}`,
		root + "tiers/kube-admin":            head("Tier") + meta("kube-admin") + `,"spec":{"order":1000,"defaultAction":"Pass"},"status":{}}`,
		root + "tiers/kube-baseline":         head("Tier") + meta("kube-baseline") + `,"spec":{"order":10000000,"defaultAction":"Pass"},"status":{}}`,
	}
	uid := regexp.MustCompile(`"uid":"[0-9a-f-]{36}"`)
	guid := regexp.MustCompile(`"clusterGUID":"[0-9a-f]{32}"`)
	got := map[string]string{}
	for _, path := range store.Paths("") {
		raw, _ := store.RawGet(path)
		got[path] = guid.ReplaceAllString(uid.ReplaceAllString(string(raw), `"uid":"UID"`), `"clusterGUID":"GUID"`)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEnsureInitializedLeavesWhatExists(t *testing.T) {
	reg := api.NewRegistry()
	store := memory.New(reg)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := datastore.EnsureInitialized(context.Background(), store.Client(), reg, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := store.Revision(); got != 5 {
		t.Errorf("revision %d: want four writes in all", got)
	}
	store.RawPut("/calico/resources/v3/projectcalico.org/tiers/default", []byte("unreadable"))
	if err := datastore.EnsureInitialized(t.Context(), store, reg, nil); err != nil {
		t.Error(err)
	}
	if got := store.Revision(); got != 6 {
		t.Error("something was written")
	}
}

func TestReadyFollowsTheClusterInformation(t *testing.T) {
	reg := api.NewRegistry()
	store := memory.New(reg)
	check := func(want bool) {
		t.Helper()
		if got, err := datastore.Ready(t.Context(), store); got != want || err != nil {
			t.Errorf("ready %v, %v; want %v", got, err, want)
		}
	}
	check(false)
	if err := datastore.EnsureInitialized(t.Context(), store, reg, nil); err != nil {
		t.Fatal(err)
	}
	check(true)
	locked := false
	info := &v3.ClusterInformation{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.ClusterInformationSpec{DatastoreReady: &locked}}
	key := api.Key{Kind: api.KindClusterInformation, Name: "default"}
	if _, err := store.Txn(t.Context(), datastore.Put(key, info)); err != nil {
		t.Fatal(err)
	}
	check(false)
}

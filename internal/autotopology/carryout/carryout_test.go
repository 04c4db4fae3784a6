package carryout

import (
	"context"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

// meddler changes the datastore just before somebody else's next write.
type meddler struct {
	datastore.Client
	before func()
}

func (m *meddler) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	if f := m.before; f != nil {
		m.before = nil
		f()
	}
	return m.Client.Txn(ctx, ops...)
}

func cluster(t *testing.T) (*memory.Store, *datastore.Resources, *meddler, Runner) {
	t.Helper()
	reg := api.NewRegistry()
	store := memory.New(reg)
	resources := datastore.NewResources(store, reg, time.Now)
	conf := v3.NewBGPConfiguration()
	conf.Name, conf.Annotations = "default", map[string]string{api.AnnotationAutoTopology: "above=1"}
	for _, o := range []api.Object{
		conf,
		&api.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: "10.0.0.1/24"}}},
		&api.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}, Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: "10.0.0.2/24"}}},
	} {
		if _, err := resources.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	client := &meddler{Client: store}
	return store, resources, client, Runner{Client: client, Registry: reg, Now: time.Now}
}

func TestStepIsNotMadeOnWhatHasChangedMeanwhile(t *testing.T) {
	store, resources, client, runner := cluster(t)
	peer := api.Key{Kind: api.KindBGPPeer, Name: api.AutoTopologyPeer}
	client.before = func() {
		e, err := store.Get(t.Context(), api.Key{Kind: api.KindBGPConfiguration, Name: "default"})
		if err != nil {
			t.Fatal(err)
		}
		e.Object = e.Object.DeepCopyObject().(api.Object)
		e.Object.SetAnnotations(map[string]string{api.AnnotationAutoTopology: "off"})
		if _, err := resources.Update(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	out, err := runner.Once(t.Context())
	if err != nil || out.Step != nil || len(out.Wait) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := store.Get(t.Context(), peer); err == nil {
		t.Error("the BGPPeer was made although auto-topology had been switched off")
	}
}

func TestWhatCannotBeReadStopsEverything(t *testing.T) {
	store, _, _, runner := cluster(t)
	store.RawPut("/calico/resources/v3/projectcalico.org/nodes/n3", []byte("{"))
	if _, err := runner.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "nodes/n3 can't be read") {
		t.Errorf("%v", err)
	}
}

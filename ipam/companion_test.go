package ipam_test

import (
	"fmt"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

// endpointFor is a companion: a WorkloadEndpoint that names the addresses.
func endpointFor(pod string) *ipam.Companion {
	return &ipam.Companion{Make: func(got []ipam.Assignment) (api.Key, api.Object) {
		wep := &api.WorkloadEndpoint{
			TypeMeta:   metav1.TypeMeta{Kind: string(api.KindWorkloadEndpoint), APIVersion: api.GroupVersion},
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("n-k8s-%s-eth0", pod)},
		}
		for _, a := range got {
			wep.Spec.IPNetworks = append(wep.Spec.IPNetworks, a.Addr.String())
		}
		return api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "default", Name: wep.Name}, wep
	}}
}

func endpointsOf(t *testing.T, c *cluster) map[string][]string {
	t.Helper()
	snap, err := c.store.List(t.Context(), datastore.Range{Kind: api.KindWorkloadEndpoint})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, e := range snap.Entries {
		all[e.Key.Name] = e.Object.(*api.WorkloadEndpoint).Spec.IPNetworks
	}
	return all
}

func TestCompanionIsCreatedInTheTransactionOfItsAddresses(t *testing.T) {
	c := faultCluster(t)
	a := c.allocator("n", c.store)
	assign(t, a, "warm", 1, 1) // blocks are claimed
	before := c.store.Revision()
	with := endpointFor("p")
	got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1, Num6: 1, With: with})
	if err != nil {
		t.Fatal(err)
	}
	if after := c.store.Revision(); after != before+1 {
		t.Errorf("%d transactions, want 1", after-before)
	}
	want := fmt.Sprint(map[string][]string{"n-k8s-p-eth0": {got[0].Addr.String(), got[1].Addr.String()}})
	if have := fmt.Sprint(endpointsOf(t, c)); !with.Created || have != want {
		t.Errorf("created %v, endpoints %s, want %s", with.Created, have, want)
	}
}

func TestTakenKeyOfACompanionDoesNotKeepTheAddressesBack(t *testing.T) {
	for _, taken := range []string{`{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"n-k8s-p-eth0","namespace":"default"},"spec":{}}`, "not JSON"} {
		c := faultCluster(t)
		key := api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "default", Name: "n-k8s-p-eth0"}
		path, err := api.NewRegistry().Path(key)
		if err != nil {
			t.Fatal(err)
		}
		c.store.RawPut(path, []byte(taken))
		a := c.allocator("n", c.store)
		with := endpointFor("p")
		got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1, With: with})
		if err != nil || len(got) != 1 || with.Created {
			t.Errorf("assigned %v, created %v, error %v", got, with.Created, err)
		}
		if raw, _ := c.store.RawGet(path); string(raw) != taken {
			t.Errorf("the object that was there is now %s", raw)
		}
		if err := ipamtest.Check(t.Context(), c.store); err != nil {
			t.Error(err)
		}
	}
}

func TestObjectTheStoreRefusesDoesNotKeepTheAddressesBack(t *testing.T) {
	c := faultCluster(t)
	a := c.allocator("n", c.store)
	with := &ipam.Companion{Make: func([]ipam.Assignment) (api.Key, api.Object) {
		return api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "default", Name: "x"}, &api.IPAMHandle{}
	}}
	got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1, With: with})
	if err != nil || len(got) != 1 || with.Created {
		t.Errorf("assigned %v, created %v, error %v", got, with.Created, err)
	}
}

// Many at once, half of them with companions of one and the same key: everyone is
// served, and exactly one of those that share a key has its object.
func TestCompanionsOfConcurrentCalls(t *testing.T) {
	c := newCluster(t, newPool("p4", "10.0.0.0/24", blockSize(26)), newNode("n", nil))
	a := c.allocator("n", c.store)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created := map[string]int{}
	for i := range 40 {
		wg.Go(func() {
			pod := fmt.Sprintf("p%d", i)
			if i%2 == 0 {
				pod = "same"
			}
			with := endpointFor(pod)
			_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(fmt.Sprintf("h%d", i)), Num4: 1, With: with})
			if err != nil {
				t.Error(err)
			}
			if with.Created {
				mu.Lock()
				created[pod]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if created["same"] != 1 || len(created) != 21 || len(endpointsOf(t, c)) != 21 {
		t.Errorf("created %v, endpoints %v", created, endpointsOf(t, c))
	}
	if err := ipamtest.Check(t.Context(), c.store); err != nil {
		t.Error(err)
	}
}

package api_test

import (
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// TestSalvageReadsEachFieldThatCanBe: one that can't takes no other with it, and what is no
// JSON has none.
func TestSalvageReadsEachFieldThatCanBe(t *testing.T) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindIPPool, Name: "p"}
	obj, ok := reg.Salvage(key, []byte(`{"kind":7,"metadata":{"name":"other","uid":"u","creationTimestamp":"no time","labels":{"a":"b"}},
		"spec":{"cidr":"10.65.0.0/16","natOutgoing":"true","blockSize":"x","vxlanMode":"Always","allowedUses":["Workload",7]},"status":[]}`))
	pool, isPool := obj.(*v3.IPPool)
	if !ok || !isPool {
		t.Fatalf("salvaged %v, %v", obj, ok)
	}
	if pool.Name != "p" || pool.UID != "u" || !pool.CreationTimestamp.IsZero() || pool.Labels["a"] != "b" {
		t.Errorf("metadata %+v", pool.ObjectMeta)
	}
	if s := pool.Spec; s.CIDR != "10.65.0.0/16" || s.NATOutgoing || s.BlockSize != 0 || s.VXLANMode != v3.VXLANModeAlways || s.AllowedUses != nil {
		t.Errorf("spec %+v", s)
	}
	for _, text := range []string{"", `{"kind`, `[]`, `null`, `"x"`} {
		if obj, ok := reg.Salvage(key, []byte(text)); ok {
			t.Errorf("of %q: %v", text, obj)
		}
	}
	if obj, ok := reg.Salvage(api.IPAMConfigKey(), []byte(`{}`)); ok {
		t.Errorf("of a record of IPAM, which has no fields of a resource: %v", obj)
	}
}

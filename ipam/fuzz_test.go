package ipam

import (
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// FuzzStoredBlock has any value under a block's key: it is refused, naming the key, or
// whatever is done with the block keeps it sound.
func FuzzStoredBlock(f *testing.F) {
	for _, seed := range []string{
		`{"cidr":"10.0.0.0/30","affinity":"host:n","allocations":[0,null,null,1],"unallocated":[2,1],"attributes":[{"handle_id":"h","secondary":{"node":"n"}},{"handle_id":null,"secondary":null}],"sequenceNumber":7,"sequenceNumberForAllocation":{"0":6},"deleted":false}`,
		`{"cidr":"10.0.0.0/30","allocations":[0,null,null,null],"unallocated":[1,1]}`,
		`{"cidr":"10.0.0.0/8"}`, `{"cidr":"10.0.0.1/30"}`, `{"cidr":"10.0.0.0/30","allocations":[-1,5,null,null],"attributes":[]}`, `{}`, `garbage`,
	} {
		f.Add([]byte(seed))
	}
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindIPAMBlock, Name: "10.0.0.0/30"}
	f.Fuzz(func(t *testing.T, value []byte) {
		obj, unknown, err := reg.Decode(key, value)
		if err != nil {
			return
		}
		stored, err := asBlock(datastore.Entry{Key: key, Object: obj, Unknown: unknown, Revision: 1})
		if err != nil {
			return
		}
		_, _ = stored.owner()
		b := stored.clone()
		handle := "new"
		taken := b.assign(2, api.BlockAttributes{HandleID: &handle}, reservations{})
		for n := range b.spec.Allocations {
			taken = append(taken, b.assignAt(n, api.BlockAttributes{HandleID: &handle})...)
		}
		b.seal()
		if _, err := openBlock(b.spec); err != nil {
			t.Fatalf("after assigning %v: %v", taken, err)
		}
		b.release(taken)
		b.release(b.held(HandleID("h")))
		b.keepBack(BlockReserve{First: 1, Last: 1})
		b.disown()
		b.seal()
		if _, err := openBlock(b.spec); err != nil {
			t.Fatalf("after releasing: %v", err)
		}
		if _, err := reg.Encode(stored.with(b).Object, unknown); err != nil {
			t.Fatal(err)
		}
	})
}

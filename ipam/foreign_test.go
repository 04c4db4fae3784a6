package ipam_test

import (
	"errors"
	"net/netip"
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// foreignPaths are keys of every kind that the allocator reads.
var foreignPaths = []string{
	"/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30",
	"/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-30",
	"/calico/ipam/v2/host/m/ipv4/block/10.0.0.0-30",
	"/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.0.0.0-30",
	"/calico/ipam/v2/handle/h",
	"/calico/tortie/v1/history/10.0.0.0-30.0",
}

// FuzzForeignValuesStopNoAllocation has two values that anybody may have written under
// keys of the allocator: it assigns from the other blocks all the same, nothing that is in
// use, and whatever it can't do is an error that names the key.
func FuzzForeignValuesStopNoAllocation(f *testing.F) {
	for path, value := range map[uint8]string{
		0: `{"cidr":"10.0.0.0/30","affinity":"host:n","allocations":[0,null,null,0],"unallocated":[2,1],"attributes":[{"handle_id":"h","secondary":{"node":"n"}}],"sequenceNumber":7,"sequenceNumberForAllocation":{"0":6},"deleted":false}`,
		1: `{"state":"confirmed","deleted":false}`, 2: `{"state":"pendingDeletion"}`, 3: ``,
		4: `{"block":{"10.0.0.0/30":2,"fd00::/122":-1,"x":1},"deleted":false}`,
		5: `{"first":0,"releases":[{"address":"10.0.0.1","released":"2026-11-22T02:00:29Z"},{"address":"x"}]}`,
	} {
		f.Add(path, []byte(value), uint8(4), []byte("garbage"))
		f.Add(path, []byte(value), uint8(0), []byte(`{"cidr":"10.0.0.0/30","affinity":"virtual:x","allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":[]}`))
	}
	f.Fuzz(func(t *testing.T, first uint8, one []byte, second uint8, two []byte) {
		c := newCluster(t, newPool("p", "10.0.0.0/28", blockSize(30)), newNode("n", nil), newNode("m", nil),
			newConfig(func(s *api.IPAMConfigSpec) { s.IPCooldownSeconds = 60 }))
		c.store.RawPut(foreignPaths[int(first)%len(foreignPaths)], one)
		c.store.RawPut(foreignPaths[int(second)%len(foreignPaths)], two)
		inUse := c.allocated(netip.MustParsePrefix("10.0.0.0/30"))
		a := c.allocator("n")
		var got []netip.Addr
		for _, handle := range []ipam.HandleID{"a", "b", "c"} {
			assigned, err := a.AutoAssign(t.Context(), ipam.Request{Handle: handle, Num4: 2})
			if err != nil {
				t.Fatalf("%s: %v", handle, err)
			}
			for _, at := range assigned {
				if inUse[at.Addr] {
					t.Fatalf("%s was in use", at.Addr)
				}
				got = append(got, at.Addr)
			}
		}
		if _, err := a.AssignIP(t.Context(), netip.MustParseAddr("10.0.0.2"), ipam.Request{Handle: "d"}); err != nil {
			if refused := new(ipam.AddressError); !errors.As(err, &refused) && !errors.Is(err, datastore.ErrInvalid) {
				t.Fatalf("assign a given one: %v", err)
			}
		}
		if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil && !errors.Is(err, datastore.ErrInvalid) {
			t.Fatalf("release what others hold: %v", err)
		}
		for _, handle := range []ipam.HandleID{"a", "b", "c"} {
			if freed, err := a.ReleaseByHandle(t.Context(), handle); err != nil || len(freed) != 2 {
				t.Fatalf("release %s of %v: %v, %v", handle, got, freed, err)
			}
		}
	})
}

// allocated are the addresses that a block, if it can be read, has given out.
func (c *cluster) allocated(block netip.Prefix) map[netip.Addr]bool {
	inUse := map[netip.Addr]bool{}
	entry, err := c.store.Get(c.t.Context(), api.BlockKey(block))
	if err != nil {
		return inUse
	}
	allocations, err := ipam.AllocationsOf(entry)
	if err != nil {
		return inUse
	}
	for _, a := range allocations {
		inUse[a.Addr] = true
	}
	return inUse
}

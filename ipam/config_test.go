package ipam_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

var errBadConfig = errors.New("strict_affinity: want true or false")

// spoil makes the configuration one that the node can't read.
func (c *cluster) spoil(node string) {
	key := api.IPAMConfigKey()
	c.view(node).Apply([]datastore.SyncUpdate{{Key: key, Invalid: &datastore.Invalid{Key: key, Err: errBadConfig}}})
}

// TestConfigurationThatNobodyCouldReadKeepsANodeToItsBlocks: it may forbid to claim, to
// reclaim and to borrow; what it can't forbid goes on.
func TestConfigurationThatNobodyCouldReadKeepsANodeToItsBlocks(t *testing.T) {
	c := neighbourhood(t) // another node has all blocks, one of them empty for long
	c.put(newPool("own", "10.9.0.0/30", blockSize(30)))
	n := c.allocator("n")
	assign(t, n, "first", 1, 0) // in its block
	c.spoil("n")
	assign(t, n, "second", 3, 0)
	_, err := n.AutoAssign(t.Context(), ipam.Request{Handle: "third", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) {
		t.Fatalf("beyond its blocks: %v", err)
	}
	for _, part := range []string{
		"own (10.9.0.0/30): the node has 1 block in it with 0 free, 4 used, and whether it may claim more is not known",
		"other nodes have 2 blocks with 7 free, and whether it may borrow is not known",
		". Put IPAMConfig default right, which can't be read (strict_affinity: want true or false): look at it with etcdctl get /calico/ipam/v2/config; or delete it there, and set it anew with calicoctl ipam configure",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\nlacks %s", err, part)
		}
	}
	if strings.Contains(err.Error(), "strictaffinity=false") || strings.Contains(err.Error(), "auto_allocate_blocks to true") {
		t.Errorf("%v: names settings that nobody knows", err)
	}
	for _, addr := range []string{"10.0.0.1", "10.0.0.6"} {
		_, err := n.AssignIP(t.Context(), netip.MustParseAddr(addr), ipam.Request{Handle: "named"})
		if !errors.Is(err, ipam.ErrNotOurs) || !strings.Contains(err.Error(), "is not known. Put IPAMConfig default right") {
			t.Errorf("%s by name: %v", addr, err)
		}
	}
	c.put(newConfig(func(*api.IPAMConfigSpec) {}))
	assign(t, n, "third", 1, 0)
	c.check()
}

// TestConfigurationThatCanNoLongerBeReadStays as it was; one that was taken away and came
// back broken is one that nobody could read.
func TestConfigurationThatCanNoLongerBeReadStays(t *testing.T) {
	c := newCluster(t, newConfig(func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost = 7 }))
	v := c.view("n")
	c.spoil("n")
	if kept, err := v.ConfigProblem(); !kept || !errors.Is(err, errBadConfig) || v.Config().MaxBlocksPerHost != 7 || !v.Config().AutoAllocateBlocks {
		t.Errorf("kept %v, %v: %+v", kept, err, v.Config())
	}
	c.remove(api.IPAMConfigKey())
	if kept, err := v.ConfigProblem(); kept || err != nil || !v.Config().AutoAllocateBlocks || v.Config().StrictAffinity {
		t.Errorf("gone: kept %v, %v: %+v", kept, err, v.Config())
	}
	c.spoil("n")
	if kept, err := v.ConfigProblem(); kept || err == nil || v.Config().AutoAllocateBlocks || !v.Config().StrictAffinity {
		t.Errorf("back, and broken: kept %v, %v: %+v", kept, err, v.Config())
	}
}

// TestBlocksAreNotReclaimedWhereClaimingIsSwitchedOff: that is claiming, too.
func TestBlocksAreNotReclaimedWhereClaimingIsSwitchedOff(t *testing.T) {
	c := neighbourhood(t)
	c.put(newConfig(func(s *api.IPAMConfigSpec) { s.StrictAffinity, s.AutoAllocateBlocks = true, false }))
	c.sleep(time.Hour)
	_, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) || !strings.Contains(err.Error(), "claiming more is switched off") {
		t.Errorf("%v", err)
	}
	c.check()
}

package api

import (
	"strconv"
)

func checkBlockAffinity(c *checker, a *BlockAffinity) {
	s := &a.Spec
	oneOf(c, "spec.state", s.State, AffinityPending, AffinityConfirmed, AffinityPendingDeletion)
	oneOf(c, "spec.type", s.Type, AffinityHost, AffinityVirtual)
	c.name("spec.node", s.Node)
	if _, ok := c.cidr("spec.cidr", s.CIDR, 0); !ok {
		return
	}
	owner := Affinity{Type: s.Type, Name: s.Node}
	if want := owner.String() + "/" + s.CIDR; a.Name != "" && a.Name != want {
		c.bad("metadata.name", a.Name, "does not fit the spec, want %s", want)
	}
}

func checkIPAMHandle(c *checker, h *IPAMHandle) {
	if h.Name != "" && h.Spec.HandleID != "" && h.Name != h.Spec.HandleID {
		c.bad("metadata.name", h.Name, "does not fit spec.handleID, %s", h.Spec.HandleID)
	}
	for _, block := range sortedKeys(h.Spec.Block) {
		field := "spec.block[" + block + "]"
		c.cidr(field, block, 0)
		if n := h.Spec.Block[block]; n < 1 {
			c.bad(field, n, "want the number of addresses held, at least 1")
		}
	}
}

func checkIPAMConfig(c *checker, i *IPAMConfig) {
	if i.Name != IPAMConfigKey().Name && i.Name != "" {
		c.bad("metadata.name", i.Name, "there is only one IPAMConfig, want default")
	}
	if i.Spec.MaxBlocksPerHost < 0 {
		c.bad("spec.maxBlocksPerHost", i.Spec.MaxBlocksPerHost, "want 0 (for the default, 20) or more")
	}
	if n := i.Spec.IPCooldownSeconds; n < 0 || n > maxCooldown {
		c.bad("spec.ipCooldownSeconds", n, "want 0 (none) to %d", maxCooldown)
	}
	oneOf(c, "spec.kubeVirtVMAddressPersistence", i.Spec.KubeVirtVMAddressPersistence, "Enabled", "Disabled")
}

// maxCooldown bounds the time for which an address rests, as upstream does.
const maxCooldown = 1200

// maxBlockBits is the number of host bits of the largest block, 4096 addresses.
const maxBlockBits = 12

// checkIPAMBlock checks that a block accounts for each of its addresses exactly
// once: allocated with attributes that exist, or in the list of free ones.
func checkIPAMBlock(c *checker, b *IPAMBlock) {
	s := &b.Spec
	cidr, ok := c.cidr("spec.cidr", s.CIDR, 0)
	if !ok {
		return
	}
	if b.Name != "" && b.Name != s.CIDR {
		c.bad("metadata.name", b.Name, "does not fit spec.cidr, want %s", s.CIDR)
	}
	if s.Affinity != nil {
		if _, err := ParseAffinity(*s.Affinity); err != nil {
			c.bad("spec.affinity", *s.Affinity, "want host:<node> or virtual:<name>")
		}
	}
	hostBits := cidr.Addr().BitLen() - cidr.Bits()
	if hostBits > maxBlockBits {
		c.bad("spec.cidr", s.CIDR, "is larger than %d addresses", 1<<maxBlockBits)
		return
	}
	size := 1 << hostBits
	if len(s.Allocations) != size {
		c.bad("spec.allocations", len(s.Allocations), "entries, want %d, one for each address of %s", size, s.CIDR)
		return
	}
	c.blockOrdinals(s, size)
	for _, ordinal := range sortedKeys(s.SequenceNumberForAllocation) {
		if n, err := strconv.Atoi(ordinal); err != nil || n < 0 || n >= size {
			c.bad("spec.sequenceNumberForAllocation", ordinal, "want an ordinal from 0 to %d", size-1)
		}
	}
}

func (c *checker) blockOrdinals(s *IPAMBlockSpec, size int) {
	free := make([]bool, size)
	for i, n := range s.Unallocated {
		field := at("spec.unallocated", i)
		switch {
		case n < 0 || n >= size:
			c.bad(field, n, "want an ordinal from 0 to %d", size-1)
		case free[n]:
			c.bad(field, n, "is given twice")
		default:
			free[n] = true
			if s.Allocations[n] != nil {
				c.bad(field, n, "is allocated as well")
			}
		}
	}
	used := make([]bool, len(s.Attributes))
	for n, index := range s.Allocations {
		field := at("spec.allocations", n)
		switch {
		case index == nil && !free[n]:
			c.missing(field, "is neither allocated nor in spec.unallocated")
		case index == nil:
		case *index < 0 || *index >= len(s.Attributes):
			c.bad(field, *index, "is not an index into spec.attributes, which has %d entries", len(s.Attributes))
		default:
			used[*index] = true
		}
	}
	for i, ok := range used {
		if !ok {
			c.missing(at("spec.attributes", i), "belongs to no address")
		}
	}
}

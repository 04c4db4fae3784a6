package api

import (
	"fmt"
	"slices"
	"strings"
)

// ipamDefinitions are the records of address management, stored as bare specs
// below /calico/ipam/v2.
func ipamDefinitions() []definition {
	affinity := checked(resource(KindBlockAffinity, "blockaffinities", func(o *BlockAffinity) parts {
		return parts{spec: storedAffinity{State: o.Spec.State, Deleted: o.Spec.Deleted}}
	}, "blockaffinity"), checkBlockAffinity)
	affinity.target = func(o Object) any { return &o.(*BlockAffinity).Spec }
	affinity.identify = identifyBlockAffinity
	affinity.nameOf = func(o Object) string {
		s := &o.(*BlockAffinity).Spec
		owner := Affinity{Type: s.Type, Name: s.Node}
		if owner.Type == "" {
			owner.Type = AffinityHost
		}
		return owner.String() + "/" + s.CIDR
	}

	block := checked(resource(KindIPAMBlock, "ipamblocks", func(o *IPAMBlock) parts {
		return parts{spec: &o.Spec}
	}), checkIPAMBlock)
	block.target = func(o Object) any { return &o.(*IPAMBlock).Spec }
	block.readPlain = func(o Object, value []byte) bool {
		spec, ok := readPlainBlock(value)
		if ok {
			o.(*IPAMBlock).Spec = spec
		}
		return ok
	}
	block.writePlain = func(o Object) ([]byte, bool) { return writePlainBlock(&o.(*IPAMBlock).Spec) }
	block.identify = identifyIPAMBlock
	block.nameOf = func(o Object) string { return o.(*IPAMBlock).Spec.CIDR }

	config := checked(resource(KindIPAMConfig, "ipamconfigs", func(o *IPAMConfig) parts {
		return parts{spec: &o.Spec}
	}), checkIPAMConfig)
	config.target = func(o Object) any { return &o.(*IPAMConfig).Spec }
	config.nameOf = func(Object) string { return IPAMConfigKey().Name }

	handle := checked(resource(KindIPAMHandle, "ipamhandles", func(o *IPAMHandle) parts {
		return parts{spec: storedHandle{Block: o.Spec.Block, Deleted: o.Spec.Deleted}}
	}), checkIPAMHandle)
	handle.target = func(o Object) any { return &o.(*IPAMHandle).Spec }
	handle.writePlain = func(o Object) ([]byte, bool) { return writePlainHandle(&o.(*IPAMHandle).Spec) }
	handle.identify = identifyIPAMHandle
	handle.nameOf = func(o Object) string { return o.(*IPAMHandle).Spec.HandleID }

	all := []definition{affinity, block, config, handle}
	for i := range all {
		all[i].bare = true
	}
	return all
}

// storedAffinity is the value of a block affinity: owner and block are in its key.
type storedAffinity struct {
	State   AffinityState `json:"state"`
	Deleted bool          `json:"deleted"`
}

// storedHandle is the value of a handle: its identifier is in its key.
type storedHandle struct {
	Block   map[string]int `json:"block"`
	Deleted bool           `json:"deleted"`
}

func identifyBlockAffinity(o Object, key Key) error {
	owner, block, err := ParseBlockAffinityName(key.Name)
	if err != nil {
		return err
	}
	spec := &o.(*BlockAffinity).Spec
	spec.Type, spec.Node, spec.CIDR = owner.Type, owner.Name, block.String()
	return nil
}

// identifyIPAMBlock refuses a block stored under another block's key: every
// ordinal in it would name a wrong address.
func identifyIPAMBlock(o Object, key Key) error {
	spec := &o.(*IPAMBlock).Spec
	if spec.CIDR != key.Name {
		return fmt.Errorf("the value is of block %q", spec.CIDR)
	}
	return nil
}

func identifyIPAMHandle(o Object, key Key) error {
	o.(*IPAMHandle).Spec.HandleID = key.Name
	return nil
}

func sortDefinitions(all []definition) {
	slices.SortFunc(all, func(a, b definition) int {
		return strings.Compare(string(a.info.Kind), string(b.info.Kind))
	})
}

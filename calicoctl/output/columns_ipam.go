package output

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tortie/internal/api"
)

// addIPAM adds the records of the allocator. Upstream shows none of them; the
// columns are those an operator needs to see who holds what.
func addIPAM(all map[api.Kind]layout) {
	all[api.KindBlockAffinity] = layout{
		narrow: []string{"CIDR", "NODE", "STATE"}, wide: []string{"NAME", "CIDR", "NODE", "TYPE", "STATE", "DELETED"},
		columns: []column{
			nameColumn(),
			of("CIDR", func(o *api.BlockAffinity) string { return o.Spec.CIDR }),
			of("NODE", func(o *api.BlockAffinity) string { return o.Spec.Node }),
			of("TYPE", func(o *api.BlockAffinity) string { return textOr(o.Spec.Type, string(api.AffinityHost)) }),
			of("STATE", func(o *api.BlockAffinity) string { return string(o.Spec.State) }),
			of("DELETED", func(o *api.BlockAffinity) string { return strconv.FormatBool(o.Spec.Deleted) }),
		},
	}
	all[api.KindIPAMBlock] = layout{
		narrow: []string{"CIDR", "AFFINITY", "INUSE", "FREE"},
		wide:   []string{"CIDR", "AFFINITY", "INUSE", "FREE", "SEQUENCE", "CLAIMED"},
		columns: []column{
			nameColumn(),
			of("CIDR", func(o *api.IPAMBlock) string { return o.Spec.CIDR }),
			of("AFFINITY", func(o *api.IPAMBlock) string { return orElse(o.Spec.Affinity, "-") }),
			of("INUSE", func(o *api.IPAMBlock) string { return strconv.Itoa(inUse(o)) }),
			of("FREE", func(o *api.IPAMBlock) string { return strconv.Itoa(len(o.Spec.Allocations) - inUse(o)) }),
			of("SEQUENCE", func(o *api.IPAMBlock) string { return strconv.FormatUint(o.Spec.SequenceNumber, 10) }),
			of("CLAIMED", func(o *api.IPAMBlock) string {
				if o.Spec.AffinityClaimTime == nil {
					return "-"
				}
				return o.Spec.AffinityClaimTime.UTC().Format("2006-01-02T15:04:05Z")
			}),
		},
	}
	all[api.KindIPAMHandle] = layout{
		narrow: []string{"NAME", "ADDRESSES"}, wide: []string{"NAME", "ADDRESSES", "BLOCKS"},
		columns: []column{
			nameColumn(),
			of("ADDRESSES", func(o *api.IPAMHandle) string {
				sum := 0
				for _, n := range o.Spec.Block {
					sum += n
				}
				return strconv.Itoa(sum)
			}),
			of("BLOCKS", func(o *api.IPAMHandle) string {
				return strings.Join(slices.Sorted(maps.Keys(o.Spec.Block)), ",")
			}),
		},
	}
	all[api.KindIPAMHistory] = layout{
		narrow: []string{"NAME", "RELEASES", "LAST"},
		columns: []column{
			nameColumn(),
			of("RELEASES", func(o *api.IPAMHistory) string { return strconv.Itoa(len(o.Spec.Releases)) }),
			of("LAST", func(o *api.IPAMHistory) string {
				if len(o.Spec.Releases) == 0 {
					return "-"
				}
				return o.Spec.Releases[len(o.Spec.Releases)-1].Released.UTC().Format("2006-01-02T15:04:05Z")
			}),
		},
	}
	all[api.KindIPAMLoan] = layout{
		narrow: []string{"NAME", "NODE", "CIDR"},
		columns: []column{
			nameColumn(),
			of("NODE", func(o *api.IPAMLoan) string { return o.Spec.Node }),
			of("CIDR", func(o *api.IPAMLoan) string { return o.Spec.CIDR }),
		},
	}
	all[api.KindIPAMConfig] = layout{
		narrow: []string{"NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"},
		columns: []column{
			nameColumn(),
			of("STRICTAFFINITY", func(o *api.IPAMConfig) string { return fmt.Sprint(o.Spec.StrictAffinity) }),
			of("AUTOALLOCATEBLOCKS", func(o *api.IPAMConfig) string { return fmt.Sprint(o.Spec.AutoAllocateBlocks) }),
			of("MAXBLOCKSPERHOST", func(o *api.IPAMConfig) string { return strconv.Itoa(o.Spec.MaxBlocksPerHost) }),
		},
	}
}

func inUse(block *api.IPAMBlock) int {
	n := 0
	for _, attribute := range block.Spec.Allocations {
		if attribute != nil {
			n++
		}
	}
	return n
}

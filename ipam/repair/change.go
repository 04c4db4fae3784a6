package repair

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// Change is what becomes of one key.
type Change struct {
	Key api.Key
	// Before and After are the entries; nil for none.
	Before, After *datastore.Entry
	// Beside are the blocks that a deleted block overlapped: with these it may come back.
	Beside []string
}

// String says in one line what is changed.
func (c Change) String() string {
	switch {
	case c.Before == nil && c.After == nil:
		return c.Key.String() + ": left absent"
	case c.After == nil:
		return c.Key.String() + ": deleted" + lost(c.Before)
	case c.Before == nil:
		return c.Key.String() + ": created, " + content(c.After.Object)
	}
	if what := difference(c.Before.Object, c.After.Object); len(what) > 0 {
		return c.Key.String() + ": " + strings.Join(what, ", ")
	}
	return c.Key.String() + ": written once more, so that whoever is about to change it looks again"
}

// lost is what goes with a deleted object.
func lost(before *datastore.Entry) string {
	if in, err := ipam.Inspect(*before); err == nil && len(in.Allocations) > 0 {
		return ", with it " + addresses(in.Allocations)
	}
	if h, ok := before.Object.(*api.IPAMHandle); ok {
		return ", it counted " + counts(h.Spec.Block)
	}
	return ""
}

func content(obj api.Object) string {
	switch o := obj.(type) {
	case *api.IPAMHandle:
		return "counting " + counts(o.Spec.Block)
	case *api.BlockAffinity:
		return string(o.Spec.State)
	case *api.IPAMLoan:
		return "of block " + o.Spec.CIDR + " to node " + o.Spec.Node
	}
	return "as it was"
}

func difference(before, after api.Object) []string {
	switch b := before.(type) {
	case *api.IPAMHandle:
		if a, ok := after.(*api.IPAMHandle); ok && !maps.Equal(a.Spec.Block, b.Spec.Block) {
			return []string{"counts " + counts(a.Spec.Block) + ", not " + counts(b.Spec.Block)}
		}
	case *api.BlockAffinity:
		if a, ok := after.(*api.BlockAffinity); ok && a.Spec.State != b.Spec.State {
			return []string{fmt.Sprintf("%s, not %s", a.Spec.State, orNone(string(b.Spec.State)))}
		}
	case *api.IPAMBlock:
		if a, ok := after.(*api.IPAMBlock); ok {
			return blockDifference(b, a)
		}
	}
	return nil
}

func blockDifference(before, after *api.IPAMBlock) []string {
	was, is := held(before), held(after)
	var what []string
	if gone := without(was, is); len(gone) > 0 {
		what = append(what, addresses(gone)+" released")
	}
	if come := without(is, was); len(come) > 0 {
		what = append(what, addresses(come)+" given out")
	}
	if len(what) == 0 && !slices.Equal(before.Spec.Unallocated, after.Spec.Unallocated) {
		what = append(what, fmt.Sprintf("its list of free addresses written anew, with %d", len(after.Spec.Unallocated)))
	}
	if len(before.Spec.Attributes) < len(after.Spec.Attributes) && len(without(is, was)) == 0 {
		what = append(what, "an unknown holder noted where there was none")
	}
	if x, y := text(before.Spec.Affinity), text(after.Spec.Affinity); x != y {
		what = append(what, fmt.Sprintf("owner %s, not %s", y, x))
	}
	return what
}

func held(b *api.IPAMBlock) []ipam.Allocation {
	in, err := ipam.Inspect(datastore.Entry{Key: api.Key{Kind: api.KindIPAMBlock, Name: b.Spec.CIDR}, Object: b})
	if err != nil {
		return nil
	}
	return in.Allocations
}

// without lists the allocations of a that b has not.
func without(a, b []ipam.Allocation) []ipam.Allocation {
	has := map[netip.Addr]bool{}
	for _, x := range b {
		has[x.Addr] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(x ipam.Allocation) bool { return has[x.Addr] })
}

func addresses(list []ipam.Allocation) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.Addr.String()
	}
	return strings.Join(texts, ", ")
}

func counts(blocks map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		parts = append(parts, fmt.Sprintf("%d in %s", blocks[name], name))
	}
	return orNone(strings.Join(parts, ", "))
}

func text(s *string) string {
	if s == nil {
		return "none"
	}
	return orNone(*s)
}

func orNone(s string) string { return cmp.Or(s, "none") }

// encode is the stored value of an entry, nil for none. exact is false when the store
// has it in other bytes that say the same.
func encode(reg *api.Registry, e *datastore.Entry) (value []byte, exact bool, err error) {
	if e == nil {
		return nil, true, nil
	}
	if value, err = reg.Encode(e.Object, e.Unknown); err != nil {
		return nil, false, err
	}
	h := fnv.New64a()
	_, _ = h.Write(value) // never returns an error
	return value, e.Digest == 0 || e.Digest == h.Sum64(), nil
}

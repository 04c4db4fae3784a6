package nat

import (
	"context"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"sigs.k8s.io/knftables"
)

// present is what the kernel has under the table's name.
type present struct {
	// objects are the names of everything in the table, ours or not, by kind; nil
	// without a table.
	objects map[string][]string
	// rules are the comments of our chain's rules, in order.
	rules []string
	// sets are the elements of our sets; a set whose elements are none that we
	// could have written is not in it.
	sets contents
}

// read reads the table. nft can't give a rule back in a form that could be
// compared, so a rule is recognised by its comment, which carries a checksum.
func (m *Masquerade) read(ctx context.Context) (present, error) {
	there := present{sets: contents{}}
	var err error
	there.objects, err = m.nft.ListAll(ctx)
	if knftables.IsNotFound(err) {
		return present{}, nil
	}
	if err != nil {
		return present{}, err
	}
	if slices.Contains(there.objects["chain"], chainName) {
		rules, err := m.nft.ListRules(ctx, chainName)
		if err != nil {
			return present{}, err
		}
		for _, r := range rules {
			there.rules = append(there.rules, deref(r.Comment))
		}
	}
	for _, name := range setNames() {
		if !slices.Contains(there.objects["set"], name) {
			continue
		}
		elements, err := m.nft.ListElements(ctx, "set", name)
		if err != nil {
			return present{}, err
		}
		if prefixes, err := covered(elements); err == nil {
			there.sets[name] = prefixes
		}
	}
	return there, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// covered is the fewest prefixes with the addresses of elements.
func covered(elements []*knftables.Element) ([]netip.Prefix, error) {
	var b netipx.IPSetBuilder
	for _, e := range elements {
		key := strings.Join(e.Key, " ")
		switch {
		case strings.Contains(key, "/"):
			p, err := netip.ParsePrefix(key)
			if err != nil {
				return nil, err
			}
			b.AddPrefix(p)
		default:
			a, err := netip.ParseAddr(key)
			if err != nil {
				return nil, err
			}
			b.Add(a)
		}
	}
	set, err := b.IPSet()
	if err != nil {
		return nil, err
	}
	return set.Prefixes(), nil
}

// differences names what of ours is not as wanted.
func (there present) differences(want contents) []string {
	var differ []string
	hasChain := slices.Contains(there.objects["chain"], chainName)
	switch {
	case hasChain != (want != nil):
		differ = append(differ, "chain "+chainName)
	case hasChain && !slices.Equal(there.rules, comments()):
		differ = append(differ, "rules of chain "+chainName)
	}
	for _, name := range setNames() {
		hasSet := slices.Contains(there.objects["set"], name)
		elements, readable := there.sets[name]
		switch {
		case hasSet != (want != nil):
			differ = append(differ, "set "+name)
		case hasSet && (!readable || !slices.Equal(elements, want[name])):
			differ = append(differ, "elements of set "+name)
		}
	}
	return differ
}

// rebuild replaces whatever there is of ours, even if it was made differently.
func rebuild(tx *knftables.Transaction, there present, want contents) {
	tx.Add(&knftables.Table{})
	others := removeOurs(tx, there.objects)
	switch {
	case want != nil:
		write(tx, want)
	case !others:
		tx.Delete(&knftables.Table{})
	}
}

// removeOurs deletes our objects among those there are and reports whether there
// are others.
func removeOurs(tx *knftables.Transaction, there map[string][]string) (others bool) {
	// The chain goes before the sets its rules use.
	for _, name := range there["chain"] {
		if name != chainName {
			others = true
			continue
		}
		tx.Flush(&knftables.Chain{Name: name})
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range there["set"] {
		if !slices.Contains(setNames(), name) {
			others = true
			continue
		}
		tx.Delete(&knftables.Set{Name: name})
	}
	for _, kind := range []string{"map", "counter", "flowtable"} {
		others = others || len(there[kind]) > 0
	}
	return others
}

// write makes the chain, the sets and the rules from nothing.
func write(tx *knftables.Transaction, want contents) {
	for _, v := range []version{v4, v6} {
		for _, name := range v.sets() {
			tx.Add(&knftables.Set{Name: name, Type: v.setType(), Flags: []knftables.SetFlag{knftables.IntervalFlag}})
			addElements(tx, name, want[name])
		}
	}
	tx.Add(&knftables.Chain{
		Name:     chainName,
		Type:     knftables.PtrTo(knftables.NATType),
		Hook:     knftables.PtrTo(knftables.PostroutingHook),
		Priority: knftables.PtrTo(knftables.SNATPriority),
	})
	for _, v := range []version{v4, v6} {
		for _, r := range v.rules() {
			tx.Add(&knftables.Rule{Chain: chainName, Rule: r.text, Comment: knftables.PtrTo(v.comment(r))})
		}
	}
}

// rule is one of the chain, and what it does.
type rule struct{ text, does string }

func (v version) rules() []rule {
	return []rule{
		{v.rule(), "from a pool with natOutgoing to neither a pool nor a node"},
		{v.tunnelRule(), "from a pool with natOutgoing and VXLAN to a node at the other end"},
	}
}

// comment tells people what the rule does, and us by a checksum whether it is the
// one we would write, in a chain as we would make it.
func (v version) comment(r rule) string {
	made := fmt.Sprint(knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority, v.setType(), r.text)
	return fmt.Sprintf("%s (%08x)", r.does, crc32.ChecksumIEEE([]byte(made)))
}

func comments() []string {
	var out []string
	for _, v := range []version{v4, v6} {
		for _, r := range v.rules() {
			out = append(out, v.comment(r))
		}
	}
	return out
}

func addElements(tx *knftables.Transaction, set string, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		tx.Add(&knftables.Element{Set: set, Key: []string{p.String()}})
	}
}

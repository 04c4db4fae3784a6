package ruleset

import (
	"context"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"
	"sigs.k8s.io/knftables"
)

// present is what the kernel has under the table's name.
type present struct {
	// objects are the names of everything in the table, ours or not, by kind; nil
	// without a table.
	objects map[string][]string
	// rules are the comments of each of our chains' rules, in order.
	rules map[string][]string
	// sets are the elements of our sets; a set whose elements are none that we
	// could have written is not in it.
	sets Contents
}

// read reads the table. nft can't give a rule back in a form that could be
// compared, so a rule is recognised by its comment, which carries a checksum.
func (o *Owner) read(ctx context.Context) (present, error) {
	there := present{sets: Contents{}, rules: map[string][]string{}}
	var err error
	there.objects, err = o.nft.ListAll(ctx)
	if knftables.IsNotFound(err) {
		return present{}, nil
	}
	if err == nil {
		err = o.readShare(ctx, there)
	}
	if err != nil {
		return present{}, fmt.Errorf("read table %s %s: %w", o.family, Table, err)
	}
	return there, nil
}

func (o *Owner) readShare(ctx context.Context, there present) error {
	chains := o.shape.Chains
	if o.shape.Prefix != "" { // there may be many: all at once
		chains = nil
		rules, err := o.nft.ListRules(ctx, "")
		if err != nil {
			return err
		}
		for _, r := range rules {
			there.rules[r.Chain] = append(there.rules[r.Chain], deref(r.Comment))
		}
	}
	for _, c := range chains {
		if !slices.Contains(there.objects["chain"], c.Name) {
			continue
		}
		rules, err := o.nft.ListRules(ctx, c.Name)
		if err != nil {
			return err
		}
		for _, r := range rules {
			there.rules[c.Name] = append(there.rules[c.Name], deref(r.Comment))
		}
	}
	for _, s := range o.shape.Sets {
		if !slices.Contains(there.objects[s.kind()], s.Name) {
			continue
		}
		elements, err := o.nft.ListElements(ctx, s.kind(), s.Name)
		if err != nil {
			return err
		}
		if list, err := s.normal(elements); err == nil {
			there.sets[s.Name] = list
		}
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// normal is the elements as [Contents] has them.
func (s Set) normal(elements []*knftables.Element) ([]string, error) {
	if s.Intervals && !strings.Contains(s.Type, concat) {
		return covered(elements)
	}
	var list []string
	for _, e := range elements {
		key := slices.Clone(e.Key)
		for i := range key {
			key[i] = protocolNumber(key[i])
		}
		text := strings.Join(key, concat)
		if s.Map {
			text += mapsTo + strings.Join(e.Value, concat)
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list, nil
}

// protocolNumber undoes what nft makes of a protocol's number, where there is a file
// /etc/protocols: in a container there may be none.
func protocolNumber(key string) string {
	switch key {
	case "tcp":
		return "6"
	case "udp":
		return "17"
	case "sctp":
		return "132"
	case "ipencap", "ipip", "ipv4":
		return "4"
	}
	return key
}

// nft's notation of concatenations and of the elements of maps.
const (
	concat = " . "
	mapsTo = " : "
)

// covered is the fewest prefixes with the addresses of elements.
func covered(elements []*knftables.Element) ([]string, error) {
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
	var list []string
	for _, p := range set.Prefixes() {
		list = append(list, p.String())
	}
	slices.Sort(list)
	return list, nil
}

// differences names what of the share is not as wanted.
func (s Shape) differences(there present, want Contents) []string {
	var differ []string
	for _, c := range s.Chains {
		has := slices.Contains(there.objects["chain"], c.Name)
		switch {
		case has != (want != nil):
			differ = append(differ, "chain "+c.Name)
		case has && !slices.Equal(there.rules[c.Name], c.comments()):
			differ = append(differ, "rules of chain "+c.Name)
		}
	}
	for _, name := range there.objects["chain"] {
		if s.comesAndGoes(name) && (want == nil || !s.ownsFixed(name)) {
			differ = append(differ, "chain "+name)
		}
	}
	for _, set := range s.Sets {
		has := slices.Contains(there.objects[set.kind()], set.Name)
		elements, readable := there.sets[set.Name]
		switch {
		case has != (want != nil):
			differ = append(differ, set.kind()+" "+set.Name)
		case has && (!readable || !slices.Equal(elements, want[set.Name])):
			differ = append(differ, set.what())
		}
	}
	return differ
}

func (s Set) kind() string {
	if s.Map {
		return "map"
	}
	return "set"
}

func (s Set) what() string { return "elements of " + s.kind() + " " + s.Name }

// rebuild replaces whatever there is of the share, even if it was made differently.
func (s Shape) rebuild(tx *knftables.Transaction, there present, want Contents) {
	tx.Add(&knftables.Table{})
	others := s.remove(tx, there.objects)
	switch {
	case want != nil:
		s.write(tx, want)
	case !others:
		tx.Delete(&knftables.Table{})
	}
}

// remove deletes our objects among those there are and reports whether there are
// others.
func (s Shape) remove(tx *knftables.Transaction, there map[string][]string) (others bool) {
	// Rules go before the chains that they jump to, and the sets that they use.
	ours := map[string][]string{}
	for _, kind := range []string{"chain", "set", "map", "counter", "flowtable"} {
		for _, name := range there[kind] {
			if s.owns(kind, name) {
				ours[kind] = append(ours[kind], name)
			} else {
				others = true
			}
		}
	}
	for _, name := range ours["chain"] {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range ours["map"] { // whose elements may lead to them
		tx.Flush(&knftables.Map{Name: name})
	}
	for _, name := range ours["chain"] {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range ours["set"] {
		tx.Delete(&knftables.Set{Name: name})
	}
	for _, name := range ours["map"] {
		tx.Delete(&knftables.Map{Name: name})
	}
	return others
}

func (s Shape) owns(kind, name string) bool {
	if kind == "chain" {
		return s.ownsFixed(name) || s.comesAndGoes(name)
	}
	return slices.ContainsFunc(s.Sets, func(set Set) bool { return set.kind() == kind && set.Name == name })
}

func (s Shape) ownsFixed(chain string) bool {
	return slices.ContainsFunc(s.Chains, func(c Chain) bool { return c.Name == chain })
}

// comesAndGoes reports whether a chain is one of those that SetWith declares.
func (s Shape) comesAndGoes(chain string) bool {
	return s.Prefix != "" && strings.HasPrefix(chain, s.Prefix)
}

// write makes the sets, the chains and the rules from nothing.
func (s Shape) write(tx *knftables.Transaction, want Contents) {
	for _, set := range s.Sets {
		var flags []knftables.SetFlag
		if set.Intervals {
			flags = append(flags, knftables.IntervalFlag)
		}
		if set.Map {
			tx.Add(&knftables.Map{Name: set.Name, Type: set.Type, Flags: flags})
		} else {
			tx.Add(&knftables.Set{Name: set.Name, Type: set.Type, Flags: flags})
		}
	}
	for _, c := range s.Chains {
		chain := &knftables.Chain{Name: c.Name}
		if c.Type != "" {
			chain.Type, chain.Hook, chain.Priority = &c.Type, &c.Hook, &c.Priority
		}
		tx.Add(chain)
	}
	for _, set := range s.Sets {
		set.change(tx, nil, want[set.Name])
	}
	for _, c := range s.Chains {
		c.write(tx)
	}
}

// write adds the chain's rules.
func (c Chain) write(tx *knftables.Transaction) {
	for _, r := range c.Rules {
		tx.Add(&knftables.Rule{Chain: c.Name, Rule: r.Text, Comment: knftables.PtrTo(c.comment(r))})
	}
}

// equal reports whether two are the same chain with the same rules.
func (c Chain) equal(other Chain) bool {
	return c.Name == other.Name && slices.Equal(c.comments(), other.comments())
}

// comment tells people what the rule does, and us by a checksum whether it is the
// one we would write, in a chain as we would make it.
func (c Chain) comment(r Rule) string {
	made := fmt.Sprint(c.Type, c.Hook, c.Priority, r.Text)
	return fmt.Sprintf("%s (%08x)", r.Does, crc32.ChecksumIEEE([]byte(made)))
}

func (c Chain) comments() []string {
	var out []string
	for _, r := range c.Rules {
		out = append(out, c.comment(r))
	}
	return out
}

// change takes a set from one list of elements to another and reports whether they
// differ. Intervals are written anew: what nft makes of neighbouring ones can't be
// taken away piece by piece.
func (s Set) change(tx *knftables.Transaction, from, to []string) bool {
	if slices.Equal(from, to) {
		return false
	}
	if s.Intervals && len(from) > 0 {
		tx.Flush(&knftables.Set{Name: s.Name})
		from = nil
	}
	for _, text := range from {
		if !slices.Contains(to, text) {
			tx.Delete(s.element(text))
		}
	}
	for _, text := range to {
		if !slices.Contains(from, text) {
			tx.Add(s.element(text))
		}
	}
	return true
}

func (s Set) element(text string) *knftables.Element {
	key, value, _ := strings.Cut(text, mapsTo)
	e := &knftables.Element{Key: strings.Split(key, concat)}
	if strings.HasPrefix(s.Type, "ifname") {
		e.Key[0] = strconv.Quote(e.Key[0])
	}
	if s.Map {
		e.Map, e.Value = s.Name, strings.Split(value, concat)
	} else {
		e.Set = s.Name
	}
	return e
}

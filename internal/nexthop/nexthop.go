package nexthop

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"tortie/internal/kernel"
)

// Kernel is what a Table needs of [kernel.Handle].
type Kernel interface {
	NextHopObjects(ctx context.Context, protocol kernel.Protocol) ([]kernel.NextHopObject, error)
	Apply(changes ...kernel.Change) []error
}

// Table reconciles groups of next hops. It is used from one goroutine, and read before
// anything is declared.
type Table struct {
	kernel   Kernel
	protocol kernel.Protocol

	// actual has the objects that are ours, by number, as far as is known; taken the
	// numbers of other programs'.
	actual map[int]kernel.NextHopObject
	taken  map[int]bool
	last   int // the number given last

	groups  map[string]*group
	singles map[kernel.NextHop]int // number of each next hop that has an object, or will
	owners  map[int]bool           // numbers that groups and singles have
	// What an earlier run has left, and nobody has taken over yet.
	oldGroups  map[kernel.NextHops]int
	oldSingles map[kernel.NextHop]int

	needsRead, everRead bool
	dirty               bool // something was declared or read since the last Apply
	unsupported         bool
}

// group is a declared one.
type group struct {
	id   int
	hops kernel.NextHops
}

// New makes a Table of the objects of a protocol.
func New(k Kernel, protocol kernel.Protocol) *Table {
	return &Table{
		kernel: k, protocol: protocol, last: int(protocol)<<24 - 1, needsRead: true,
		actual: map[int]kernel.NextHopObject{}, taken: map[int]bool{},
		groups: map[string]*group{}, singles: map[kernel.NextHop]int{}, owners: map[int]bool{},
		oldGroups: map[kernel.NextHops]int{}, oldSingles: map[kernel.NextHop]int{},
	}
}

// Read looks at the kernel's objects, if that is due.
func (t *Table) Read(ctx context.Context) error {
	if !t.needsRead || t.unsupported {
		return nil
	}
	objects, err := t.kernel.NextHopObjects(ctx, 0)
	if errors.Is(err, kernel.ErrNotSupported) {
		t.unsupported = true
		return nil
	}
	if err != nil {
		return err
	}
	clear(t.actual)
	clear(t.taken)
	for _, o := range objects {
		if o.Protocol == t.protocol {
			t.actual[o.ID] = o
		} else {
			t.taken[o.ID] = true
		}
	}
	if !t.everRead {
		t.inherit(objects)
	}
	t.needsRead, t.everRead, t.dirty = false, true, true
	return nil
}

// inherit notes what an earlier run has left.
func (t *Table) inherit(objects []kernel.NextHopObject) {
	for _, o := range objects {
		switch {
		case o.Protocol != t.protocol:
		case o.Group == nil:
			t.oldSingles[o.NextHop] = o.ID
		default:
			t.oldGroups[t.hopsOf(o)] = o.ID
		}
	}
}

// QueueResync makes the next Read look.
func (t *Table) QueueResync() { t.needsRead = true }

// Supported reports whether the kernel has such objects, as far as is known: without
// them nothing is to be declared.
func (t *Table) Supported() bool { return !t.unsupported }

// Set declares the next hops, one at least, of the group of a key, and returns its
// number. The group of an earlier run with the same next hops is taken over.
func (t *Table) Set(key string, hops kernel.NextHops) (id int) {
	g, ok := t.groups[key]
	if ok && t.taken[g.id] {
		t.Remove(key) // another program was faster
		ok = false
	}
	if !ok {
		g = &group{id: adopt(t, t.oldGroups, hops)}
		t.groups[key] = g
	}
	if g.hops != hops {
		g.hops, t.dirty = hops, true
	}
	return g.id
}

// Remove ends the declaration of a key.
func (t *Table) Remove(key string) {
	if g, ok := t.groups[key]; ok {
		delete(t.owners, g.id)
		delete(t.groups, key)
		t.dirty = true
	}
}

// adopt is the number of what an earlier run has left, else a new one.
func adopt[T comparable](t *Table, old map[T]int, what T) int {
	id, ok := old[what]
	delete(old, what)
	if _, there := t.actual[id]; !ok || !there || t.owners[id] {
		id = t.number()
	}
	t.owners[id] = true
	return id
}

// number is one that is nobody's. It is not one that was used a moment ago: a route
// that is still to be moved may have it.
func (t *Table) number() int {
	for {
		t.last++
		if _, ours := t.actual[t.last]; !ours && !t.taken[t.last] && !t.owners[t.last] {
			return t.last
		}
	}
}

// hopsOf are the next hops of a group in the kernel.
func (t *Table) hopsOf(o kernel.NextHopObject) kernel.NextHops {
	hops := make([]kernel.NextHop, 0, len(o.Group))
	for _, m := range o.Group {
		h := t.actual[m.ID].NextHop
		h.Weight = m.Weight
		hops = append(hops, h)
	}
	return kernel.NewNextHops(hops...)
}

// Apply makes the groups as declared. What fails is tried again by the next Apply, and the rest
// proceeds.
func (t *Table) Apply(ctx context.Context) error {
	if err := t.Read(ctx); err != nil || t.unsupported || !t.dirty {
		return err
	}
	singles, groups := t.wanted()
	err := errors.Join(t.write(singles), t.write(groups))
	t.dirty = err != nil
	return err
}

// wanted are the declared objects, in order.
func (t *Table) wanted() (singles, groups []kernel.NextHopObject) {
	used := map[kernel.NextHop]bool{}
	for _, g := range t.groups {
		o := kernel.NextHopObject{ID: g.id, Protocol: t.protocol}
		for _, h := range g.hops.All() {
			weight := h.Weight
			h.Weight = 0
			used[h] = true
			o.Group = append(o.Group, kernel.GroupMember{ID: t.single(h), Weight: weight})
		}
		groups = append(groups, o.Normal())
	}
	for h, id := range t.singles {
		if !used[h] {
			delete(t.singles, h)
			delete(t.owners, id)
			continue
		}
		singles = append(singles, kernel.NextHopObject{ID: id, Protocol: t.protocol, NextHop: h}.Normal())
	}
	byID := func(a, b kernel.NextHopObject) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(singles, byID)
	slices.SortFunc(groups, byID)
	return singles, groups
}

func (t *Table) single(h kernel.NextHop) int {
	id, ok := t.singles[h]
	if !ok {
		id = adopt(t, t.oldSingles, h)
		t.singles[h] = id
	}
	return id
}

// write makes those objects that are missing or different.
func (t *Table) write(objects []kernel.NextHopObject) error {
	var changes []kernel.Change
	for _, o := range objects {
		have, ours := t.actual[o.ID]
		switch {
		case !ours:
			changes = append(changes, kernel.NextHopChange{Op: kernel.Add, Object: o})
		case !have.Equal(o):
			changes = append(changes, kernel.NextHopChange{Op: kernel.Replace, Object: o})
		}
	}
	return t.change(changes)
}

// change has the kernel work off changes. After a failure the kernel is read: it removes
// objects by itself, and another program may have taken a number.
func (t *Table) change(changes []kernel.Change) error {
	var errs []error
	for i, err := range t.kernel.Apply(changes...) {
		c := changes[i].(kernel.NextHopChange)
		switch {
		case err != nil:
			t.needsRead = true
			t.renumber(c.Object.ID, err)
			errs = append(errs, err)
		case c.Op == kernel.Delete:
			delete(t.actual, c.Object.ID)
		default:
			t.actual[c.Object.ID] = c.Object
		}
	}
	return errors.Join(errs...)
}

// renumber gives the single next hop another number when its own is another program's.
func (t *Table) renumber(id int, err error) {
	if !errors.Is(err, kernel.ErrExists) {
		return
	}
	for h, have := range t.singles {
		if have == id {
			delete(t.singles, h)
			delete(t.owners, id)
		}
	}
}

// Sweep deletes the objects of ours that, since the last Apply, nothing is declared for
// and no route refers to.
func (t *Table) Sweep(referred func(id int) bool) error {
	var groups, singles []kernel.Change
	kept := map[int]bool{}
	ids := slices.Sorted(maps.Keys(t.actual))
	for _, id := range ids {
		o := t.actual[id]
		if o.Group == nil {
			continue
		}
		if !t.owners[id] && !referred(id) {
			groups = append(groups, kernel.NextHopChange{Op: kernel.Delete, Object: o})
			continue
		}
		for _, m := range o.Group {
			kept[m.ID] = true
		}
	}
	for _, id := range ids {
		if o := t.actual[id]; o.Group == nil && !t.owners[id] && !kept[id] && !referred(id) {
			singles = append(singles, kernel.NextHopChange{Op: kernel.Delete, Object: o})
		}
	}
	return errors.Join(t.change(groups), t.change(singles))
}

// Idle reports whether there are objects that nothing is declared for, for Sweep.
func (t *Table) Idle() bool {
	for id := range t.actual {
		if !t.owners[id] {
			return true
		}
	}
	return false
}

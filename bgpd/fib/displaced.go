package fib

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"tortie/internal/kernel"
)

// PlaceChanged tells that another program's route to dst came, went or changed: a route
// that waits for its place takes it at the next Apply if it is free.
func (f *FIB) PlaceChanged(dst netip.Prefix) {
	f.tables[kernel.FamilyOf(dst.Addr())].PlaceChanged(dst)
}

// told bounds how many of a list that may be very long are logged or named one by one.
const told = 10

// noteDisplaced takes over which routes have no place, and says each once. When not all
// could be written, whose place is free is not known.
func (f *FIB) noteDisplaced(complete bool) {
	now := map[netip.Prefix]string{}
	for _, t := range f.tables {
		for _, c := range t.Conflicts() {
			now[c.Desired.Dst] = f.occupant(c.Occupant)
		}
	}
	for prefix, holder := range f.displaced {
		if _, known := now[prefix]; !known && !complete && f.Installed(prefix) {
			now[prefix] = holder
		}
	}
	if maps.Equal(now, f.displaced) {
		return
	}
	taken, freed := f.placesChanged(f.displaced, now)
	changed := append(slices.Clone(taken), freed...)
	before := make([]standing, 0, len(changed))
	for _, prefix := range changed {
		before = append(before, f.standing(prefix))
	}
	f.displaced = now
	for i, prefix := range changed {
		f.note(prefix, before[i])
	}
	f.logPlaces(taken, freed)
}

// placesChanged are the prefixes whose place has another holder, and those that took theirs.
func (f *FIB) placesChanged(old, now map[netip.Prefix]string) (taken, freed []netip.Prefix) {
	for _, prefix := range slices.SortedFunc(maps.Keys(now), comparePrefix) {
		if old[prefix] != now[prefix] {
			taken = append(taken, prefix)
		}
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(old), comparePrefix) {
		if _, still := now[prefix]; !still && f.Installed(prefix) {
			freed = append(freed, prefix)
		}
	}
	return taken, freed
}

func (f *FIB) logPlaces(taken, freed []netip.Prefix) {
	for _, prefix := range taken[:min(len(taken), told)] {
		f.log.Warn("another program's route holds the place of a learned one: "+whatToDo, "prefix", prefix, "route", f.displaced[prefix])
	}
	for _, prefix := range freed[:min(len(freed), told)] {
		f.log.Info("the place of a learned route is free again, it is installed", "prefix", prefix)
	}
	if more := len(taken) - told; more > 0 {
		f.log.Warn("other programs' routes hold the places of further learned ones", "routes", more)
	}
}

const whatToDo = "remove it, or have its owner use another metric"

// occupant is another program's route in words, with what tells it from ours.
func (f *FIB) occupant(r kernel.Route) string {
	words := f.resolver.say(r)
	if r.Priority != 0 {
		words += fmt.Sprintf(" metric %d", r.Priority)
	}
	return words
}

// displacedProblems are the routes that have no place, a few by name.
func (f *FIB) displacedProblems() []string {
	var out []string
	for _, prefix := range slices.SortedFunc(maps.Keys(f.displaced), comparePrefix) {
		if len(out) == told {
			return append(out, fmt.Sprintf("%d more routes are not installed because another program's route holds the place", len(f.displaced)-told))
		}
		out = append(out, fmt.Sprintf("%s is not installed: another program's route holds its place: %s: %s", prefix, f.displaced[prefix], whatToDo))
	}
	return out
}

package datastore

import (
	"log/slog"

	"tortie/internal/api"
)

// delivery turns snapshots and events into the updates and status that the Sink
// is owed. It remembers which version of each object was sent, so that a
// repeated snapshot yields only the difference.
type delivery struct {
	sink   Sink
	log    *slog.Logger
	status Status
	// ranges are those that are followed.
	ranges map[int]*content

	pending []SyncUpdate
	// last is the place in pending of the newest update of each object; older
	// ones are dropped.
	last map[object]int
}

// content is what was found in a range. Two ranges may overlap while one takes the place of
// the other, and neither needs to be the first to hear of a change: then the newest version
// that either has is told, and what both had seen go is gone. When what was told is not what
// the range that stays has, it is listed again: the store may have been restored from a
// backup, so that the older one counts.
type content struct {
	kind  api.Kind
	known map[object]version // nil until the range was first read
	// untold are those of known that are not what was told last, for another range told of a
	// newer one.
	untold map[object]bool
	// stale: it is to be listed again.
	stale bool
}

// distrust has the range listed again, and an object of it told whatever it is then.
func (c *content) distrust(o object) {
	c.known[o] = version{doubted: true, told: c.known[o].told}
	delete(c.untold, o)
	c.stale = true
}

// object identifies what an update is about: a key, or a path that is none.
type object struct {
	key  api.Key
	path string // only when key is zero
}

// version identifies what was sent of an object.
type version struct {
	revision Revision
	digest   uint64
	invalid  string // the error, when the value can't be read
	doubted  bool   // it is not known what was told
	told     bool   // a version that can be read was told, and none that the object was gone since
}

func newDelivery(sink Sink, log *slog.Logger) *delivery {
	return &delivery{sink: sink, log: log, ranges: map[int]*content{}, last: map[object]int{}}
}

// open takes up a range; until it was read, nothing is known of it.
func (d *delivery) open(id int, r Range) {
	d.ranges[id] = &content{kind: r.Kind, untold: map[object]bool{}}
}

// wasRead reports whether a range was read.
func (d *delivery) wasRead(id int) bool { return d.ranges[id].known != nil }

// drop gives a range up. What was in it alone is gone.
func (d *delivery) drop(id int) {
	c := d.ranges[id]
	delete(d.ranges, id)
	for o := range c.known {
		d.removed(c, o)
	}
}

// found takes in the version of an object that a range has.
func (d *delivery) found(c *content, o object, e *Entry) {
	v := versionOf(e)
	c.known[o] = v
	delete(c.untold, o)
	for _, other := range d.others(c, o) {
		switch have := other.known[o]; {
		case have.revision > v.revision:
			c.untold[o] = true
			return
		case have == v && !other.untold[o]:
			return
		}
	}
	d.add(o, e, nil)
	d.overtake(c, o, v)
}

// overtake notes that what other ranges have of an object is not what was told.
func (d *delivery) overtake(c *content, o object, told version) {
	for _, other := range d.others(c, o) {
		if other.known[o] != told {
			other.untold[o] = true
		}
	}
}

// removed takes in that a range no longer has an object. It is gone if no other range has
// it. One that has another version than was told is listed again.
func (d *delivery) removed(c *content, o object) {
	delete(c.known, o)
	delete(c.untold, o)
	others := d.others(c, o)
	for _, other := range others {
		if other.untold[o] {
			other.distrust(o)
		}
	}
	if len(others) == 0 {
		d.add(o, nil, nil)
	}
}

// others are the other ranges that have an object.
func (d *delivery) others(than *content, o object) (others []*content) {
	for _, c := range d.ranges {
		if c != than && c.kind == than.kind {
			if _, has := c.known[o]; has {
				others = append(others, c)
			}
		}
	}
	return others
}

// again gives a range that is to be listed again another number, under which nothing that
// was on its way counts.
func (d *delivery) again(id, next int) {
	c := d.ranges[id]
	delete(d.ranges, id)
	c.stale = false
	d.ranges[next] = c
}

// snapshot takes the whole content of a range.
func (d *delivery) snapshot(id int, snap Snapshot) {
	c := d.ranges[id]
	before, untold := c.known, c.untold
	c.known, c.untold = make(map[object]version, len(snap.Entries)+len(snap.Invalid)), map[object]bool{}
	for i := range snap.Entries {
		e := &snap.Entries[i]
		o, v := object{key: e.Key}, versionOf(e)
		if before[o] == v && !untold[o] {
			c.known[o] = v
		} else {
			d.found(c, o, e)
		}
	}
	for i := range snap.Invalid {
		inv := &snap.Invalid[i]
		o := objectOf(inv)
		v := d.unread(c, o, inv, before[o])
		c.known[o] = v
		if before[o] != v || untold[o] {
			d.addInvalid(o, inv, v)
			d.overtake(c, o, v)
		}
	}
	for o := range before {
		if _, ok := c.known[o]; !ok {
			d.removed(c, o)
		}
	}
}

// events takes changes of a range that was read before.
func (d *delivery) events(id int, events []Event) {
	c := d.ranges[id]
	for i := range events {
		ev := &events[i]
		o := object{key: ev.Key, path: ev.Path}
		delete(c.untold, o)
		switch {
		case ev.Deleted:
			d.removed(c, o)
		case ev.Invalid != nil:
			v := d.unread(c, o, ev.Invalid, c.known[o])
			c.known[o] = v
			d.addInvalid(o, ev.Invalid, v)
			d.overtake(c, o, v)
		default:
			d.found(c, o, ev.Entry)
		}
	}
}

func objectOf(inv *Invalid) object {
	if inv.Key == (api.Key{}) {
		return object{path: inv.Path}
	}
	return object{key: inv.Key}
}

func versionOf(e *Entry) version {
	return version{revision: e.Revision, digest: e.Digest, told: true}
}

// unread is the version of an object that can't be read, of which a range had another before.
func (d *delivery) unread(c *content, o object, inv *Invalid, before version) version {
	v := version{revision: inv.Revision, invalid: inv.Error(), told: before.told}
	for _, other := range d.others(c, o) {
		v.told = v.told || other.known[o].told
	}
	return v
}

// addInvalid takes that an object can't be read. A version of it that waits to be told goes
// along: it is the last that could be.
func (d *delivery) addInvalid(o object, inv *Invalid, v version) {
	meanwhile := unreadNothing
	if v.told {
		meanwhile = unreadKept
	}
	d.log.Warn("datastore holds a value that can't be read", "path", inv.Path, "err", inv.Err, "meanwhile", meanwhile)
	var last *Entry
	if at, waits := d.last[o]; waits && v.told {
		last = d.pending[at].Entry
	}
	d.add(o, last, inv)
	d.pending[len(d.pending)-1].Kept = v.told
}

// add takes the present state of an object; neither entry nor invalid: it is gone.
func (d *delivery) add(o object, entry *Entry, invalid *Invalid) {
	d.last[o] = len(d.pending)
	d.pending = append(d.pending, SyncUpdate{Key: o.key, Path: o.path, Entry: entry, Invalid: invalid})
}

// flush sends what is pending, and that something was read.
func (d *delivery) flush() {
	if d.status == WaitForDatastore && d.anyRead() {
		d.setStatus(Resync)
	}
	if len(d.pending) > 0 {
		updates := make([]SyncUpdate, 0, len(d.last))
		for i, u := range d.pending {
			if d.last[object{key: u.Key, path: u.Path}] == i {
				updates = append(updates, u)
			}
		}
		d.pending = nil
		clear(d.last)
		d.sink.OnUpdates(updates)
	}
}

// advance reports InSync as soon as every range has been read.
func (d *delivery) advance() {
	if d.status == InSync {
		return
	}
	for id := range d.ranges {
		if !d.wasRead(id) {
			return
		}
	}
	d.setStatus(InSync)
}

func (d *delivery) anyRead() bool {
	for id := range d.ranges {
		if d.wasRead(id) {
			return true
		}
	}
	return false
}

func (d *delivery) setStatus(s Status) {
	d.status = s
	d.sink.OnStatus(s)
}

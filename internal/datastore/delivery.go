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
	// ranges holds what was sent, by range; nil until the range was first read.
	ranges []map[object]version

	pending []SyncUpdate
	// last is the place in pending of the newest update of each object; older
	// ones are dropped.
	last map[object]int
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
}

func newDelivery(sink Sink, log *slog.Logger, ranges int) *delivery {
	return &delivery{sink: sink, log: log, ranges: make([]map[object]version, ranges), last: map[object]int{}}
}

func (d *delivery) start() {
	d.sink.OnStatus(d.status)
	d.advance()
}

// snapshot takes the whole content of a range.
func (d *delivery) snapshot(id int, snap Snapshot) {
	before := d.ranges[id]
	now := make(map[object]version, len(snap.Entries)+len(snap.Invalid))
	d.ranges[id] = now
	for i := range snap.Entries {
		e := &snap.Entries[i]
		o, v := object{key: e.Key}, version{revision: e.Revision, digest: e.Digest}
		now[o] = v
		if before[o] != v {
			d.add(o, e, nil)
		}
	}
	for i := range snap.Invalid {
		inv := &snap.Invalid[i]
		o, v := objectOf(inv), version{invalid: inv.Error()}
		now[o] = v
		if before[o] != v {
			d.addInvalid(o, inv)
		}
	}
	for o := range before {
		if _, ok := now[o]; !ok {
			d.add(o, nil, nil)
		}
	}
}

// events takes changes of a range that was read before.
func (d *delivery) events(id int, events []Event) {
	known := d.ranges[id]
	for i := range events {
		ev := &events[i]
		o := object{key: ev.Key, path: ev.Path}
		switch {
		case ev.Deleted:
			delete(known, o)
			d.add(o, nil, nil)
		case ev.Invalid != nil:
			known[o] = version{invalid: ev.Invalid.Error()}
			d.addInvalid(o, ev.Invalid)
		default:
			known[o] = version{revision: ev.Entry.Revision, digest: ev.Entry.Digest}
			d.add(o, ev.Entry, nil)
		}
	}
}

func objectOf(inv *Invalid) object {
	if inv.Key == (api.Key{}) {
		return object{path: inv.Path}
	}
	return object{key: inv.Key}
}

func (d *delivery) addInvalid(o object, inv *Invalid) {
	d.log.Warn("datastore holds a value that can't be read: it is left out", "path", inv.Path, "err", inv.Err)
	d.add(o, nil, inv)
}

// add takes the present state of an object; neither entry nor invalid: it is gone.
func (d *delivery) add(o object, entry *Entry, invalid *Invalid) {
	d.last[o] = len(d.pending)
	d.pending = append(d.pending, SyncUpdate{Key: o.key, Path: o.path, Entry: entry, Invalid: invalid})
}

// flush sends what is pending, and the status if it has changed by it.
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
	d.advance()
}

// advance reports InSync as soon as every range has been read.
func (d *delivery) advance() {
	if d.status == InSync {
		return
	}
	for _, known := range d.ranges {
		if known == nil {
			return
		}
	}
	d.setStatus(InSync)
}

func (d *delivery) anyRead() bool {
	for _, known := range d.ranges {
		if known != nil {
			return true
		}
	}
	return false
}

func (d *delivery) setStatus(s Status) {
	d.status = s
	d.sink.OnStatus(s)
}

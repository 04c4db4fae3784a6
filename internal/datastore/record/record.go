// Package record is what every key-value backend of the datastore shares: it
// turns operations into keys and bytes, and stored keys and bytes back into
// entries, events and conflicts. It does no I/O, so that all backends give the
// same answers by construction.
package record

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Codec reads and writes stored records.
type Codec struct {
	reg *api.Registry
}

// NewCodec makes a codec for the kinds of reg.
func NewCodec(reg *api.Registry) Codec { return Codec{reg: reg} }

// Pair is one key of the store as the backend holds it.
type Pair struct {
	Path     string
	Value    []byte
	Revision datastore.Revision
}

// Change is one stored change: a put of Pair.Value, or a deletion of Pair.Path,
// at Pair.Revision.
type Change struct {
	Pair
	Deleted bool
}

// Path is the place of a key in the store. The error starts with the key.
func (c Codec) Path(key api.Key) (string, error) { return c.reg.Path(key) }

// Prefix is the common prefix of all paths of a range. Other kinds may share it:
// Snapshot and Events leave those out.
func (c Codec) Prefix(r datastore.Range) (string, error) {
	return c.reg.Prefix(r.Kind, r.Namespace, r.NamePrefix)
}

// Entry decodes a pair whose key is known. The object carries the revision as
// its resourceVersion.
func (c Codec) Entry(key api.Key, p Pair) (datastore.Entry, *datastore.Invalid) {
	obj, unknown, err := c.reg.Decode(key, p.Value)
	if err != nil {
		return datastore.Entry{}, &datastore.Invalid{Path: p.Path, Key: key, Err: err, Value: p.Value, Revision: p.Revision}
	}
	obj.SetResourceVersion(strconv.FormatInt(int64(p.Revision), 10))
	return datastore.Entry{
		Key:      key,
		Object:   obj,
		Revision: p.Revision,
		Unknown:  unknown,
		Digest:   digest(p.Value),
	}, nil
}

// Get is the answer to a Get of key, whose pair is nil when the store has none.
func (c Codec) Get(key api.Key, p *Pair) (datastore.Entry, error) {
	if p == nil {
		return datastore.Entry{}, fmt.Errorf("get %s: %w", key, datastore.ErrNotFound)
	}
	entry, invalid := c.Entry(key, *p)
	if invalid != nil {
		return datastore.Entry{}, fmt.Errorf("get %s: %w", key, invalid)
	}
	return entry, nil
}

// Snapshot decodes the pairs of a range, which must be sorted by path.
func (c Codec) Snapshot(r datastore.Range, pairs []Pair, rev datastore.Revision) datastore.Snapshot {
	snap := datastore.Snapshot{Revision: rev, Entries: make([]datastore.Entry, 0, len(pairs))}
	for _, p := range pairs {
		key, ok, invalid := c.key(r, p)
		if !ok {
			continue
		}
		var entry datastore.Entry
		if invalid == nil {
			entry, invalid = c.Entry(key, p)
		}
		if invalid != nil {
			snap.Invalid = append(snap.Invalid, *invalid)
			continue
		}
		snap.Entries = append(snap.Entries, entry)
	}
	return snap
}

// Events decodes the changes of a range in the order given. What is under a path
// that isn't a key's is named by that path, its deletion too: whoever was told
// that it can't be read learns that it is gone.
func (c Codec) Events(r datastore.Range, changes []Change) []datastore.Event {
	events := make([]datastore.Event, 0, len(changes))
	for _, ch := range changes {
		key, ok, invalid := c.key(r, ch.Pair)
		if !ok {
			continue
		}
		ev := datastore.Event{Key: key, Revision: ch.Revision, Deleted: ch.Deleted}
		switch {
		case invalid != nil:
			ev.Path = ch.Path
			if !ch.Deleted {
				ev.Invalid = invalid
			}
		case !ch.Deleted:
			var entry datastore.Entry
			if entry, ev.Invalid = c.Entry(key, ch.Pair); ev.Invalid == nil {
				ev.Entry = &entry
			}
		}
		events = append(events, ev)
	}
	return events
}

// In gives those of changes that are of a range.
func (c Codec) In(r datastore.Range, changes []Change) []Change {
	return slices.DeleteFunc(changes, func(ch Change) bool {
		_, ok, _ := c.key(r, ch.Pair)
		return !ok
	})
}

// key parses the path of a pair found in range r. ok is false when it belongs
// to something that only shares the prefix.
func (c Codec) key(r datastore.Range, p Pair) (key api.Key, ok bool, invalid *datastore.Invalid) {
	key, err := c.reg.ParsePath(p.Path)
	if err != nil {
		return api.Key{}, true, &datastore.Invalid{Path: p.Path, Err: err}
	}
	if key.Kind != r.Kind ||
		(r.Namespace != "" && key.Namespace != r.Namespace) ||
		!strings.HasPrefix(key.Name, r.NamePrefix) {
		return api.Key{}, false, nil
	}
	return key, true, nil
}

// digest identifies a stored value; see datastore.Entry.Digest.
func digest(value []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(value) // never returns an error
	return h.Sum64()
}

// Compare orders pairs by path, the order in which every backend lists them.
func Compare(a, b Pair) int { return strings.Compare(a.Path, b.Path) }

// Sort puts pairs into list order.
func Sort(pairs []Pair) { slices.SortFunc(pairs, Compare) }

package ipam

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// look reads the View.
func (w *writer) look() {
	w.refreshPools()
	if objs := w.view.Reservations(); !slices.Equal(objs, w.reservedBy) {
		var bad []string
		w.held, bad = parseReservations(objs)
		w.reservedBy = objs
		if len(bad) > 0 {
			w.log.Warn("reservations can't be read and reserve nothing", "entries", bad)
		}
	}
	w.reserved = w.held
	w.cooldown.look(w.now(), cooldownOf(w.view.Config()))
	w.reserved.cooling = w.cooldown.resting
}

// prepare reads what the batch needs and memory doesn't have: after the start
// the node's affinities and blocks, after an unknown outcome what it touched, for
// a release the handle if it isn't known, and its blocks. In normal operation
// that is nothing.
func (w *writer) prepare(ctx context.Context, calls []*call) error {
	if !w.state.loaded {
		if err := w.load(ctx); err != nil {
			return err
		}
	}
	keys := w.missingBlocks(nil)
	for _, c := range calls {
		if c.assign == nil {
			keys = w.missingHandle(keys, c.handle)
		}
	}
	for _, d := range w.state.doubts {
		keys = w.missingHandle(keys, d.request.Handle)
	}
	if err := w.read(ctx, keys); err != nil {
		return err
	}
	return w.read(ctx, w.missingBlocks(calls))
}

func (w *writer) missingHandle(keys []api.Key, id HandleID) []api.Key {
	key := api.HandleKey(string(id))
	if _, known := w.state.handles[id]; known || w.state.absent[id] || slices.Contains(keys, key) {
		return keys
	}
	return append(keys, key)
}

// missingBlocks are the blocks to be read: stale ones, and those of doubts and
// of the handles to be released that aren't in memory.
func (w *writer) missingBlocks(releases []*call) []api.Key {
	set := make(map[netip.Prefix]bool)
	for prefix := range w.state.stale {
		set[prefix] = true
	}
	var wanted []netip.Prefix
	for _, d := range w.state.doubts {
		wanted = append(wanted, d.blocks()...)
	}
	for _, c := range releases {
		if c.assign == nil {
			wanted = append(wanted, handleBlocks(w.state.handles[c.handle])...)
		}
	}
	for _, prefix := range wanted {
		if _, known := w.state.blocks[prefix]; !known {
			set[prefix] = true
		}
	}
	keys := make([]api.Key, 0, len(set))
	for prefix := range set {
		keys = append(keys, api.BlockKey(prefix))
	}
	slices.SortFunc(keys, func(x, y api.Key) int { return cmp.Compare(x.Name, y.Name) })
	return keys
}

func (w *writer) read(ctx context.Context, keys []api.Key) error {
	if len(keys) == 0 {
		return nil
	}
	current, err := readKeys(ctx, w.client, keys)
	if err != nil {
		return err
	}
	w.state.absorb(keys, current)
	return nil
}

// advance does the next thing: commit everything that can be done from memory,
// or, when that is nothing, get another block. It reports whether it brought
// anything forward.
func (w *writer) advance(ctx context.Context, calls []*call) bool {
	p, short := w.plan(calls)
	if p.ops > 0 {
		return w.commit(ctx, p)
	}
	for c := range p.released {
		w.endRelease(c, p)
	}
	if short == nil {
		return true
	}
	grown, err := w.grow(ctx, short, calls)
	switch {
	case err == nil:
		return grown
	case errors.Is(err, datastore.ErrUnavailable), ctx.Err() != nil:
		w.state.loaded = false // prepare finds out whether the store is back
		return false
	}
	short.answer(result{err: err})
	return true
}

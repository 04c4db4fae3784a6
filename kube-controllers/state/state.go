// Package state is what the datastore holds, kept by a syncer: the one copy that
// all controllers share.
package state

import (
	"sync"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Index finds objects of a kind by something they say.
type Index struct {
	Kind api.Kind
	// Values are what an object is found by.
	Values func(obj api.Object) []string
}

// Cache is a datastore.Sink. Register what wants to know, then run the syncer.
type Cache struct {
	mu       sync.RWMutex
	entries  map[api.Key]datastore.Entry
	invalid  map[api.Key]bool
	indexes  map[string]*index
	watchers map[api.Kind][]func(before, after *datastore.Entry, key api.Key)
	inSync   chan struct{}
}

type index struct {
	Index
	keys map[string]map[api.Key]bool
}

// New makes an empty Cache with named indexes.
func New(indexes map[string]Index) *Cache {
	c := &Cache{
		entries: map[api.Key]datastore.Entry{}, invalid: map[api.Key]bool{}, indexes: map[string]*index{},
		watchers: map[api.Kind][]func(before, after *datastore.Entry, key api.Key){}, inSync: make(chan struct{}),
	}
	for name, i := range indexes {
		c.indexes[name] = &index{Index: i, keys: map[string]map[api.Key]bool{}}
	}
	return c
}

// Watch has f called for each change of an object of a kind, after the Cache shows
// it: what was readable before, and what is now; nil for nothing. f must be quick.
func (c *Cache) Watch(kind api.Kind, f func(before, after *datastore.Entry, key api.Key)) {
	c.watchers[kind] = append(c.watchers[kind], f)
}

// InSync is closed when everything has been read once.
func (c *Cache) InSync() <-chan struct{} { return c.inSync }

// OnStatus implements datastore.Sink.
func (c *Cache) OnStatus(s datastore.Status) {
	if s == datastore.InSync {
		close(c.inSync)
	}
}

// OnUpdates implements datastore.Sink. What is stored under a path that is no key
// concerns no controller.
func (c *Cache) OnUpdates(updates []datastore.SyncUpdate) {
	for _, u := range updates {
		if u.Key == (api.Key{}) {
			continue
		}
		if u.Invalid != nil {
			u.Entry = nil // what it said before is of no use to a controller, which waits
		}
		before := c.apply(u)
		for _, f := range c.watchers[u.Key.Kind] {
			f(before, u.Entry, u.Key)
		}
	}
}

func (c *Cache) apply(u datastore.SyncUpdate) (before *datastore.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.entries[u.Key]; ok {
		before = &old
		c.reindex(u.Key, old.Object, false)
	}
	delete(c.entries, u.Key)
	delete(c.invalid, u.Key)
	switch {
	case u.Entry != nil:
		c.entries[u.Key] = *u.Entry
		c.reindex(u.Key, u.Entry.Object, true)
	case u.Invalid != nil:
		c.invalid[u.Key] = true
	}
	return before
}

func (c *Cache) reindex(key api.Key, obj api.Object, present bool) {
	for _, i := range c.indexes {
		if i.Kind != key.Kind {
			continue
		}
		for _, v := range i.Values(obj) {
			switch {
			case present && i.keys[v] == nil:
				i.keys[v] = map[api.Key]bool{key: true}
			case present:
				i.keys[v][key] = true
			case len(i.keys[v]) == 1:
				delete(i.keys, v)
			default:
				delete(i.keys[v], key)
			}
		}
	}
}

// Get is the object under a key. Its Object is shared and must not be changed.
func (c *Cache) Get(key api.Key) (datastore.Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[key]
	return e, ok
}

// Unreadable reports whether there is something under a key that can't be read.
func (c *Cache) Unreadable(key api.Key) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.invalid[key]
}

// Find lists the keys that an index has for a value, in no order.
func (c *Cache) Find(index, value string) []api.Key {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var keys []api.Key
	for key := range c.indexes[index].keys[value] {
		keys = append(keys, key)
	}
	return keys
}

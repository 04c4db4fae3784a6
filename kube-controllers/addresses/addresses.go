// Package addresses counts the blocks and addresses of the whole cluster for
// Prometheus, and warns before a pool, or the blocks that a node may have, run out. It
// reads each block once when it changes, from the copy of the datastore that all
// controllers share; nothing is listed for it, and a look at the numbers adds them up
// anew, so that no mistake lasts.
package addresses

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gaissmai/bart"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/kube-controllers/state"
)

// Config is what a Counter works in.
type Config struct {
	Cache *state.Cache
	Log   *slog.Logger
}

// Counter follows blocks and pools. It is a controller, and a prometheus.Collector
// whose labels are pools and nodes that have blocks or addresses.
type Counter struct {
	cfg   Config
	descs descs

	mu       sync.Mutex
	blocks   map[api.Key]tally
	pools    map[api.Key]pool
	byPrefix *bart.Table[pool] // of pools
	config   api.IPAMConfigSpec
	changed  bool
	said     map[warning]bool
}

type pool struct {
	name   string
	prefix netip.Prefix
	blocks float64 // how many it has room for
}

// New makes a Counter.
func New(cfg Config) *Counter {
	c := &Counter{
		cfg: cfg, descs: newDescs(), blocks: map[api.Key]tally{}, pools: map[api.Key]pool{},
		byPrefix: new(bart.Table[pool]), said: map[warning]bool{},
	}
	cfg.Cache.Watch(api.KindIPAMBlock, c.blockChanged)
	cfg.Cache.Watch(api.KindIPPool, c.poolChanged)
	cfg.Cache.Watch(api.KindIPAMConfig, c.configChanged)
	return c
}

func (c *Counter) blockChanged(before, after *datastore.Entry, key api.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = true
	switch {
	case after != nil:
		c.blocks[key] = tallyOf(before, *after, c.blocks[key], c.config.IPCooldownSeconds > 0, time.Now())
	case c.cfg.Cache.Unreadable(key):
		c.blocks[key] = tally{broken: true}
	default:
		delete(c.blocks, key)
	}
}

func (c *Counter) poolChanged(_, after *datastore.Entry, key api.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = true
	delete(c.pools, key)
	if after != nil {
		if p, ok := poolOf(after.Object); ok {
			c.pools[key] = p
		}
	}
	c.byPrefix = new(bart.Table[pool])
	for _, p := range c.pools {
		c.byPrefix.Insert(p.prefix, p)
	}
}

// poolOf reads a pool as far as it is counted.
func poolOf(obj api.Object) (pool, bool) {
	p, ok := obj.(*v3.IPPool)
	if !ok {
		return pool{}, false
	}
	prefix, err := netip.ParsePrefix(p.Spec.CIDR)
	if err != nil {
		return pool{}, false
	}
	prefix = prefix.Masked()
	size := cmp.Or(p.Spec.BlockSize, prefix.Addr().BitLen()-6)
	return pool{p.Name, prefix, math.Ldexp(1, max(0, size-prefix.Bits()))}, true
}

// size is how many addresses a pool has.
func (p pool) size() float64 { return math.Ldexp(1, p.prefix.Addr().BitLen()-p.prefix.Bits()) }

func (c *Counter) configChanged(_, after *datastore.Entry, key api.Key) {
	if key != api.IPAMConfigKey() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed, c.config = true, api.IPAMConfigSpec{}
	if after != nil {
		if obj, ok := after.Object.(*api.IPAMConfig); ok {
			c.config = obj.Spec
		}
	}
}

// PoolOf is the pool an address lies in, in upstream's words for metrics.
func (c *Counter) PoolOf(addr netip.Addr) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.poolName(addr)
}

func (c *Counter) poolName(addr netip.Addr) string {
	if p, ok := c.byPrefix.Lookup(addr); ok {
		return p.name
	}
	return noPool
}

// place is what addresses are counted by.
type place struct{ pool, node string }

// count is what there is in a place. Blocks, free and cooling are those of the node's
// blocks, used and borrowed the addresses on it.
type count struct{ blocks, used, borrowed, free, cooling int }

// family counts a node's blocks of one IP version.
type family struct {
	node string
	six  bool
}

// sums are the tallies, added up.
type sums struct {
	places   map[place]*count
	claimed  map[string]int // blocks, by pool
	families map[family]int // blocks
	problems map[string]int // blocks
}

// The problems that a block can have.
const (
	unreadable, contradictory, outside, ownerless = "unreadable", "contradictory", "outside_pools", "owner_unknown"
)

// sum adds up what the tallies say now.
func (c *Counter) sum(now time.Time) sums {
	s := sums{places: map[place]*count{}, claimed: map[string]int{}, families: map[family]int{}, problems: map[string]int{unreadable: 0, contradictory: 0, outside: 0, ownerless: 0}}
	at := func(pool, node string) *count {
		p := place{pool, node}
		if s.places[p] == nil {
			s.places[p] = &count{}
		}
		return s.places[p]
	}
	cooldown := time.Duration(c.config.IPCooldownSeconds) * time.Second
	for _, t := range c.blocks {
		if t.broken {
			s.problems[unreadable]++
			continue
		}
		name := c.poolName(t.prefix.Addr())
		own := at(name, t.owner)
		own.blocks++
		own.free += t.free
		own.cooling += t.cooling(cooldown, now)
		s.claimed[name]++
		for node, n := range t.used {
			at(name, node).used += n
		}
		for node, n := range t.borrowed {
			at(name, node).borrowed += n
		}
		if t.contradictory {
			s.problems[contradictory]++
		}
		if name == noPool {
			s.problems[outside]++
		}
		if t.owner == noAffinity {
			continue
		}
		s.families[family{t.owner, t.prefix.Addr().Is6()}]++
		if key := (api.Key{Kind: api.KindNode, Name: t.owner}); !c.known(key) {
			s.problems[ownerless]++
		}
	}
	return s
}

func (c *Counter) known(node api.Key) bool {
	_, ok := c.cfg.Cache.Get(node)
	return ok || c.cfg.Cache.Unreadable(node)
}

// limit is how many blocks of one IP version a node may have.
func (c *Counter) limit() int {
	return cmp.Or(max(0, c.config.MaxBlocksPerHost), ipam.DefaultMaxBlocksPerHost)
}

// lookEvery is how often what has changed is looked at for warnings.
const lookEvery = 10 * time.Second

// Run warns until ctx ends. The datastore must have been read by then.
func (c *Counter) Run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery) // the edge: Run is the ticking alone
	defer ticker.Stop()
	for {
		c.warn()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close is there because controllers have one.
func (c *Counter) Close() {}

// Health is nil: nothing here can get stuck.
func (c *Counter) Health() error { return nil }

// warning is something that runs out: a pool, or the blocks of a node.
type warning struct {
	pool string // name, empty for a node's blocks
	family
}

// warnings are those of now.
func (c *Counter) warnings(s sums) map[warning]int {
	out := map[warning]int{}
	for _, p := range c.pools {
		if n := s.claimed[p.name]; p.blocks > 1 && float64(n)*5 >= p.blocks*4 {
			out[warning{pool: p.name}] = n
		}
	}
	for f, n := range s.families {
		if limit := c.limit(); limit > 1 && n*5 >= limit*4 {
			out[warning{family: f}] = n
		}
	}
	return out
}

// warn logs what begins to run out, once, and what doesn't any more.
func (c *Counter) warn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changed {
		return
	}
	c.changed = false
	now := c.warnings(c.sum(time.Now()))
	for w, n := range now {
		if !c.said[w] {
			c.said[w] = true
			c.say(w, n)
		}
	}
	for w := range c.said {
		if _, still := now[w]; !still {
			delete(c.said, w)
			c.cfg.Log.Info("addresses don't run out any more", "pool", w.pool, "node", w.node)
		}
	}
}

func (c *Counter) say(w warning, n int) {
	if w.pool == "" {
		c.cfg.Log.Warn("a node has nearly all the blocks it may have: raise the limit (calicoctl ipam configure --max-blocks-per-host), or run fewer pods on it",
			"node", w.node, "blocks", n, "limit", c.limit(), "ip-version", map[bool]int{false: 4, true: 6}[w.six])
		return
	}
	p := c.pools[api.Key{Kind: api.KindIPPool, Name: w.pool}]
	c.cfg.Log.Warn("an IP pool is nearly full: add a pool (kind: IPPool, calicoctl apply), or find blocks to free (calicoctl ipam show --show-blocks)",
		"pool", w.pool, "cidr", p.prefix, "blocks", n, "of", p.blocks)
}

// sortedPools are the pools by name, for output that doesn't change its order.
func (c *Counter) sortedPools() []pool {
	out := make([]pool, 0, len(c.pools))
	for _, p := range c.pools {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b pool) int { return cmp.Compare(a.name, b.name) })
	return out
}

package ipam

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// View is what the allocator needs to know of the cluster. Its owner keeps it up
// to date, so that an allocation reads nothing. What it returns is not changed
// afterwards by anybody. All methods are safe for concurrent use.
type View interface {
	// Pools lists all IP pools, sorted by name.
	Pools() []*v3.IPPool
	// NodeLabels are the labels of the allocator's own Node; known is false as
	// long as there is no such Node.
	NodeLabels() (labels map[string]string, known bool)
	// Config is the cluster-wide configuration, with defaults applied.
	Config() api.IPAMConfigSpec
	// Reservations lists all IP reservations.
	Reservations() []*v3.IPReservation
}

// NamespaceView is a View that also knows the labels of namespaces. Without it
// a pool with a namespaceSelector other than all() is not used, because nobody
// can tell whether it may be.
type NamespaceView interface {
	NamespaceLabels(namespace string) (labels map[string]string, known bool)
}

// ConfigView is a View that also knows whether its configuration is what is stored. kept
// says that it is the last one that could be read; otherwise, with an error, it is the
// strictest there is, and what it forbids may be allowed.
type ConfigView interface {
	ConfigProblem() (kept bool, err error)
}

// PoolsView is a View that also knows of which pools nothing can be read. They serve nobody,
// and are the likely cause where an address is missing.
type PoolsView interface {
	UnreadPools() []Verdict
}

// Tracker is a View fed by a datastore.Syncer: pass every batch of updates to
// Apply. It implements NamespaceView from the profiles kns.<namespace>, ConfigView and PoolsView.
type Tracker struct {
	node string

	mu           sync.RWMutex
	pools        map[string]*v3.IPPool
	reservations map[string]*v3.IPReservation
	namespaces   map[string]map[string]string
	labels       map[string]string
	nodeKnown    bool
	config       api.IPAMConfigSpec
	configRead   bool // config is one that was stored
	configErr    error
	unread       map[string]string // the pools of which nothing is known, and why
}

// NewTracker returns a Tracker for a node that knows nothing yet.
func NewTracker(node string) *Tracker {
	return &Tracker{
		node:         node,
		pools:        make(map[string]*v3.IPPool),
		reservations: make(map[string]*v3.IPReservation),
		namespaces:   make(map[string]map[string]string),
		config:       defaultConfig(),
		unread:       make(map[string]string),
	}
}

// Ranges are the parts of the datastore the Tracker wants to see.
func (*Tracker) Ranges() []datastore.Range {
	return []datastore.Range{
		{Kind: api.KindIPPool},
		{Kind: api.KindNode},
		{Kind: api.KindIPAMConfig},
		{Kind: api.KindIPReservation},
		{Kind: api.KindProfile},
	}
}

// Apply takes in updates; those of other kinds and nodes are ignored. An object
// that can't be read any more keeps its last readable state.
func (t *Tracker) Apply(updates []datastore.SyncUpdate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range updates {
		var obj api.Object
		if u.Entry != nil {
			obj = u.Entry.Object
		}
		if u.Invalid == nil || u.Entry != nil {
			t.apply(u.Key, obj, u.Entry)
		}
		if u.Invalid != nil {
			t.applyUnreadable(u)
		}
	}
}

// applyUnreadable: a configuration that nobody could read ever since it is there may forbid
// anything. It is not taken for none, which would allow what it forbids. A pool that could
// be read before serves on, and blocks are claimed of it as long as it is not written again.
func (t *Tracker) applyUnreadable(u datastore.SyncUpdate) {
	switch u.Key.Kind {
	case api.KindIPAMConfig:
		t.configErr = u.Invalid.Err
		if !t.configRead {
			t.config = strictestConfig()
		}
	case api.KindIPPool:
		pool := t.pools[u.Key.Name]
		if !u.Kept || pool == nil {
			delete(t.pools, u.Key.Name)
			t.unread[u.Key.Name] = u.Unread()
			return
		}
		pool = pool.DeepCopy()
		pool.ResourceVersion = strconv.FormatInt(int64(u.Invalid.Revision), 10)
		t.pools[u.Key.Name] = pool
	}
}

// apply takes in one object; a nil obj means that it is gone.
func (t *Tracker) apply(key api.Key, obj api.Object, entry *datastore.Entry) {
	switch key.Kind {
	case api.KindIPPool:
		delete(t.pools, key.Name)
		delete(t.unread, key.Name)
		if pool, ok := obj.(*v3.IPPool); ok {
			t.pools[key.Name] = withRevision(pool, entry.Revision)
		}
	case api.KindIPReservation:
		delete(t.reservations, key.Name)
		if reservation, ok := obj.(*v3.IPReservation); ok {
			t.reservations[key.Name] = reservation
		}
	case api.KindIPAMConfig:
		t.config, t.configRead, t.configErr = defaultConfig(), false, nil
		if config, ok := obj.(*api.IPAMConfig); ok {
			t.config, t.configRead = config.Spec, true
		}
	case api.KindNode:
		if key.Name != t.node {
			return
		}
		t.labels, t.nodeKnown = nil, false
		if node, ok := obj.(*api.Node); ok {
			t.labels, t.nodeKnown = node.GetLabels(), true
		}
	case api.KindProfile:
		t.applyProfile(key.Name, obj)
	default: // not ours
	}
}

// The names by which the labels of a namespace stand in its profile.
const (
	namespaceProfilePrefix = "kns."
	namespaceLabelPrefix   = "pcns."
)

// applyProfile takes the labels of a namespace out of its profile.
func (t *Tracker) applyProfile(name string, obj api.Object) {
	namespace, ok := strings.CutPrefix(name, namespaceProfilePrefix)
	if !ok {
		return
	}
	delete(t.namespaces, namespace)
	profile, ok := obj.(*v3.Profile)
	if !ok {
		return
	}
	labels := make(map[string]string)
	for key, value := range profile.Spec.LabelsToApply {
		if label, ok := strings.CutPrefix(key, namespaceLabelPrefix); ok {
			labels[label] = value
		}
	}
	t.namespaces[namespace] = labels
}

// Pools implements View.
func (t *Tracker) Pools() []*v3.IPPool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.pools), func(x, y *v3.IPPool) int { return cmp.Compare(x.Name, y.Name) })
}

// NodeLabels implements View.
func (t *Tracker) NodeLabels() (map[string]string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.labels, t.nodeKnown
}

// Config implements View.
func (t *Tracker) Config() api.IPAMConfigSpec {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.config
}

// ConfigProblem implements ConfigView.
func (t *Tracker) ConfigProblem() (kept bool, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.configRead, t.configErr
}

// UnreadPools implements PoolsView.
func (t *Tracker) UnreadPools() (all []Verdict) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(t.unread)) {
		all = append(all, Verdict{Pool: name, Reason: t.unread[name], Unread: true})
	}
	return all
}

// Reservations implements View.
func (t *Tracker) Reservations() []*v3.IPReservation {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.reservations), func(x, y *v3.IPReservation) int { return cmp.Compare(x.Name, y.Name) })
}

// NamespaceLabels implements NamespaceView.
func (t *Tracker) NamespaceLabels(namespace string) (map[string]string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	labels, known := t.namespaces[namespace]
	return labels, known
}

// defaultConfig is what holds while nobody has stored an IPAMConfig.
func defaultConfig() api.IPAMConfigSpec {
	return api.IPAMConfigSpec{AutoAllocateBlocks: true}
}

// strictestConfig keeps a node to the blocks that it has.
func strictestConfig() api.IPAMConfigSpec {
	return api.IPAMConfigSpec{StrictAffinity: true, AutoAllocateBlocks: false}
}

// ConfigAdvice is what to do about a configuration that can't be read.
func ConfigAdvice(err error) string {
	return fmt.Sprintf("put IPAMConfig default right, which can't be read (%v): look at it with etcdctl get %s; or delete it there, and set it anew with calicoctl ipam configure", err, configPath)
}

// configPath is where upstream stores the configuration.
const configPath = "/calico/ipam/v2/config"

// withRevision makes sure that the pool says at which revision it was read: a
// claim depends on it.
func withRevision(pool *v3.IPPool, rev datastore.Revision) *v3.IPPool {
	if pool.ResourceVersion == "" && rev != 0 {
		pool = pool.DeepCopy()
		pool.ResourceVersion = strconv.FormatInt(int64(rev), 10)
	}
	return pool
}

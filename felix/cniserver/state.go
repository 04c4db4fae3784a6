package cniserver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// State is what the server knows of the datastore without asking it. It is fed
// by the daemon's Syncer and safe for concurrent use.
type State struct {
	node string

	mu        sync.Mutex
	status    datastore.Status
	inSync    bool // has been in sync since felix started
	ready     bool // ClusterInformation.spec.datastoreReady
	endpoints map[calc.EndpointID]datastore.Entry
	pools     map[string]*v3.IPPool // those that may serve new pods
	unread    map[string]string     // the pools of which nothing is known, and why
	hasNode   bool                  // there is a Node resource for this node
	changed   chan struct{}         // closed and replaced when readiness may have changed
}

// NewState is the State of a node before anything is known.
func NewState(node string) *State {
	return &State{
		node: node, ready: true,
		endpoints: map[calc.EndpointID]datastore.Entry{},
		pools:     map[string]*v3.IPPool{},
		unread:    map[string]string{},
		changed:   make(chan struct{}),
	}
}

// Ranges are the parts of the datastore the State wants to see.
func (s *State) Ranges() []datastore.Range {
	return []datastore.Range{
		{Kind: api.KindNode, NamePrefix: s.node},
		{Kind: api.KindClusterInformation},
		{Kind: api.KindIPPool},
		{Kind: api.KindWorkloadEndpoint, NamePrefix: api.WorkloadEndpointsOfNode(s.node)},
	}
}

// OnStatus takes in the Syncer's status.
func (s *State) OnStatus(status datastore.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
	s.inSync = s.inSync || status == datastore.InSync
	s.announce()
}

// Apply takes in updates; those of other kinds and nodes are ignored.
func (s *State) Apply(updates []datastore.SyncUpdate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range updates {
		if u.Stands() {
			continue
		}
		switch u.Key.Kind { //nolint:exhaustive // the others are not followed
		case api.KindWorkloadEndpoint:
			s.applyEndpoint(u)
		case api.KindIPPool:
			s.applyPool(u)
		case api.KindNode:
			if u.Key.Name == s.node {
				s.hasNode = u.Entry != nil || u.Invalid != nil
			}
		case api.KindClusterInformation:
			s.applyCluster(u)
		}
	}
}

func (s *State) applyEndpoint(u datastore.SyncUpdate) {
	id := calc.EndpointID{Namespace: u.Key.Namespace, Name: u.Key.Name}
	delete(s.endpoints, id)
	if u.Entry == nil {
		return
	}
	if wep, ok := u.Entry.Object.(*api.WorkloadEndpoint); ok && wep.Spec.Node == s.node {
		s.endpoints[id] = *u.Entry
	}
}

func (s *State) applyPool(u datastore.SyncUpdate) {
	delete(s.pools, u.Key.Name)
	delete(s.unread, u.Key.Name)
	if u.Entry == nil {
		if u.Invalid != nil {
			s.unread[u.Key.Name] = u.Unread()
		}
		return
	}
	pool, ok := u.Entry.Object.(*v3.IPPool)
	if !ok || pool.Spec.Disabled {
		return
	}
	if api.PoolServes(pool.Spec, v3.IPPoolAllowedUseWorkload) {
		s.pools[u.Key.Name] = pool
	}
}

func (s *State) applyCluster(u datastore.SyncUpdate) {
	if u.Key.Name != "default" {
		return
	}
	s.ready = true // absent: a cluster that nobody has locked
	if u.Entry != nil {
		if info, ok := u.Entry.Object.(*v3.ClusterInformation); ok && info.Spec.DatastoreReady != nil {
			s.ready = *info.Spec.DatastoreReady
		}
	}
	s.announce()
}

func (s *State) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// notReadyError says why the datastore can't be worked with at present.
type notReadyError struct{ reason string }

func (e *notReadyError) Error() string { return e.reason }

// Ready is nil when addresses and endpoints can be written, else it says why not
// and what to do.
func (s *State) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status == datastore.WaitForDatastore:
		return &notReadyError{fmt.Sprintf("felix on node %s has no connection to the datastore; check that etcd runs and that ETCD_ENDPOINTS is right", s.node)}
	case !s.inSync:
		return &notReadyError{fmt.Sprintf("felix on node %s is still reading the datastore; try again in a moment", s.node)}
	case !s.ready:
		return &notReadyError{"the datastore is locked (datastoreReady is false in ClusterInformation default), as during a migration; unlock it with: calicoctl datastore migrate unlock"}
	}
	return nil
}

// usable reports whether Ready is nil.
func (s *State) usable() bool { return s.Ready() == nil }

// InSync reports whether endpoints are known as the datastore has them.
func (s *State) InSync() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inSync
}

// poolsOf are the pools for workloads of one IP version, of those that are wanted by
// name or CIDR; none wanted means any.
func (s *State) poolsOf(version int, wanted []string) []*v3.IPPool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*v3.IPPool
	for name, pool := range s.pools {
		is6 := strings.Contains(pool.Spec.CIDR, ":")
		if is6 == (version == 6) && (len(wanted) == 0 || slices.Contains(wanted, name) || slices.Contains(wanted, pool.Spec.CIDR)) {
			found = append(found, pool)
		}
	}
	return found
}

// unreadPool says of one pool, if there is any, that it can't be read: it may be the one
// that is missing.
func (s *State) unreadPool() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.unread)) {
		return "IP pool " + name + " " + s.unread[name]
	}
	return ""
}

// HasNode reports whether there is a Node resource for this node.
func (s *State) HasNode() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasNode
}

// Changed is closed when readiness may have changed since.
func (s *State) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// endpoint is the endpoint as last seen in the datastore.
func (s *State) endpoint(id calc.EndpointID) (datastore.Entry, *api.WorkloadEndpoint, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry, ok := s.endpoints[id]
	if !ok {
		return datastore.Entry{}, nil, false
	}
	return entry, entry.Object.(*api.WorkloadEndpoint), true
}

// own are all endpoints of this node.
func (s *State) own() map[calc.EndpointID]*api.WorkloadEndpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[calc.EndpointID]*api.WorkloadEndpoint, len(s.endpoints))
	for id, entry := range s.endpoints {
		all[id] = entry.Object.(*api.WorkloadEndpoint)
	}
	return all
}

package daemon

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// blockPace bounds how often a block is read that changes with every pod. Only
// addresses borrowed from others' blocks are found in blocks, and an own block is
// advertised by its affinity: so nothing else waits.
const blockPace = 100 * time.Millisecond

// servicePace bounds how often plans are made while the endpoints of many services
// move: all that changes within that time makes one.
const servicePace = 100 * time.Millisecond

// ranges is what the bgpd of a node reads of the datastore, beside the blocks that its
// lenders ask for.
func ranges(node string) []datastore.Range {
	return []datastore.Range{
		{Kind: api.KindNode},
		{Kind: api.KindBGPConfiguration},
		{Kind: api.KindBGPPeer},
		{Kind: api.KindBGPFilter},
		// With the prefix, or all of IPAM's records come along.
		{Kind: api.KindBlockAffinity, NamePrefix: string(api.AffinityHost) + ":"},
		{Kind: api.KindIPAMLoan, NamePrefix: api.LoanPrefix(node)},
		{Kind: api.KindIPPool},
		{Kind: api.KindFelixConfiguration},
		{Kind: api.KindAdvertisedService, Delay: servicePace},
	}
}

// store is the Syncer's sink: it holds the resources and makes a topology of
// them when one that matters to this node has changed. Of several plans that wait
// only the last counts.
type store struct {
	node  string
	plans chan plan // one slot
	// want says which Secrets are to be followed; each is told to setSecret.
	want func(names []string)
	// wantWorkloads says whether the pods of this node are to be told to setWorkloads.
	wantWorkloads func(bool)

	mu      sync.Mutex // the Syncer and the Secrets tell from goroutines of their own
	secrets map[string]topology.Secret
	objects map[api.Kind]map[api.Key]api.Object
	invalid map[string]string  // by key, or by the path of what has none
	unknown map[api.Key]string // what is not read of a resource about BGP
	reg     *api.Registry
	inSync  bool
	last    *plan

	workloads     []*api.WorkloadEndpoint
	workloadsTold bool

	lenders lenders
}

var _ datastore.Sink = (*store)(nil)

func newStore(node string) *store {
	s := &store{
		node: node, plans: make(chan plan, 1), want: func([]string) {}, wantWorkloads: func(bool) {}, secrets: map[string]topology.Secret{},
		objects: map[api.Kind]map[api.Key]api.Object{}, invalid: map[string]string{},
		unknown: map[api.Key]string{}, reg: api.NewRegistry(), lenders: newLenders(node),
	}
	for _, r := range append(ranges(node), s.lenders.ranges()...) {
		s.objects[r.Kind] = map[api.Key]api.Object{}
	}
	return s
}

// OnStatus implements datastore.Sink. Nothing is done before InSync: half of a
// cluster must not be taken for the whole.
func (s *store) OnStatus(st datastore.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st == datastore.InSync && !s.inSync {
		s.inSync = true
		s.askLenders()
		s.compute()
	}
}

// askLenders has the blocks followed that may concern this node.
func (s *store) askLenders() { s.lenders.ask(s.objects[api.KindIPAMBlock], s.inSync) }

// OnUpdates implements datastore.Sink.
func (s *store) OnUpdates(updates []datastore.SyncUpdate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	relevant := false
	for _, u := range updates {
		if s.update(u) {
			relevant = true
		}
	}
	s.askLenders()
	if relevant && s.inSync {
		s.compute()
	}
}

// update reports whether the change can matter. Of a value that can't be read what it said
// before holds on; one that never could be is like none.
func (s *store) update(u datastore.SyncUpdate) bool {
	if u.Key.Kind == api.KindIPAMLoan {
		s.lenders.update(u)
		return false
	}
	objects, ok := s.objects[u.Key.Kind]
	if !ok {
		objects = map[api.Key]api.Object{} // an unreadable key is of no kind
	}
	u = s.readFelix(u)
	name := or(keyName(u.Key), u.Path)
	was, wasProblem := s.invalid[name]
	delete(s.invalid, name)
	if u.Invalid != nil {
		s.invalid[name] = unreadLine(u)
	}
	if u.Stands() {
		return was != s.invalid[name]
	}
	old, known := objects[u.Key]
	others := s.noteUnknown(u)
	if u.Entry == nil {
		delete(objects, u.Key)
		return known || wasProblem || u.Invalid != nil
	}
	// Every pod of the cluster changes a block: those without an address of this
	// node are of no interest and are not kept.
	if block, ok := u.Entry.Object.(*api.IPAMBlock); ok && !s.concerns(block) {
		delete(objects, u.Key)
		return known || wasProblem
	}
	// A rule without the field that narrows it would match what it must not.
	if _, ok := u.Entry.Object.(*api.BGPFilter); ok && !u.Entry.Unknown.Empty() {
		s.invalid[name] = fmt.Sprintf("%s has fields that this version doesn't know and is not used: update bgpd, or remove them", u.Key)
		delete(objects, u.Key)
		return true
	}
	objects[u.Key] = u.Entry.Object
	return old == nil || others || wasProblem || !reflect.DeepEqual(old, u.Entry.Object)
}

// unreadLine is what is said of something that can't be read: what felix says, too.
func unreadLine(u datastore.SyncUpdate) string {
	if u.Key == (api.Key{}) {
		return fmt.Sprintf("%s can't be read and is ignored: %v", u.Invalid.Path, u.Invalid.Err)
	}
	return u.Key.String() + ": " + u.Unread()
}

// readFelix reads a FelixConfiguration field by field, as felix does, which says what is
// wrong with it: a field that can't be read does not take the others with it.
func (s *store) readFelix(u datastore.SyncUpdate) datastore.SyncUpdate {
	if u.Key.Kind != api.KindFelixConfiguration || u.Invalid == nil {
		return u
	}
	obj, ok := s.reg.Salvage(u.Key, u.Invalid.Value)
	switch {
	case ok:
		u.Entry = &datastore.Entry{Key: u.Key, Object: obj}
	case u.Kept && u.Entry == nil:
		if old := s.objects[u.Key.Kind][u.Key]; old != nil {
			u.Entry = &datastore.Entry{Key: u.Key, Object: old}
		}
	}
	u.Invalid = nil
	return u
}

// noteUnknown notes which fields of a resource a newer program has written, and reports
// whether they are others than before.
func (s *store) noteUnknown(u datastore.SyncUpdate) bool {
	before := s.unknown[u.Key]
	delete(s.unknown, u.Key)
	switch u.Key.Kind {
	case api.KindBGPPeer, api.KindBGPConfiguration:
	default:
		return false
	}
	if u.Entry == nil {
		return before != ""
	}
	if fields := s.reg.UnknownFields(u.Key.Kind, u.Entry.Unknown); len(fields) > 0 {
		s.unknown[u.Key] = fmt.Sprintf("%s %s: %s: not known to this version, without effect", u.Key.Kind, u.Key.Name, strings.Join(fields, ", "))
	}
	return before != s.unknown[u.Key]
}

func keyName(k api.Key) string {
	if k == (api.Key{}) {
		return ""
	}
	return k.String()
}

// concerns: an address of another owner's block is in use on this node.
func (s *store) concerns(b *api.IPAMBlock) bool {
	if b.Spec.Affinity != nil && *b.Spec.Affinity == api.HostAffinity(s.node).String() {
		return false
	}
	for _, a := range b.Spec.Attributes {
		if a.ActiveOwnerAttrs[api.AttributeNode] == s.node {
			return true
		}
	}
	return false
}

// setSecret takes over what is known of a Secret.
func (s *store) setSecret(name string, secret topology.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name] = secret
	if s.inSync {
		s.compute()
	}
}

// follow has the Secrets of a plan followed and reports whether all of them have been
// told of. Those that are no longer of use are forgotten.
func (s *store) follow(names []string) bool {
	s.want(names)
	told := make(map[string]topology.Secret, len(names))
	for _, name := range names {
		if secret, ok := s.secrets[name]; ok {
			told[name] = secret
		}
	}
	s.secrets = told
	return len(told) == len(names)
}

func (s *store) compute() {
	out := plan{unreadable: slices.Sorted(maps.Values(s.invalid)), Output: topology.Compute(topology.Input{
		Node:       s.node,
		Nodes:      of[*api.Node](s, api.KindNode),
		Configs:    of[*v3.BGPConfiguration](s, api.KindBGPConfiguration),
		Peers:      of[*v3.BGPPeer](s, api.KindBGPPeer),
		Filters:    of[*api.BGPFilter](s, api.KindBGPFilter),
		Affinities: of[*api.BlockAffinity](s, api.KindBlockAffinity),
		Blocks:     of[*api.IPAMBlock](s, api.KindIPAMBlock),
		Pools:      of[*v3.IPPool](s, api.KindIPPool),
		Services:   of[*api.AdvertisedService](s, api.KindAdvertisedService),
		Secrets:    s.secrets,
		Workloads:  s.workloads,
		Felix:      of[*v3.FelixConfiguration](s, api.KindFelixConfiguration),
	})}
	// A Secret is told of within seconds, if only why it can't be read. Without the wait
	// peers with a password would come back late from a restart, or go and come again.
	// Pods likewise: a plan without them would end their sessions.
	if secrets, pods := s.follow(out.Secrets), s.followWorkloads(out.WantsWorkloads); !secrets || !pods {
		return
	}
	out.Problems = slices.Concat(out.Problems, slices.Sorted(maps.Values(s.unknown)))
	self := api.Key{Kind: api.KindNode, Name: s.node}
	if _, broken := s.invalid[self.String()]; broken && out.NoNode {
		out.NoNode = false
		out.Missing = fmt.Sprintf("Node %s can't be read: write it anew with calicoctl apply", s.node)
	}
	if s.last != nil && reflect.DeepEqual(*s.last, out) {
		return
	}
	s.last = &out
	select {
	case <-s.plans: // not yet taken: overtaken
	default:
	}
	s.plans <- out
}

func of[T api.Object](s *store, kind api.Kind) []T {
	var out []T
	for _, o := range s.objects[kind] {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

package daemon

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// workloads follows the pods of this node while some BGPPeer makes them peers. The store
// sends those of all other nodes as well, so nothing is followed without that.
type workloads struct {
	node   string
	client datastore.Client
	log    *slog.Logger
	// told is given all of them, first when all have been read.
	told func([]*api.WorkloadEndpoint)

	ctx     context.Context
	stop    context.CancelFunc // nil: not following
	running sync.WaitGroup
}

// want says whether they are wanted from now on. It is called by one goroutine at a time,
// and returns at once.
func (w *workloads) want(wanted bool) {
	switch {
	case !wanted && w.stop != nil:
		w.stop()
		w.stop = nil
	case wanted && w.stop == nil && w.ctx.Err() == nil:
		ctx, cancel := context.WithCancel(w.ctx)
		w.stop = cancel
		sink := &podSink{ctx: ctx, node: w.node, told: w.told, pods: map[api.Key]*api.WorkloadEndpoint{}}
		syncer := datastore.NewSyncer(datastore.SyncerConfig{
			Client: w.client, Ranges: []datastore.Range{{Kind: api.KindWorkloadEndpoint, NamePrefix: api.WorkloadEndpointsOfNode(w.node)}}, Sink: sink, Log: w.log,
		})
		w.running.Go(func() { _ = syncer.Run(ctx) }) // ends with ctx, without an error
	}
}

// podSink keeps the endpoints of one node. Of one that can't be read what it said before
// holds on, if anything: felix says what is wrong with it.
type podSink struct {
	ctx    context.Context // told no more when it has ended
	node   string
	told   func([]*api.WorkloadEndpoint)
	pods   map[api.Key]*api.WorkloadEndpoint
	inSync bool
}

// OnUpdates implements datastore.Sink.
func (s *podSink) OnUpdates(updates []datastore.SyncUpdate) {
	changed := false
	for _, u := range updates {
		if u.Stands() {
			continue
		}
		_, was := s.pods[u.Key]
		delete(s.pods, u.Key)
		if u.Entry != nil {
			if w, ok := u.Entry.Object.(*api.WorkloadEndpoint); ok && w.Spec.Node == s.node {
				s.pods[u.Key] = w
				changed = true
			}
		}
		changed = changed || was
	}
	if changed && s.inSync {
		s.tell()
	}
}

// OnStatus implements datastore.Sink.
func (s *podSink) OnStatus(st datastore.Status) {
	if st == datastore.InSync && !s.inSync {
		s.inSync = true
		s.tell()
	}
}

func (s *podSink) tell() {
	if s.ctx.Err() == nil {
		s.told(slices.Collect(maps.Values(s.pods)))
	}
}

// setWorkloads takes over the pods of this node.
func (s *store) setWorkloads(pods []*api.WorkloadEndpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workloads, s.workloadsTold = pods, true
	if s.inSync {
		s.compute()
	}
}

// followWorkloads has the pods of this node followed while they are wanted, and reports
// whether they are known. They are forgotten when they are not.
func (s *store) followWorkloads(wanted bool) bool {
	s.wantWorkloads(wanted)
	if !wanted {
		s.workloads, s.workloadsTold = nil, false
		return true
	}
	return s.workloadsTold
}

package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/bgpsummary"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
)

// again is when something that failed is tried again, and answerTime how long the
// daemon has for an answer.
const (
	again      = time.Second
	answerTime = 5 * time.Second
)

// Ranges are what a Reporter follows.
func Ranges() []datastore.Range { return []datastore.Range{{Kind: api.KindCalicoNodeStatus}} }

// Node is what is asked of the node's bgpd; each nodestatus.NodeStatusServer has it.
type Node interface {
	Status(ctx context.Context, req *nodestatus.StatusRequest) (*nodestatus.StatusResponse, error)
	Peers(ctx context.Context, req *nodestatus.PeersRequest) (*nodestatus.PeersResponse, error)
	Routes(ctx context.Context, req *nodestatus.RoutesRequest) (*nodestatus.RoutesResponse, error)
}

// Config is what a Reporter needs.
type Config struct {
	Node   string
	Client datastore.Client
	// Server answers for the node.
	Server Node
	Now    func() time.Time
	Log    *slog.Logger
}

// Reporter is the sink of a Syncer that follows Ranges, and writes back.
type Reporter struct {
	Config
	woken chan struct{} // one slot: "news is not empty"

	mu   sync.Mutex
	news map[api.Key]*datastore.Entry // nil: gone, or not for this node

	requests map[api.Key]*request // of Run's goroutine
}

// request is a resource that asks for this node's status.
type request struct {
	entry datastore.Entry
	due   time.Time // zero: never again
	err   string    // as last logged
}

var _ datastore.Sink = (*Reporter)(nil)

// New makes a Reporter; it works while Run runs.
func New(c Config) *Reporter {
	return &Reporter{
		Config: c, woken: make(chan struct{}, 1),
		news: map[api.Key]*datastore.Entry{}, requests: map[api.Key]*request{},
	}
}

// OnStatus implements datastore.Sink: each resource stands for itself.
func (r *Reporter) OnStatus(datastore.Status) {}

// OnUpdates implements datastore.Sink.
func (r *Reporter) OnUpdates(updates []datastore.SyncUpdate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range updates {
		if u.Stands() {
			continue
		}
		var mine *datastore.Entry
		if u.Entry != nil {
			if o, ok := u.Entry.Object.(*v3.CalicoNodeStatus); ok && o.Spec.Node == r.Node {
				mine = u.Entry
			}
		}
		r.news[u.Key] = mine
	}
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// Run writes until ctx is done.
func (r *Reporter) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.woken:
			r.read()
		case <-timer.C:
		}
		next := r.write(ctx)
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(0, next.Sub(r.Now())))
		}
	}
}

// read takes over what the Syncer has told. What was asked for anew is due at once;
// what only has another status, such as ours, keeps its time.
func (r *Reporter) read() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, entry := range r.news {
		old := r.requests[key]
		switch {
		case entry == nil:
			delete(r.requests, key)
		case old == nil || asks(*entry) != asks(old.entry):
			r.requests[key] = &request{entry: *entry, due: r.Now()}
		default:
			old.entry = *entry
		}
	}
	clear(r.news)
}

// asks is what a resource asks for, to be compared.
func asks(e datastore.Entry) string {
	o := e.Object.(*v3.CalicoNodeStatus)
	_, peers := o.Annotations[nodestatus.PeersAnnotation]
	_, summary := o.Annotations[bgpsummary.Annotation]
	return fmt.Sprint(o.UID, o.Spec.Classes, period(o), peers, summary)
}

func period(o *v3.CalicoNodeStatus) time.Duration {
	if o.Spec.UpdatePeriodSeconds == nil {
		return 0
	}
	return time.Duration(*o.Spec.UpdatePeriodSeconds) * time.Second
}

// write writes what is due, and returns when the next is.
func (r *Reporter) write(ctx context.Context) (next time.Time) {
	for key, q := range r.requests {
		if !q.due.IsZero() && !q.due.After(r.Now()) {
			r.report(ctx, key, q)
		}
		if !q.due.IsZero() && (next.IsZero() || q.due.Before(next)) {
			next = q.due
		}
	}
	return next
}

// report writes one status and says when the next is due.
func (r *Reporter) report(ctx context.Context, key api.Key, q *request) {
	err := r.update(ctx, q)
	every := period(q.entry.Object.(*v3.CalicoNodeStatus))
	switch {
	case err == nil && every == 0:
		q.due = time.Time{}
	case err == nil:
		q.due = r.Now().Add(every)
	case errors.Is(err, datastore.ErrNotFound):
		q.due = time.Time{} // the watch says so in a moment
		return
	default: // after a conflict the watch brings what is there now
		q.due = r.Now().Add(again)
	}
	said := ""
	if err != nil && !errors.Is(err, datastore.ErrConflict) && ctx.Err() == nil {
		said = err.Error()
	}
	if said != "" && said != q.err {
		r.Log.Warn("can't write a CalicoNodeStatus, trying again", "name", key.Name, "err", err)
	}
	q.err = said
}

// update writes the status of one resource if it is another than what stands there.
func (r *Reporter) update(ctx context.Context, q *request) error {
	askCtx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	o := q.entry.Object.(*v3.CalicoNodeStatus).DeepCopy()
	now, err := status(askCtx, r.Server, o.Spec.Classes)
	if err != nil {
		return err
	}
	details, err := r.details(askCtx, o)
	if err != nil {
		return err
	}
	last := o.Status.LastUpdated
	o.Status.LastUpdated = metav1.Time{}
	if same(o.Status, now) && holds(o.Annotations, details) && !last.IsZero() {
		return nil
	}
	o.Status = now
	o.Status.LastUpdated = metav1.NewTime(r.Now().UTC().Truncate(time.Second))
	if len(details) > 0 {
		o.Annotations = maps.Clone(o.Annotations)
		maps.Copy(o.Annotations, details)
	}
	e := q.entry
	e.Object = o
	e.Revision, err = r.Client.Txn(askCtx, datastore.Update(e))
	if err == nil {
		q.entry = e
	}
	return err
}

// details are the annotations with what upstream's status has no field for, as far as
// the resource asks for them.
func (r *Reporter) details(ctx context.Context, o *v3.CalicoNodeStatus) (map[string]string, error) {
	out := map[string]string{}
	if _, asked := o.Annotations[nodestatus.PeersAnnotation]; asked {
		peers, err := r.Server.Peers(ctx, &nodestatus.PeersRequest{})
		if err != nil {
			return nil, fmt.Errorf("ask for the BGP peers: %w", err)
		}
		if out[nodestatus.PeersAnnotation], err = nodestatus.EncodePeers(peers); err != nil {
			return nil, err
		}
	}
	if _, asked := o.Annotations[bgpsummary.Annotation]; asked {
		var err error
		if out[bgpsummary.Annotation], err = summary(ctx, r.Server, r.Now()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func holds(have, want map[string]string) bool {
	for key, value := range want {
		if have[key] != value {
			return false
		}
	}
	return true
}

// same compares as stored: an empty list and none are the same.
func same(a, b v3.CalicoNodeStatusStatus) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

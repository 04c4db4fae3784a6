package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/internal/datastore"
	"tortie/internal/datastore/feed"
	"tortie/internal/datastore/record"
)

// watch is one gRPC stream of its own. Unlike clientv3's watcher it doesn't
// reconnect by itself: an etcd that comes back may have another history, and
// resuming at the old revision would then wait in silence.
type watch struct {
	client *Client
	rng    datastore.Range
	stream pb.Watch_WatchClient
	feed   *feed.Feed
	stop   context.CancelFunc

	mu  sync.Mutex
	err error
}

// Watch implements datastore.Client.
func (c *Client) Watch(ctx context.Context, r datastore.Range, after datastore.Revision) (datastore.Watch, error) {
	prefix, err := c.codec.Prefix(r)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", r, err)
	}
	w := &watch{client: c, rng: r}
	ctx, w.stop = context.WithCancel(clientv3.WithRequireLeader(ctx))
	w.feed = feed.New(ctx, c.codec, r)
	err = c.openWatch(ctx, w, &pb.WatchCreateRequest{
		Key:           []byte(prefix),
		RangeEnd:      []byte(clientv3.GetPrefixRangeEnd(prefix)),
		StartRevision: int64(after) + 1,
		Fragment:      true,
	})
	if err != nil && !errors.Is(err, datastore.ErrCompacted) {
		w.stop()
		return nil, fmt.Errorf("watch %s: %w", r, err)
	}
	if err != nil { // reported by Err, as when it happens later
		w.fail(err)
		w.stop()
		w.feed.Close()
		return w, nil
	}
	go w.run(ctx)
	return w, nil
}

// openWatch starts the stream and waits for etcd's confirmation. That is a
// request like any other and bounded in time, while the stream lives as long as
// ctx: so a watchdog cancels the stream while the request is on, and only then.
func (c *Client) openWatch(ctx context.Context, w *watch, req *pb.WatchCreateRequest) error {
	return c.do(ctx, func(bounded context.Context) error {
		streamCtx, cancel := context.WithCancel(ctx)
		watchdog := context.AfterFunc(bounded, cancel)
		rev, err := w.open(streamCtx, req)
		if err == nil && rev < req.StartRevision-1 {
			err = c.checkReached(bounded, req.StartRevision-1)
		}
		if !watchdog() && err == nil {
			err = context.Cause(bounded)
		}
		if err != nil {
			cancel()
			return err
		}
		stop := w.stop
		w.stop = func() { cancel(); stop() }
		return nil
	})
}

// open creates the watch and returns the revision of the member that serves it.
func (w *watch) open(ctx context.Context, req *pb.WatchCreateRequest) (int64, error) {
	stream, err := w.client.stream.Watch(ctx, watchOptions()...)
	if err != nil {
		return 0, err
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}})
	if err != nil {
		return 0, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	if err := canceled(resp); err != nil {
		return 0, err
	}
	w.stream = stream
	return resp.GetHeader().GetRevision(), nil
}

// checkReached fails with ErrCompacted when etcd as a whole has not reached rev:
// then rev belongs to another history. A single member may just lag behind.
func (c *Client) checkReached(ctx context.Context, rev int64) error {
	resp, err := c.kv.Get(ctx, "/", clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if resp.Header.GetRevision() < rev {
		return rpctypes.ErrFutureRev
	}
	return nil
}

// canceled is the reason for which etcd ended a watch, or nil.
func canceled(resp *pb.WatchResponse) error {
	switch {
	case !resp.GetCanceled():
		return nil
	case resp.GetCompactRevision() != 0:
		return rpctypes.ErrCompacted
	}
	reason := resp.GetCancelReason()
	for _, known := range []error{
		rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCUserEmpty,
		rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCPermissionDenied,
	} {
		if reason == known.Error() || reason == message(known) {
			return known
		}
	}
	return status.Error(codes.Unavailable, "watch ended: "+reason)
}

// Events implements datastore.Watch.
func (w *watch) Events() <-chan []datastore.Event { return w.feed.Events() }

// Err implements datastore.Watch.
func (w *watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Stop implements datastore.Watch.
func (w *watch) Stop() { w.stop() }

func (w *watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = fmt.Errorf("watch %s: %w", w.rng, err)
}

// run hands on what arrives until the stream or ctx ends.
func (w *watch) run(ctx context.Context) {
	defer w.feed.Close()
	defer w.stop()
	for {
		batch, err := w.receive()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.fail(w.client.classify(ctx, err))
			return
		}
		if !w.feed.Put(batch) {
			return
		}
	}
}

// receive reads one whole batch: etcd cuts a large one into fragments, and only
// between those may a transaction be split.
func (w *watch) receive() ([]record.Change, error) {
	var batch []record.Change
	for {
		resp, err := w.stream.Recv()
		if err != nil {
			return nil, err
		}
		if err := canceled(resp); err != nil {
			return nil, err
		}
		for _, ev := range resp.GetEvents() {
			batch = append(batch, record.Change{
				Pair:    pairOf(ev.GetKv()),
				Deleted: ev.GetType() == mvccpb.Event_DELETE,
			})
		}
		if !resp.GetFragment() {
			return batch, nil
		}
	}
}

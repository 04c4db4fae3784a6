// Package etcd is the datastore in etcd v3, in Calico's layout. It is the only
// package that imports the etcd client, and none of its types leave it.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/record"
)

// Config says where etcd is and how patient to be with it. The zero value of
// every duration means its default.
type Config struct {
	datastore.Config
	// RequestTimeout bounds a request whose context has no deadline. Default 10 s.
	RequestTimeout time.Duration
	// DialTimeout bounds one attempt to connect to one endpoint. Default 5 s.
	DialTimeout time.Duration
	// Patience is how long no endpoint may be reachable until requests fail at
	// once instead of waiting. Default 3 s, about what a restart of etcd takes.
	Patience time.Duration
	// KeepAlive is the idle time after which the connection is probed; without an
	// answer within KeepAliveTimeout it counts as lost. Defaults 10 s (less is
	// not possible) and 3 s.
	KeepAlive        time.Duration
	KeepAliveTimeout time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.RequestTimeout, 10*time.Second)
	set(&c.DialTimeout, 5*time.Second)
	set(&c.Patience, 3*time.Second)
	set(&c.KeepAlive, 10*time.Second)
	set(&c.KeepAliveTimeout, 3*time.Second)
	return c
}

// Client is a datastore.Client on etcd.
type Client struct {
	cfg    Config
	codec  record.Codec
	etcd   *clientv3.Client
	kv     clientv3.KV
	txn    pb.KVClient // for transactions: clientv3's copy what they are made of
	stream pb.WatchClient
	auth   *authenticator
	health *monitor
	// pageSize is how many keys a List asks for at once.
	pageSize int64
}

// maxReconnectDelay bounds the pause between attempts to reconnect, so that a
// restarted etcd is found again within seconds.
const maxReconnectDelay = 2 * time.Second

// How much etcd may send before it waits for us, per stream and in all. Left to
// itself, gRPC finds out by measuring: with a ping for each answer and each event
// of a watch, which wakes us and etcd once more.
const (
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

// New makes a client. It reads the certificate files and fails on a faulty
// configuration, but doesn't wait for etcd: while that can't be reached, requests
// fail with datastore.ErrUnavailable and the cause. ctx ends with the client's
// life: cancelling it is like Close.
func New(ctx context.Context, cfg Config, reg *api.Registry, log *slog.Logger) (*Client, error) {
	cfg = cfg.withDefaults()
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("etcd: no endpoints: set ETCD_ENDPOINTS, for example ETCD_ENDPOINTS=http://127.0.0.1:2379")
	}
	creds, err := loadCredentials(cfg.Config)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	auth := newAuthenticator(cfg.Username, cfg.Password)
	etcd, err := clientv3.New(clientv3.Config{
		Context:              ctx,
		Endpoints:            cfg.Endpoints,
		TLS:                  creds.tls,
		DialKeepAliveTime:    cfg.KeepAlive,
		DialKeepAliveTimeout: cfg.KeepAliveTimeout,
		PermitWithoutStream:  true,
		// The client's own log repeats what our errors say.
		Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithPerRPCCredentials(auth),
			grpc.WithChainUnaryInterceptor(auth.unary),
			grpc.WithIdleTimeout(0),
			grpc.WithStatsHandler(sentHandler{}),
			grpc.WithStaticStreamWindowSize(streamWindow),
			grpc.WithStaticConnWindowSize(connWindow),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{
					BaseDelay:  100 * time.Millisecond,
					Multiplier: 1.6,
					Jitter:     0.2,
					MaxDelay:   maxReconnectDelay,
				},
				MinConnectTimeout: cfg.DialTimeout,
			}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd %s: %w", cfg, err)
	}
	conn := etcd.ActiveConnection()
	auth.rpc = pb.NewAuthClient(conn)
	c := &Client{
		cfg:      cfg,
		codec:    record.NewCodec(reg),
		etcd:     etcd,
		kv:       etcd.KV,
		txn:      pb.NewKVClient(conn),
		stream:   pb.NewWatchClient(conn),
		auth:     auth,
		health:   newMonitor(etcd.Ctx(), conn, newProber(cfg, creds), cfg.Patience, log), //nolint:contextcheck // lives as long as the client, not the call
		pageSize: 2000,
	}
	return c, nil
}

// Close implements datastore.Client. Running requests and watches end.
func (c *Client) Close() error {
	_ = c.etcd.Close() // reports only that its context was cancelled by this very call
	c.health.wait()
	return nil
}

// Get implements datastore.Client.
func (c *Client) Get(ctx context.Context, key api.Key) (datastore.Entry, error) {
	path, err := c.codec.Path(key)
	if err != nil {
		return datastore.Entry{}, fmt.Errorf("get %w", err)
	}
	var resp *clientv3.GetResponse
	err = c.do(ctx, func(ctx context.Context) (err error) {
		resp, err = c.kv.Get(ctx, path)
		return err
	})
	if err != nil {
		return datastore.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return c.codec.Get(key, nil)
	}
	p := pairOf(resp.Kvs[0])
	return c.codec.Get(key, &p)
}

// maxListRestarts is how often a List is tried whose revision is compacted between
// two pages.
const maxListRestarts = 3

// List implements datastore.Client. A large range is read in pages, all at the
// revision of the first.
func (c *Client) List(ctx context.Context, r datastore.Range) (datastore.Snapshot, error) {
	prefix, err := c.codec.Prefix(r)
	if err != nil {
		return datastore.Snapshot{}, fmt.Errorf("list %s: %w", r, err)
	}
	var pairs []record.Pair
	var rev int64
	for range maxListRestarts {
		pairs, rev, err = c.pages(ctx, prefix)
		if !errors.Is(err, datastore.ErrCompacted) {
			break
		}
	}
	if err != nil {
		return datastore.Snapshot{}, fmt.Errorf("list %s: %w", r, err)
	}
	return c.codec.Snapshot(r, pairs, datastore.Revision(rev)), nil
}

// pages reads everything below prefix at one revision.
func (c *Client) pages(ctx context.Context, prefix string) ([]record.Pair, int64, error) {
	var pairs []record.Pair
	end := clientv3.GetPrefixRangeEnd(prefix)
	rev := int64(0) // the present one
	for from := prefix; ; {
		var resp *clientv3.GetResponse
		err := c.do(ctx, func(ctx context.Context) (err error) {
			resp, err = c.kv.Get(ctx, from,
				clientv3.WithRange(end), clientv3.WithLimit(c.pageSize), clientv3.WithRev(rev))
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = resp.Header.GetRevision()
			pairs = make([]record.Pair, 0, resp.Count)
		}
		for _, kv := range resp.Kvs {
			pairs = append(pairs, pairOf(kv))
		}
		if !resp.More {
			return pairs, rev, nil
		}
		from = pairs[len(pairs)-1].Path + "\x00"
	}
}

// do carries out one request: bounded in time, with one fresh login when etcd
// refuses a watch because it doesn't know our token (see authenticator.unary for
// the rest), and with its error put into our classes.
func (c *Client) do(ctx context.Context, request func(context.Context) error) error {
	bounded, cancel := c.bound(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err := request(bounded)
		if err == nil {
			return nil
		}
		if attempt == 0 && c.auth.stale(err) {
			if err = c.auth.login(bounded); err == nil {
				continue
			}
		}
		return c.classify(bounded, err)
	}
}

// bound gives a request its time limit, and ends it as soon as etcd is known to
// be out of reach.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	stopTimer := func() {}
	if _, ok := ctx.Deadline(); !ok {
		ctx, stopTimer = context.WithTimeout(ctx, c.cfg.RequestTimeout)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	gate := c.health.gate()
	stopGate := context.AfterFunc(gate, func() { cancel(context.Cause(gate)) })
	return ctx, func() {
		stopGate()
		cancel(context.Canceled)
		stopTimer()
	}
}

func endpoints(cfg Config) string { return strings.Join(cfg.Endpoints, ", ") }

// txnOptions are those that clientv3 sets on its own calls.
func txnOptions() []grpc.CallOption {
	return append(watchOptions(), grpc.MaxCallSendMsgSize(sendLimit))
}

// watchOptions are those that clientv3 sets on its own calls.
func watchOptions() []grpc.CallOption {
	return []grpc.CallOption{grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(math.MaxInt32)}
}

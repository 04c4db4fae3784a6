// Package daemon builds bgpd of its parts and runs it.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tortie/bgpd/fib"
	"tortie/bgpd/report"
	"tortie/bgpd/secrets"
	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/kernel"
	"tortie/internal/lockfile"
)

// Run is bgpd on a node, until ctx is done. It leaves sessions and routes as they
// are: the sessions end with the process and peers keep our routes (RFC 4724).
// The process has to end when Run returns.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	release, err := lockfile.Acquire(cfg.Lock, "bgpd")
	if err != nil {
		return err
	}
	defer release()
	if cfg.Off != "" {
		return runOff(ctx, cfg, log)
	}
	passwords, err := cfg.secrets(log)
	if err != nil {
		return err
	}
	client, err := etcd.New(ctx, etcd.Config{Config: cfg.Datastore}, api.NewRegistry(), log)
	if err != nil {
		return err
	}
	defer client.Close()
	return RunNode(ctx, Node{
		Name: cfg.Node, Client: client, Socket: cfg.Socket, Version: cfg.Version, Log: log,
		Datastore: cfg.Datastore.String(), HealthAddress: cfg.HealthAddress, MetricsAddress: cfg.MetricsAddress, Secrets: passwords,
	})
}

// Node is what RunNode runs.
type Node struct {
	Name      string
	Client    datastore.Client
	Datastore string // where it is, for the log
	Socket    string
	Version   string
	// HealthAddress is host:port of the probes; empty for none.
	HealthAddress string
	// MetricsAddress is host:port of /metrics; empty for none.
	MetricsAddress string
	// Secrets is where passwords are.
	Secrets secrets.Source
	Log     *slog.Logger
}

// RunNode runs a node's speaker from a datastore, until ctx is done.
func RunNode(ctx context.Context, n Node) error {
	e, err := build(ctx, n.Log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := newStore(n.Name)
	follower := secrets.NewFollower(ctx, n.Secrets, s.setSecret)
	defer follower.Wait()
	defer cancel()
	s.want = follower.Want
	pods := &workloads{node: n.Name, client: n.Client, log: n.Log, told: s.setWorkloads, ctx: ctx}
	defer pods.running.Wait()
	defer cancel()
	s.wantWorkloads = pods.want
	service := &statusService{engine: e, node: n.Name, version: n.Version}
	reporter := report.New(report.Config{Node: n.Name, Client: n.Client, Server: service, Now: time.Now, Log: n.Log})
	sink := &syncSink{store: s, reporter: reporter, log: n.Log}
	syncer := datastore.NewSyncer(datastore.SyncerConfig{Client: n.Client, Ranges: append(ranges(), report.Ranges()...), Sink: sink, Log: n.Log})
	service.inSync, service.datastore = sink.done.Load, syncer.Health
	l, err := listenStatus(n.Socket)
	if err != nil {
		return err
	}
	defer serveStatus(l, service)()
	n.Log.Info("bgpd started, waiting for the datastore", "node", n.Name, "datastore", n.Datastore, "version", n.Version)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return syncer.Run(ctx) })
	g.Go(func() error { return e.detector.Run(ctx) })
	g.Go(func() error { reporter.Run(ctx); return nil })
	for _, f := range serve(ctx, n.HealthAddress, n.MetricsAddress, e.probes(ctx), newMetrics(service)) {
		g.Go(f)
	}
	g.Go(func() error { defer cancel(); return e.run(ctx, s.plans) })
	return g.Wait()
}

// syncSink notes for others that the store is in sync, and gives the reporter its part.
type syncSink struct {
	*store
	reporter *report.Reporter
	log      *slog.Logger
	done     atomic.Bool
}

// OnUpdates implements datastore.Sink. Of a CalicoNodeStatus the store hears whether it
// can be read, and no more: it is no part of any plan.
func (s *syncSink) OnUpdates(updates []datastore.SyncUpdate) {
	var requests []datastore.SyncUpdate
	rest := make([]datastore.SyncUpdate, 0, len(updates))
	for _, u := range updates {
		if u.Key.Kind == api.KindCalicoNodeStatus {
			requests = append(requests, u)
			u.Entry = nil
		}
		rest = append(rest, u)
	}
	if len(requests) > 0 {
		s.reporter.OnUpdates(requests)
	}
	s.store.OnUpdates(rest)
}

// OnStatus implements datastore.Sink.
func (s *syncSink) OnStatus(st datastore.Status) {
	if st == datastore.InSync {
		s.log.Info("datastore read")
		s.done.Store(true)
	}
	s.store.OnStatus(st)
}

// build makes an engine in the network namespace of the process.
func build(ctx context.Context, log *slog.Logger) (*engine, error) {
	k, err := kernel.Open()
	if err != nil {
		return nil, needsNetAdmin(err)
	}
	leftover, err := fib.Leftover(ctx, k)
	if err != nil {
		return nil, err
	}
	if leftover {
		log.Info("routes of an earlier run are kept until peers have sent theirs")
	}
	if !gobgp.Mended() {
		log.Warn("this bgpd was built without the mended BGP library: a peer's malformed message may end it, and loops are taken for routes; build it with make")
	}
	s := gobgp.New(gobgp.Config{Restarting: leftover, Log: log})
	e := newEngine(k, s, log, time.Now)
	// A Handle answers one request after another, and a dump may be long.
	if e.reader, err = kernel.Open(); err != nil {
		return nil, needsNetAdmin(err)
	}
	return e, nil
}

func needsNetAdmin(err error) error {
	return fmt.Errorf("open netlink: %w (bgpd needs CAP_NET_ADMIN)", err)
}

// Static is a speaker with a fixed configuration: a router that isn't a node of
// the cluster and reads no datastore.
type Static struct {
	Name   string
	Global speaker.Global
	Peers  []speaker.Peer
	// BFD is what is asked of BFD with each of them.
	BFD api.BFD
	// Exports are prefixes it originates, for a reason of the caller's.
	Exports []topology.Export
	// Socket is where the status service listens; empty for none.
	Socket string
	Log    *slog.Logger
}

// RunStatic runs such a router in the network namespace of the process, until
// ctx is done. What it learns goes into the kernel as on a node, except that
// there are no pools: what peers announce is taken, within the limits of package
// filter.
func RunStatic(ctx context.Context, st Static) error {
	e, err := build(ctx, st.Log)
	if err != nil {
		return err
	}
	plans := make(chan plan, 1)
	plans <- plan{Output: st.plan()}
	if st.Socket != "" {
		var l net.Listener
		if l, err = listenStatus(st.Socket); err != nil {
			return err
		}
		always := func() bool { return true }
		never := func() error { return nil }
		stop := serveStatus(l, &statusService{engine: e, node: st.Name, inSync: always, datastore: never})
		defer stop()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.detector.Run(ctx) })
	g.Go(func() error { defer cancel(); return e.run(ctx, plans) })
	return g.Wait()
}

func (st Static) plan() topology.Output {
	out := topology.Output{
		Global: st.Global, Exports: st.Exports, BlockOwners: map[netip.Prefix]string{},
	}
	for _, p := range st.Peers {
		out.Peers = append(out.Peers, topology.Peer{
			Peer: p, Name: p.Address.String(), Type: topology.NodeSpecific, Reason: "configured peer", BFD: st.BFD,
		})
	}
	return out
}

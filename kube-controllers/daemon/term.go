package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/kube-controllers/config"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

// term is the work of one replica from the day it takes the lead until it loses it.
type term struct {
	Cluster
	registry    *api.Registry
	metrics     *prometheus.Registry
	cache       *state.Cache
	syncer      *datastore.Syncer
	cluster     *kube.Cluster
	controllers []following
}

// controller is one controller. It only works while this replica has the lead.
type controller interface {
	Run(ctx context.Context)
	Health() error
	Close()
}

// following is a controller and the resources of Kubernetes without which it can't
// work. It waits for them alone: one that may not be read must not keep the other
// controllers from their work.
type following struct {
	controller
	name      config.Controller
	resources []kube.Synced
}

// sayWaiting is how long a controller waits without a word.
const sayWaiting = 15 * time.Second

// run runs the controller once what it follows has been read.
func (f following) run(ctx context.Context, log *slog.Logger) {
	waiting := time.AfterFunc(sayWaiting, func() {
		log.Warn("a controller waits until what it follows of Kubernetes has been read", "controller", f.name)
	})
	read := kube.WaitForSync(ctx, f.resources...)
	waiting.Stop()
	if read {
		f.Run(ctx)
	}
}

func newTerm(c Cluster) (*term, error) {
	t := &term{
		Cluster: c, registry: api.NewRegistry(), metrics: prometheus.NewRegistry(),
		cache: state.New(state.Indexes()), cluster: kube.NewCluster(c.Kubernetes, c.Log),
	}
	t.syncer = datastore.NewSyncer(datastore.SyncerConfig{Client: c.Client, Ranges: state.Ranges(), Sink: t.cache, Log: c.Log})
	settings{c.Config, t.cache}.follow(c.Level, c.Log)
	if err := t.buildControllers(queue.NewMetrics(t.metrics)); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// run follows both sides and runs the controllers until ctx ends.
func (t *term) run(ctx context.Context) {
	var g errgroup.Group
	g.Go(func() error { t.follow(ctx); return nil })
	g.Go(func() error { t.work(ctx); return nil })
	_ = g.Wait() // they return nothing
}

// follow reads both sides until ctx ends.
func (t *term) follow(ctx context.Context) {
	var g errgroup.Group
	g.Go(func() error { return t.syncer.Run(ctx) })
	g.Go(func() error { t.cluster.Run(ctx); return nil })
	if t.cluster.WaitForSync(ctx) {
		t.Log.Info("all of Kubernetes has been read")
	}
	_ = g.Wait() // the syncer returns nil
}

// work runs the controllers once the datastore has been read.
func (t *term) work(ctx context.Context) {
	t.initialize(ctx)
	select {
	case <-t.cache.InSync():
	case <-ctx.Done():
		return
	}
	var g errgroup.Group
	for _, c := range t.controllers {
		g.Go(func() error { c.run(ctx, t.Log); return nil })
	}
	_ = g.Wait() // they return nothing
}

func (t *term) initialize(ctx context.Context) {
	for ctx.Err() == nil {
		err := datastore.EnsureInitialized(ctx, t.Client, t.registry, time.Now)
		if err == nil {
			return
		}
		t.Log.Warn("can't initialize the datastore: trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(datastore.DefaultBackoff(10)):
		}
	}
}

func (t *term) close() {
	for _, c := range t.controllers {
		c.Close()
	}
}

func (t *term) live() error {
	var errs []error
	for _, c := range t.controllers {
		errs = append(errs, c.Health())
	}
	return errors.Join(errs...)
}

func (t *term) ready() error { return errors.Join(t.syncer.Health(), t.cluster.Health()) }

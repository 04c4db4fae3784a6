// Package daemon builds kube-controllers of its parts and runs it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/health"
	"tortie/internal/quietlog"
	"tortie/kube-controllers/config"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

// Process is what the program gets from its surroundings.
type Process struct {
	Version string
	Getenv  func(string) string
	// Log takes the log's lines.
	Log io.Writer
}

// Run is the program, until ctx ends.
func Run(ctx context.Context, p Process) error {
	cfg, err := config.Load(p.Getenv)
	if err != nil {
		return err
	}
	level := &slog.LevelVar{}
	if cfg.LogLevel != nil {
		level.Set(*cfg.LogLevel)
	}
	log := slog.New(slog.NewTextHandler(p.Log, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(quietlog.New(log).With("from", "client-go"))
	for _, w := range cfg.Warnings {
		log.Warn("a setting has no effect", "setting", w)
	}
	client, err := etcd.New(ctx, etcd.Config{Config: cfg.Datastore}, api.NewRegistry(), log)
	if err != nil {
		return err
	}
	defer client.Close()
	kubernetes, err := kube.Connect(cfg.Kubeconfig, "kube-controllers/"+p.Version)
	if err != nil {
		return err
	}
	log.Info("kube-controllers started", "version", p.Version, "datastore", cfg.Datastore.String(), "controllers", cfg.Enabled)
	return RunOn(ctx, Cluster{Config: cfg, Client: client, Kubernetes: kubernetes, Level: level, Log: log})
}

// Cluster is what RunOn runs on.
type Cluster struct {
	Config     config.Config
	Client     datastore.Client
	Kubernetes kubernetes.Interface
	Level      *slog.LevelVar
	Log        *slog.Logger
}

// RunOn runs the controllers on a datastore and a Kubernetes cluster, until ctx
// ends.
func RunOn(ctx context.Context, c Cluster) error {
	p, err := build(c)
	if err != nil {
		return err
	}
	defer p.close()
	g, ctx := errgroup.WithContext(ctx)
	if c.Config.MetricsPort != 0 {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(c.Config.MetricsPort))
		if err != nil {
			return fmt.Errorf("serve metrics and probes: %w (PROMETHEUS_METRICS_PORT chooses the port)", err)
		}
		var probe *health.Probes
		if c.Config.Health {
			probe = &health.Probes{Live: p.live, Ready: p.ready}
		}
		g.Go(func() error { return health.Serve(ctx, l, handler(p.metrics, probe)) })
	}
	g.Go(func() error { return p.syncer.Run(ctx) })
	g.Go(func() error { p.cluster.Run(ctx); return nil })
	g.Go(func() error {
		select {
		case <-p.cache.InSync():
		case <-ctx.Done():
			return nil
		}
		return p.election.Run(ctx)
	})
	g.Go(func() error {
		if p.cluster.WaitForSync(ctx) {
			c.Log.Info("all of Kubernetes has been read")
		}
		return nil
	})
	return g.Wait()
}

// program is the program's parts.
type program struct {
	Cluster
	registry    *api.Registry
	metrics     *prometheus.Registry
	cache       *state.Cache
	syncer      *datastore.Syncer
	cluster     *kube.Cluster
	controllers []following
	election    *kube.Election
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

func build(c Cluster) (*program, error) {
	p := &program{
		Cluster: c, registry: api.NewRegistry(), metrics: prometheus.NewRegistry(),
		cache: state.New(state.Indexes()), cluster: kube.NewCluster(c.Kubernetes, c.Log),
	}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.syncer = datastore.NewSyncer(datastore.SyncerConfig{Client: c.Client, Ranges: state.Ranges(), Sink: p.cache, Log: c.Log})
	settings{c.Config, p.cache}.follow(c.Level, c.Log)
	if err := p.buildControllers(queue.NewMetrics(p.metrics)); err != nil {
		p.close()
		return nil, err
	}
	leading := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kube_controllers_leading", Help: "1 while this replica works, 0 while it stands by."})
	p.metrics.MustRegister(leading)
	p.election = &kube.Election{
		Client: c.Kubernetes, Namespace: leaseNamespace(c.Config), Identity: identity(c.Config), Log: c.Log,
		Lead: func(ctx context.Context) {
			leading.Set(1)
			defer leading.Set(0)
			p.lead(ctx)
		},
	}
	return p, nil
}

// lead runs the controllers until ctx ends.
func (p *program) lead(ctx context.Context) {
	for ctx.Err() == nil {
		err := datastore.EnsureInitialized(ctx, p.Client, p.registry, time.Now)
		if err == nil {
			break
		}
		p.Log.Warn("can't initialize the datastore: trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(datastore.DefaultBackoff(10)):
		}
	}
	var g errgroup.Group
	for _, c := range p.controllers {
		g.Go(func() error { c.run(ctx, p.Log); return nil })
	}
	_ = g.Wait() // they return nothing
}

func (p *program) close() {
	for _, c := range p.controllers {
		c.Close()
	}
}

// live fails when a worker is stuck: a restart would help.
func (p *program) live() error {
	var errs []error
	for _, c := range p.controllers {
		errs = append(errs, c.Health())
	}
	return errors.Join(errs...)
}

// ready fails while the datastore or Kubernetes can't be read, or the replicas
// can't agree on who works.
func (p *program) ready() error {
	return errors.Join(p.syncer.Health(), p.cluster.Health(), p.election.Health())
}

// leaseNamespace is where the Lease is: configured, or the pod's own.
func leaseNamespace(cfg config.Config) string {
	if cfg.LeaseNamespace != "" {
		return cfg.LeaseNamespace
	}
	text, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if own := strings.TrimSpace(string(text)); err == nil && own != "" {
		return own
	}
	return "kube-system"
}

// identity tells replicas apart, also two of one name.
func identity(cfg config.Config) string {
	name := cfg.Identity
	if name == "" {
		name, _ = os.Hostname() // the UUID alone tells them apart
	}
	return name + "_" + uuid.NewString()
}

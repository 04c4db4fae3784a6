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
	"sync"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
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

// RunOn runs one replica on a datastore and a Kubernetes cluster, until ctx ends.
func RunOn(ctx context.Context, c Cluster) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r := newReplica(c, fail)
	g, ctx := errgroup.WithContext(ctx)
	if c.Config.MetricsPort != 0 {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(c.Config.MetricsPort))
		if err != nil {
			return fmt.Errorf("serve metrics and probes: %w (PROMETHEUS_METRICS_PORT chooses the port)", err)
		}
		var probe *health.Probes
		if c.Config.Health {
			probe = &health.Probes{Live: r.live, Ready: r.ready}
		}
		g.Go(func() error { return health.Serve(ctx, l, handler(r, probe)) })
	}
	g.Go(func() error { r.standby.run(ctx); return nil })
	g.Go(func() error {
		if !r.standby.waitForFirst(ctx) {
			return nil
		}
		return r.election.Run(ctx)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// replica is one process among those that stand for election.
type replica struct {
	Cluster
	process  *prometheus.Registry
	leading  prometheus.Gauge
	standby  *standby
	election *kube.Election
	fail     context.CancelCauseFunc

	mu   sync.Mutex
	term *term // nil while it stands by
}

func newReplica(c Cluster, fail context.CancelCauseFunc) *replica {
	r := &replica{
		Cluster: c, process: prometheus.NewRegistry(), standby: newStandby(c.Client, c.Log), fail: fail,
		leading: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kube_controllers_leading", Help: "1 while this replica works, 0 while it stands by."}),
	}
	r.process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), r.leading)
	r.election = &kube.Election{
		Client: c.Kubernetes, Namespace: leaseNamespace(c.Config), Identity: identity(c.Config), Log: c.Log, Lead: r.lead,
	}
	return r
}

// lead works until ctx ends. All that it follows it reads anew.
func (r *replica) lead(ctx context.Context) {
	t, err := newTerm(r.Cluster) //nolint:contextcheck // what is made lives as long as the term
	if err != nil {
		r.fail(err)
		return
	}
	defer t.close()
	r.setTerm(t)
	defer r.setTerm(nil)
	r.leading.Set(1)
	defer r.leading.Set(0)
	t.run(ctx)
}

func (r *replica) setTerm(t *term) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term = t
}

func (r *replica) present() *term {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.term
}

// live fails when a worker is stuck: a restart would help.
func (r *replica) live() error {
	if t := r.present(); t != nil {
		return t.live()
	}
	return nil
}

// ready fails while the datastore or Kubernetes can't be read, or the replicas
// can't agree on who works.
func (r *replica) ready() error {
	if t := r.present(); t != nil {
		return errors.Join(t.ready(), r.election.Health())
	}
	return errors.Join(r.standby.health(), r.election.Health())
}

// Gather implements prometheus.Gatherer: the process, and the work while there is
// any.
func (r *replica) Gather() ([]*dto.MetricFamily, error) {
	all := prometheus.Gatherers{r.process}
	if t := r.present(); t != nil {
		all = append(all, t.metrics)
	}
	return all.Gather()
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

// Package daemon builds felix out of its parts and runs it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"tortie/felix/config"
	"tortie/felix/journal"
	"tortie/felix/registration"
	"tortie/internal/api"
	"tortie/internal/control/felixstatus"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/kernel"
	"tortie/internal/kernel/feature"
	"tortie/internal/lockfile"
	"tortie/ipam/ipammetrics"
)

// resourceTimeout is how long felix waits at its start for the configuration in
// the datastore. Without it, it starts with the local one: DEL must work. It is
// less than the CNI plugin waits for the socket.
const resourceTimeout = time.Second

// Process is the surroundings of felix.
type Process struct {
	Version string
	Environ []string
	Log     io.Writer
}

// getenv looks a variable up; the last of a name counts, as the kernel has it.
func (p Process) getenv(name string) string {
	found := ""
	for _, pair := range p.Environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			found = value
		}
	}
	return found
}

// Run is felix, until ctx ends. It leaves the kernel as it is: traffic flows on.
// An error is one line for the operator; it is told as far as there is anybody to
// tell it to.
func Run(ctx context.Context, p Process) error {
	level := &slog.LevelVar{}
	log := slog.New(slog.NewTextHandler(p.Log, &slog.HandlerOptions{Level: level}))
	node, local, err := p.localConfig()
	if err != nil {
		return err
	}
	cfg, problems := config.Resolve(local...)
	release, err := lockfile.Acquire(cfg.LockFile, "felix")
	if err != nil {
		return err // the other one's status stays
	}
	defer release()
	t := &teller{log: log, status: felixstatus.Status{Node: node, Version: p.Version}}
	t.own(felixstatus.Path(cfg.CNISocket))
	s := start{node: node, local: local, cfg: cfg, teller: t, level: level, log: log}
	if err = p.begin(&s, problems); err == nil {
		err = p.serve(ctx, s)
	}
	t.ended(ctx, err)
	return err
}

// begin finds Kubernetes, to which whatever else is wrong is told, and takes the
// configuration into use.
func (p Process) begin(s *start, problems []config.Problem) (err error) {
	s.kubernetes, s.without, err = connectKubernetes(p, s.node, s.log)
	if err != nil {
		return err
	}
	if s.kubernetes != nil {
		s.teller.events, s.teller.say = s.kubernetes.events, s.kubernetes.say
	}
	s.level.Set(s.cfg.LogLevel)
	return reportProblems(s.log, append(problems, config.FromUpstream(p.getenv)...))
}

// start is what is known before the datastore is.
type start struct {
	node       string
	local      []config.Layer
	cfg        config.Config
	kubernetes *kubernetes // nil without
	without    error       // why there is none, though this is a cluster
	teller     *teller
	level      *slog.LevelVar
	log        *slog.Logger
}

// serve builds felix and runs it.
func (p Process) serve(ctx context.Context, s start) error {
	node, local, log := s.node, s.local, s.log
	settings, err := registration.FromEnv(p.getenv)
	if err != nil {
		return err
	}
	store, err := datastore.LoadConfig("", p.datastoreEnv(local))
	if err != nil {
		return err
	}
	reg := api.NewRegistry()
	client, err := etcd.New(context.WithoutCancel(ctx), etcd.Config{Config: store}, reg, log)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if p.getenv("GOGC") == "" {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		keeper := newHeapKeeper()
		go func() {
			defer close(ended)
			_ = keeper.run(ctx) // ends with ctx alone
		}()
		defer func() { cancel(); <-ended }()
	}
	log.Info("felix starts", "version", p.Version, "node", node, "datastore", store.String(), "pid", os.Getpid())
	running := readStored(ctx, client, node, local, s.cfg)
	s.level.Set(running.LogLevel)

	book, err := journal.Open(journal.Config{Dir: running.JournalDir, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = book.Close() }()
	handle, err := kernel.Open()
	if err != nil {
		return fmt.Errorf("open netlink: %w; felix needs root and CAP_NET_ADMIN", err)
	}
	defer handle.Close()
	f := &felix{
		kernel: handle, rules: newRules,
		node: node, client: client, registry: reg, journal: book, log: log,
		newUID: uuid.NewString, settings: settings, etcd: store.Endpoints, backend: p.getenv("CALICO_NETWORKING_BACKEND"), kubernetes: s.kubernetes, without: s.without, missing: untilNil(func() error { return checkKernel(feature.Probe) }), show: s.teller.show,
		config: newConfigFollower(node, local, running, log), level: s.level,
	}
	if err := f.build(); err != nil { //nolint:contextcheck // what is built lives until close
		return err
	}
	defer f.close()
	if err := f.run(ctx); err != nil {
		return err
	}
	log.Info("felix ends; the kernel stays as it is")
	return nil
}

// localConfig reads the node's name and the sources on this node, the strongest
// first.
func (p Process) localConfig() (node string, local []config.Layer, err error) {
	node, err = config.NodeName(p.getenv, config.DefaultNodeNameFile)
	if err != nil {
		return "", nil, err
	}
	file, err := config.FromFile(config.DefaultFile)
	return node, []config.Layer{config.FromEnv(p.Environ), file}, err
}

// reportProblems logs what has no effect, and fails on what can't be used.
func reportProblems(log *slog.Logger, problems []config.Problem) error {
	var bad []string
	for _, problem := range problems {
		if problem.Bad {
			bad = append(bad, problem.String())
		} else {
			log.Warn("configuration", "problem", problem.String())
		}
	}
	if len(bad) > 0 {
		return errors.New(strings.Join(bad, "; "))
	}
	return nil
}

// datastoreEnv lets FELIX_ETCD… and felix.cfg say where etcd is, as upstream does,
// where the common ETCD_… variables don't.
func (p Process) datastoreEnv(local []config.Layer) func(string) string {
	felixNames := map[string]string{
		"ETCD_ENDPOINTS": "EtcdEndpoints", "ETCD_CA_CERT_FILE": "EtcdCaFile",
		"ETCD_CERT_FILE": "EtcdCertFile", "ETCD_KEY_FILE": "EtcdKeyFile",
	}
	return func(name string) string {
		if v := p.getenv(name); v != "" || felixNames[name] == "" {
			return v
		}
		for _, layer := range local {
			if v, ok := layer.Get(felixNames[name]); ok {
				return v
			}
		}
		return ""
	}
}

// readStored adds what the FelixConfiguration resources say, if the datastore
// answers soon. The configFollower warns of what is wrong with them.
func readStored(ctx context.Context, client datastore.Client, node string, local []config.Layer, cfg config.Config) config.Config {
	ctx, cancel := context.WithTimeout(ctx, resourceTimeout)
	defer cancel()
	layers := append([]config.Layer(nil), local...)
	for _, name := range resources(node) {
		u := datastore.SyncUpdate{Key: api.Key{Kind: api.KindFelixConfiguration, Name: name}}
		entry, err := client.Get(ctx, u.Key)
		switch {
		case errors.Is(err, datastore.ErrNotFound):
			continue
		case err == nil:
			u.Entry = &entry
		case !errors.As(err, &u.Invalid):
			return cfg
		}
		if layer, err := layerOf(u); err == nil {
			layers = append(layers, layer)
		}
	}
	resolved, _ := config.Resolve(layers...)
	return resolved
}

// run runs all parts until one fails or ctx ends. Those that CNI calls need end
// after the calls.
func (f *felix) run(ctx context.Context) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, base := errgroup.WithContext(base)
	g.Go(func() error { return f.loop.Run(base) })
	g.Go(func() error { return f.pods.Run(base) })
	g.Go(func() error { return f.syncer.Run(base) })
	g.Go(func() error { return f.underlay.run(base) })
	g.Go(func() error { return f.upkeep.run(base) })
	g.Go(func() error { return f.upkeep.runSuspects(base) })
	g.Go(func() error { return f.peering.Run(base) })
	g.Go(func() error { return f.registrar.Run(base) })
	g.Go(func() error { return f.endpoint.Run(base) })
	if f.settings.EnsureBlock {
		g.Go(func() error { return firstBlocks{f.allocator, f.log}.run(base) })
	}
	g.Go(func() error { return f.keys.Run(base) })
	g.Go(func() error {
		return contact{f.syncer.Health, f.tunnels.WireGuard.Lost, f.tunnels.WireGuard.Found, f.log}.run(base)
	})
	g.Go(func() error { return f.board.Run(base) })
	if f.kubernetes != nil {
		f.kubernetes.run(ctx, base, g.Go)
	}
	g.Go(func() error { return f.history.Run(base) })
	g.Go(func() error { return f.loans.run(base) })
	g.Go(func() error { return f.listeners.run(base) })
	for _, what := range f.followed() {
		g.Go(func() error { return what.run(base) })
	}
	if f.config.Now().PathMTUProbeInterval > 0 {
		g.Go(func() error { return f.pathMTU.Run(base) })
	}
	g.Go(func() error {
		defer stop()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(base, cancel)()
		return f.server.Run(ctx, f.listener)
	})
	return g.Wait()
}

// metrics serves /metrics, with what the configuration says at the time.
func (f *felix) metrics() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		cfg := f.config.Now()
		registry := prometheus.NewRegistry()
		registry.MustRegister(ipammetrics.New(f.allocator), pathCollector{f.pathMTU.Stats})
		if cfg.Wireguard.Metrics {
			registry.MustRegister(wireguardCollector{node: f.node, devices: f.tunnels.WireGuard.Devices})
		}
		if cfg.GoMetrics {
			registry.MustRegister(collectors.NewGoCollector())
		}
		if cfg.ProcessMetrics {
			registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		}
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	return mux
}

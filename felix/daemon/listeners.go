package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"tortie/felix/config"
	"tortie/felix/problems"
	"tortie/internal/health"
	"tortie/internal/servingcert"
)

// endpoint is where something is served by HTTP.
type endpoint struct {
	what    string // "health"
	address string
	setting string // which chooses the port
	handler http.Handler
	// cert is what it is served by TLS with; nil for without.
	cert *servingcert.Server
}

// listenRetry is the pause after an address could not be had.
const listenRetry = 5 * time.Second

// listeners serve the endpoints that are wanted, wherever that is at present. One that
// can't be had is a problem and is tried again; what was served before in its stead
// goes on until then.
type listeners struct {
	log  *slog.Logger
	kick chan struct{}

	mu     sync.Mutex
	wanted []endpoint
	failed map[string]error // by what

	// Owned by the goroutine of run.
	running map[string]listening // by what
}

type listening struct {
	address string
	files   servingcert.Files
	stop    func() // returns when nothing is served any more
}

func newListeners(log *slog.Logger) *listeners {
	return &listeners{log: log, kick: make(chan struct{}, 1), failed: map[string]error{}, running: map[string]listening{}}
}

// set makes exactly these endpoints wanted, no two of one what.
func (l *listeners) set(wanted []endpoint) {
	l.mu.Lock()
	l.wanted = wanted
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// run serves until ctx ends.
func (l *listeners) run(ctx context.Context) error {
	again := time.NewTimer(0) // the edge: run is the waiting alone
	defer again.Stop()
	defer l.stopAll()
	for {
		select {
		case <-l.kick:
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
		if !l.look(ctx) {
			again.Reset(listenRetry)
		}
	}
}

func (l *listeners) stopAll() {
	for _, s := range l.running {
		s.stop()
	}
}

// look serves what is wanted and reports whether all of it could be had.
func (l *listeners) look(ctx context.Context) bool {
	l.mu.Lock()
	wanted := slices.Clone(l.wanted)
	l.mu.Unlock()
	for what, s := range l.running {
		if !slices.ContainsFunc(wanted, func(e endpoint) bool { return e.what == what }) {
			s.stop()
			delete(l.running, what)
		}
	}
	failed := map[string]error{}
	for _, e := range wanted {
		if err := l.serve(ctx, e); err != nil {
			failed[e.what] = err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = failed
	return len(failed) == 0
}

// serve moves what is served to its address, which it has before the former is given up.
func (l *listeners) serve(ctx context.Context, e endpoint) error {
	old, was := l.running[e.what]
	if was && old.address == e.address && old.files == e.cert.Files() {
		return nil
	}
	socket, err := net.Listen("tcp", e.address)
	if err != nil && was && samePort(old.address, e.address) {
		old.stop() // it may be what is in the way
		delete(l.running, e.what)
		if socket, err = net.Listen("tcp", e.address); err != nil {
			former := e
			former.address = old.address
			err = errors.Join(err, l.serve(ctx, former))
		}
	} else if err == nil && was {
		old.stop()
	}
	if err != nil {
		return fmt.Errorf("serve %s: %w (%s chooses the port)", e.what, err, e.setting)
	}
	l.start(ctx, e, socket)
	return nil
}

func samePort(a, b string) bool {
	_, portA, errA := net.SplitHostPort(a)
	_, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB
}

func (l *listeners) start(ctx context.Context, e endpoint, socket net.Listener) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := health.Serve(ctx, secured(socket, e.cert), e.handler); err != nil {
			l.log.Warn("not served any more", "what", e.what, "err", err)
		}
	}()
	l.running[e.what] = listening{address: e.address, files: e.cert.Files(), stop: func() { cancel(); <-done }}
	l.log.Info("served by HTTP", "what", e.what, "address", socket.Addr().String())
}

func (l *listeners) problems() []problems.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []problems.Problem
	for _, what := range slices.Sorted(maps.Keys(l.failed)) {
		out = append(out, problems.Problem{Reason: reasonListen, Topic: what, Line: l.failed[what].Error()})
	}
	for _, e := range l.wanted {
		if err := e.cert.Problem(); err != nil {
			out = append(out, problems.Problem{Reason: reasonListen, Topic: e.what + " by TLS", Line: fmt.Sprintf("%s can't be served by TLS: %v", e.what, err)})
		}
	}
	return out
}

// endpoints are those that the configuration asks for.
func (f *felix) endpoints(cfg config.Config) []endpoint {
	var out []endpoint
	if cfg.HealthEnabled {
		out = append(out, endpoint{"health", cfg.HealthAddress, "HealthPort", health.Probes{Live: f.loop.Live, Ready: f.ready}.Handler(), nil})
	}
	if cfg.MetricsEnabled {
		out = append(out, endpoint{"metrics", cfg.MetricsAddress, "PrometheusMetricsPort", f.metrics(), newMetricsCert(cfg)})
	}
	return out
}

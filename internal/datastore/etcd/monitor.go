package etcd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// monitor follows the connection. While there is none it finds out why, since
// gRPC says little, and after some patience lets requests fail at once.
type monitor struct {
	conn     *grpc.ClientConn
	prober   prober
	patience time.Duration
	log      *slog.Logger
	done     chan struct{}

	mu sync.Mutex
	// gateCtx is cancelled, with the cause, when etcd counts as out of reach, and
	// replaced when it is back.
	gateCtx   context.Context
	closeGate context.CancelCauseFunc
	lastCause error
	downSince time.Time
}

// connectPatience is how long an attempt to connect may take until the cause is
// looked into. gRPC gives an attempt Config.DialTimeout, and an operator's request
// is over by then.
const connectPatience = time.Second

// probeInterval is how often the cause of an outage is looked into anew.
const probeInterval = 2 * time.Second

func newMonitor(ctx context.Context, conn *grpc.ClientConn, p prober, patience time.Duration, log *slog.Logger) *monitor {
	m := &monitor{conn: conn, prober: p, patience: patience, log: log, done: make(chan struct{})}
	m.gateCtx, m.closeGate = context.WithCancelCause(context.Background())
	go m.run(ctx)
	return m
}

func (m *monitor) wait() { <-m.done }

// gate is cancelled as long as requests should fail at once.
func (m *monitor) gate() context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gateCtx
}

// cause is why there is no connection; nil when there is one or the cause isn't
// known yet.
func (m *monitor) cause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastCause
}

func (m *monitor) run(ctx context.Context) {
	defer close(m.done)
	defer m.closeGate(context.Canceled)
	last := connectivity.Idle
	for {
		state := m.conn.GetState()
		stuck := state == connectivity.Connecting && last == state
		last = state
		m.log.Debug("etcd connection", "state", state.String())
		switch state {
		case connectivity.Idle:
			m.conn.Connect()
		case connectivity.Ready:
			m.up()
		case connectivity.TransientFailure:
			m.explain(ctx)
		case connectivity.Shutdown:
			return
		case connectivity.Connecting:
			if stuck {
				m.explain(ctx)
			}
		}
		if !m.waitForChange(ctx, state) {
			return
		}
	}
}

// waitForChange waits for another state, but without a connection only until it is
// time to probe. It returns false when ctx ended.
func (m *monitor) waitForChange(ctx context.Context, state connectivity.State) bool {
	wait, cancel := ctx, context.CancelFunc(func() {})
	switch state {
	case connectivity.TransientFailure:
		wait, cancel = context.WithTimeout(ctx, m.untilNextProbe())
	case connectivity.Connecting:
		wait, cancel = context.WithTimeout(ctx, connectPatience)
	default: // it lasts as long as it lasts
	}
	defer cancel()
	m.conn.WaitForStateChange(wait, state)
	return ctx.Err() == nil
}

// untilNextProbe is probeInterval, or less when the patience ends before.
func (m *monitor) untilNextProbe() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.downSince.IsZero() || m.gateCtx.Err() != nil {
		return probeInterval
	}
	return min(probeInterval, max(time.Until(m.downSince.Add(m.patience)), time.Millisecond))
}

func (m *monitor) up() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastCause, m.downSince = nil, time.Time{}
	if m.gateCtx.Err() != nil {
		m.gateCtx, m.closeGate = context.WithCancelCause(context.Background())
	}
}

// explain probes the endpoints and closes the gate when waiting is pointless:
// etcd has been away for longer than the patience, or it is there but
// certificates or schemes don't fit.
func (m *monitor) explain(ctx context.Context) {
	cause, permanent := m.prober.probe(ctx)
	if ctx.Err() != nil || m.conn.GetState() == connectivity.Ready {
		return
	}
	if cause == nil { // reachable again: no reason to sit out gRPC's pause
		m.conn.ResetConnectBackoff()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.downSince.IsZero() {
		m.downSince = time.Now()
	}
	m.lastCause = cause
	if permanent || time.Since(m.downSince) >= m.patience {
		m.closeGate(cause)
	}
}

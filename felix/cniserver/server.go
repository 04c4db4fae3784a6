// Package cniserver carries out the CNI calls that the plugin hands over: it
// assigns the addresses, has the pod wired and routed, writes its endpoint, and
// takes all of it back again. felix/DESIGN.md states what it promises.
package cniserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/given"
	"tortie/felix/journal"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
)

// Config is what a Server works with. All fields above Health are required.
type Config struct {
	Node      string
	State     *State
	Client    datastore.Client
	Registry  *api.Registry
	Journal   *journal.Journal
	Addresses Addresses
	Pods      Pods
	Routes    Routes
	HostPorts HostPorts
	Permits   Permits
	// IPAMPlugins are those of others.
	IPAMPlugins IPAMPlugins
	// MTU is what a pod gets whose network configuration names none.
	MTU func() int
	// NodeProblem is what keeps the node from being registered; nil once it is. Nil for who
	// does not know.
	NodeProblem func() error
	// Barred is why no pod can be reached here, whatever the datastore says of this node;
	// nil for never.
	Barred func() error
	// Uncarried are the IP pools of which no new pod may have an address, and why. Nil for
	// none.
	Uncarried func() map[netip.Prefix]string
	// MTULimit is more than which no packet of a pod leaves the node whole, by that device;
	// false while it is not known. Nil for no limit.
	MTULimit func() (most int, device string, known bool)
	// Surroundings are what the node knows of itself and its neighbours; nil for nothing.
	Surroundings func(context.Context) (given.Surroundings, error)
	// NewUID makes the UID of a resource.
	NewUID func() string
	Log    *slog.Logger

	// Health is not nil while the connection to the datastore is lost.
	Health func() error
	Now    func() time.Time
	// PodCIDRs are those that Kubernetes gives to the node; nil where there is none.
	PodCIDRs func() []netip.Prefix
	// Pod is nil where there is no Kubernetes.
	Pod Pod
	// Namespace gives a namespace's annotations that are for its pods, and false while
	// nobody has told of them yet. Nil where there is no Kubernetes.
	Namespace func(name string) (annotations map[string]string, told bool)
	// AddTimeout bounds ADD, CHECK and GC: then the answer is "try again later".
	// Default 10 s.
	AddTimeout time.Duration
	// DelTimeout bounds DEL. Default 10 s.
	DelTimeout time.Duration
	// MaxAdds is how many ADD, CHECK and GC run at once; further ones wait. DEL is
	// never kept waiting by them. Default 64.
	MaxAdds int
}

// The defaults of Config.
const (
	defaultTimeout = 10 * time.Second
	defaultMaxAdds = 64
)

// readTimeout bounds the sending of a request by the plugin.
const readTimeout = 5 * time.Second

// Server serves CNI calls.
type Server struct {
	node      string
	state     *State
	client    datastore.Client
	journal   *journal.Journal
	addresses Addresses
	pods      Pods
	routes    Routes
	hostPorts HostPorts
	permits   Permits

	ipamPlugins IPAMPlugins
	podCIDRs    func() []netip.Prefix
	namespace   func(name string) (annotations map[string]string, told bool)

	mtu          func() int
	limit        func() (most int, device string, known bool)
	surroundings func(context.Context) (given.Surroundings, error)
	// nodeProblem and uncarried are Config's, never nil.
	nodeProblem func() error
	barred      func() error
	uncarried   func() map[netip.Prefix]string
	health      func() error
	now         func() time.Time
	log         *slog.Logger

	addTimeout, delTimeout time.Duration
	adds                   chan struct{}

	endpoints *endpointStore
	releaser  *releaser
	locks     keyedLocks
	configs   netconf.Reader
	shortage  shortages
	unheard   unheard
	unread    unread

	asking sync.Mutex
	asked  map[string]int // MTUs, by network
}

// New makes a Server. It takes up from the journal what an earlier felix left:
// ADDs that were not answered are undone, releases go on.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now // the default of an injected clock
	}
	if cfg.AddTimeout == 0 {
		cfg.AddTimeout = defaultTimeout
	}
	if cfg.DelTimeout == 0 {
		cfg.DelTimeout = defaultTimeout
	}
	if cfg.MaxAdds == 0 {
		cfg.MaxAdds = defaultMaxAdds
	}
	if cfg.NodeProblem == nil {
		cfg.NodeProblem = func() error { return nil }
	}
	if cfg.Barred == nil {
		cfg.Barred = func() error { return nil }
	}
	if cfg.Uncarried == nil {
		cfg.Uncarried = func() map[netip.Prefix]string { return nil }
	}
	if cfg.Health == nil {
		cfg.Health = func() error { return nil }
	}
	if cfg.Surroundings == nil {
		cfg.Surroundings = func(context.Context) (given.Surroundings, error) { return given.Surroundings{}, nil }
	}
	s := &Server{
		surroundings: cfg.Surroundings,
		node:         cfg.Node, state: cfg.State, client: cfg.Client, journal: cfg.Journal, addresses: cfg.Addresses,
		pods: cfg.Pods, routes: cfg.Routes, hostPorts: cfg.HostPorts, permits: cfg.Permits, ipamPlugins: cfg.IPAMPlugins, podCIDRs: cfg.PodCIDRs, namespace: cfg.Namespace, mtu: cfg.MTU, limit: cfg.MTULimit, nodeProblem: cfg.NodeProblem, barred: cfg.Barred, uncarried: cfg.Uncarried, health: cfg.Health, now: cfg.Now, log: cfg.Log,
		addTimeout: cfg.AddTimeout, delTimeout: cfg.DelTimeout, adds: make(chan struct{}, cfg.MaxAdds),
		endpoints: &endpointStore{client: cfg.Client, registry: cfg.Registry, node: cfg.Node, now: cfg.Now, newUID: cfg.NewUID, pod: cfg.Pod},
	}
	s.asked = map[string]int{}
	s.releaser = newReleaser(s)
	for _, e := range s.journal.Entries() {
		if e.State == journal.StateAttached {
			s.restoreHostPorts(e)
			continue
		}
		// The routes are removed once more, also where that was done: the apply loop
		// is new, and the datastore may still show it the endpoint.
		e.State, e.Detached = journal.StateReleasing, false
		if err := s.releaser.take(e); err != nil {
			return nil, fmt.Errorf("take up the release of %s: %w", e.ID, err)
		}
	}
	return s, nil
}

// Ready is nil when ADD can be served, else it says why not, with the cause.
func (s *Server) Ready() error {
	err := s.state.Ready()
	var wait *notReadyError
	cause := s.health()
	switch {
	case !errors.As(err, &wait) || cause == nil:
		return err
	case errors.Is(cause, datastore.ErrNotRead): // nothing has failed yet
		return &notReadyError{"felix on node " + s.node + " has just started and is still reading the datastore; try again in a moment"}
	}
	return &notReadyError{wait.reason + " (" + cause.Error() + ")"}
}

// PendingReleases is the number of attachments whose release is not yet in the
// datastore.
func (s *Server) PendingReleases() int { return s.releaser.count() }

// stopGrace is how long calls under way may take when felix is stopped.
const stopGrace = 5 * time.Second

// Run serves the calls that arrive at l until ctx ends, and releases in the
// background. Calls under way then have a few seconds to finish; on return none
// runs any more.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stopped := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stopped()
	releasing, stopReleasing := context.WithCancel(ctx)
	defer stopReleasing()
	wg.Go(func() { s.releaser.run(releasing) })

	err := s.accept(ctx, l, func(conn net.Conn) {
		wg.Go(func() { s.serve(calls, conn) })
	})
	stopReleasing()
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	_ = sleep(context.WithoutCancel(ctx), stopGrace, finished, nil)
	return err
}

// accept hands each connection to serve until ctx ends or the listener fails.
func (s *Server) accept(ctx context.Context, l net.Listener, serve func(net.Conn)) error {
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept CNI calls: %w", err)
		case err != nil:
			s.log.Error("accepting a CNI call failed", "err", err) // out of descriptors: the plugin tries again
			if !sleep(ctx, 100*time.Millisecond, nil, nil) {
				return nil
			}
		default:
			serve(conn)
		}
	}
}

// sleep waits for d; it returns false when woken by either, or ctx ended, before.
func sleep(ctx context.Context, d time.Duration, wake, orWake <-chan struct{}) bool {
	timer := time.NewTimer(d) // the one pause of this package
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-wake:
		return false
	case <-orWake:
		return false
	case <-ctx.Done():
		return false
	}
}

// serve answers the one request of a connection.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(s.now().Add(readTimeout))
	req, err := cniwire.ReadRequest(conn)
	if errors.Is(err, io.EOF) {
		return // someone tried whether felix listens
	}
	if err != nil {
		s.log.Warn("CNI request can't be read", "err", err)
		s.answer(conn, cniwire.Response{Error: &cniwire.Error{Code: cniwire.CodeDecodingFailure, Msg: err.Error()}})
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	began := s.now()
	ctx, cancel := s.callContext(ctx, conn, req.Command)
	defer cancel()
	resp := s.Handle(ctx, req)
	log := s.log.With("command", req.Command, "container", req.ContainerID, "iface", req.IfName, "took", s.now().Sub(began))
	s.answer(conn, resp) // before the log: a pod waits
	switch {
	case req.Command == "STATUS": // a question that runtimes ask again and again
		log.Debug("CNI call answered", "err", resp.Error)
	case resp.Error != nil:
		log.Warn("CNI call failed", failure(resp.Error)...)
	default:
		log.Info("CNI call done")
	}
}

// failure is an error as the log has it.
func failure(e *cniwire.Error) []any {
	said := []any{"code", e.Code, "err", e.Msg}
	if e.Details != "" {
		said = append(said, "details", e.Details)
	}
	return said
}

// callContext bounds a call. An ADD whose runtime went away is given up, for
// nobody would learn of its success; a DEL is finished in any case.
func (s *Server) callContext(ctx context.Context, conn net.Conn, command string) (context.Context, context.CancelFunc) {
	if command == "DEL" {
		return context.WithTimeout(ctx, s.delTimeout)
	}
	ctx, hangUp := context.WithCancelCause(ctx)
	ctx, cancel := context.WithTimeout(ctx, s.addTimeout)
	watch := time.AfterFunc(watchAfter, func() {
		// The plugin sends nothing more: whatever comes is its end. The read ends
		// when serve closes the connection.
		_, _ = conn.Read(make([]byte, 1))
		hangUp(errHungUp)
	})
	// Also hangUp, though nobody may have hung up: the parent, which lives as long as
	// felix, keeps a context until it has ended.
	return ctx, func() { watch.Stop(); cancel(); hangUp(nil) }
}

// watchAfter is for how long a call is at work before anybody looks whether its
// runtime is still there: most are over by then, and spared the watching.
const watchAfter = 20 * time.Millisecond

// errHungUp is the cause of a call's end when its runtime went away.
var errHungUp = errors.New("the caller hung up")

func (s *Server) answer(conn net.Conn, resp cniwire.Response) {
	_ = conn.SetWriteDeadline(s.now().Add(readTimeout))
	err := cniwire.Write(conn, resp)
	if errors.Is(err, cniwire.ErrTooLong) { // then nothing was sent
		err = cniwire.Write(conn, shortened(resp))
	}
	if err != nil {
		s.log.Warn("answering a CNI call failed", "err", err)
	}
}

// maxShortened is how much of an error is told when all of it is more than a message
// may have.
const maxShortened = 4096

// shortened stands for an answer that is too long: without one the runtime would try
// again for ever. What makes it so long is in the network configuration, or in what
// else the runtime sent.
func shortened(resp cniwire.Response) cniwire.Response {
	if resp.Error == nil {
		return cniwire.Response{Error: &cniwire.Error{
			Code: cniwire.CodeInvalidConfig,
			Msg:  fmt.Sprintf("the result is longer than %d bytes; shorten the network configuration, of which it has \"dns\" and \"prevResult\"", cniwire.MaxMessage),
		}}
	}
	msg := strings.ToValidUTF8(resp.Error.Msg[:min(len(resp.Error.Msg), maxShortened)], "")
	return cniwire.Response{Error: &cniwire.Error{Code: resp.Error.Code, Msg: msg + " … (shortened)", Details: "felix's log on this node has all of it"}}
}

// Handle carries out one call.
func (s *Server) Handle(ctx context.Context, req cniwire.Request) cniwire.Response {
	c, err := newCall(s.node, &s.configs, req)
	var result json.RawMessage
	if err == nil {
		s.tellUnread(c.conf)
		result, err = s.dispatch(ctx, c)
	}
	if (errors.Is(err, context.Canceled) || errors.Is(err, errHungUp)) && errors.Is(context.Cause(ctx), errHungUp) {
		err = fmt.Errorf("%w before it was done", errHungUp)
	}
	if err != nil {
		return cniwire.Response{Error: wireError(req.Command, err)}
	}
	return cniwire.Response{Result: result}
}

func (s *Server) dispatch(ctx context.Context, c call) (json.RawMessage, error) {
	switch c.command {
	case "DEL":
		return nil, s.del(ctx, c)
	case "STATUS":
		return nil, s.status(ctx, c)
	}
	select {
	case s.adds <- struct{}{}:
		defer func() { <-s.adds }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %d other calls: %w", cap(s.adds), ctx.Err())
	}
	switch c.command {
	case "ADD":
		if err := c.notOwnNamespace(); err != nil {
			return nil, err
		}
		return s.add(ctx, c)
	case "CHECK":
		return nil, s.check(ctx, c)
	default:
		return nil, s.gc(ctx, c)
	}
}

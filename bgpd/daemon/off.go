package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/bgpd/fib"
	"tortie/internal/control/nodestatus"
	"tortie/internal/health"
	"tortie/internal/kernel"
	"tortie/internal/nexthop"
	"tortie/internal/routetable"
)

// runOff is bgpd on a node that speaks no BGP: no session, no route in the kernel,
// not even one of the time when it did. It answers probes and calicoctl.
func runOff(ctx context.Context, cfg Config, log *slog.Logger) error {
	k, err := kernel.Open()
	if err != nil {
		return needsNetAdmin(err)
	}
	defer k.Close()
	routes := newNoRoutes(k, log)
	o := &noBGP{node: cfg.Node, version: cfg.Version, off: cfg.Off, started: time.Now()}
	l, err := listenStatus(cfg.Socket)
	if err != nil {
		return err
	}
	defer serveStatus(l, o)()
	log.Info("no BGP on this node", "because", cfg.Off, "node", cfg.Node, "version", cfg.Version)
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range serve(ctx, cfg.HealthAddress, "", o.probes(), nil) {
		g.Go(f)
	}
	g.Go(func() error { o.sweep(ctx, routes, log); return nil })
	return g.Wait()
}

// noBGP tells how far the sweep has come.
type noBGP struct {
	nodestatus.UnsafeNodeStatusServer // every method is here, or it does not compile
	node, version, off                string
	started                           time.Time

	mu    sync.Mutex
	tried bool
	err   error // of the last try
}

// reconciler makes the kernel have what it was told.
type reconciler interface {
	Apply(ctx context.Context) error
}

// noRoutes are the routes of bgpd and their next-hop objects, of which there are to be
// none.
type noRoutes struct {
	routes  *routetable.Table
	objects *nexthop.Table
}

func newNoRoutes(k fib.Kernel, log *slog.Logger) noRoutes {
	return noRoutes{
		routes:  routetable.New(routetable.Config{Kernel: k, Protocol: kernel.ProtocolBGP, Log: log}),
		objects: nexthop.New(k, kernel.ProtocolBGP),
	}
}

// Apply removes them, the routes first.
func (n noRoutes) Apply(ctx context.Context) error {
	if err := n.routes.Apply(ctx); err != nil {
		return err
	}
	if err := n.objects.Read(ctx); err != nil {
		return err
	}
	return n.objects.Sweep(func(int) bool { return false })
}

// sweep takes away the routes of the time when there was BGP, and comes again as
// long as that fails.
func (o *noBGP) sweep(ctx context.Context, routes reconciler, log *slog.Logger) {
	for {
		err := routes.Apply(ctx)
		o.mu.Lock()
		news := isNews(o.err, err)
		o.tried, o.err = true, err
		o.mu.Unlock()
		if news {
			log.Error("routes of an earlier run can't be removed, trying again", "err", err)
		}
		again := time.After(tick)
		if err == nil {
			again = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		}
	}
}

func (o *noBGP) problem() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.tried {
		return errors.New("routes of an earlier run have not been looked for yet")
	}
	return o.err
}

func (o *noBGP) probes() health.Probes {
	return health.Probes{Live: func() error { return nil }, Ready: o.problem}
}

// Status implements nodestatus.NodeStatusServer.
func (o *noBGP) Status(context.Context, *nodestatus.StatusRequest) (*nodestatus.StatusResponse, error) {
	out := &nodestatus.StatusResponse{
		Node: o.node, Version: o.version, Started: o.started.Unix(), Off: o.off, DatastoreInSync: true,
	}
	if err := o.problem(); err != nil {
		out.Problems = append(out.Problems, err.Error())
	}
	return out, nil
}

// Peers implements nodestatus.NodeStatusServer.
func (o *noBGP) Peers(context.Context, *nodestatus.PeersRequest) (*nodestatus.PeersResponse, error) {
	return &nodestatus.PeersResponse{}, nil
}

// Routes implements nodestatus.NodeStatusServer.
func (o *noBGP) Routes(context.Context, *nodestatus.RoutesRequest) (*nodestatus.RoutesResponse, error) {
	return &nodestatus.RoutesResponse{}, nil
}

// Why implements nodestatus.NodeStatusServer.
func (o *noBGP) Why(context.Context, *nodestatus.WhyRequest) (*nodestatus.WhyResponse, error) {
	return nil, status.Errorf(codes.FailedPrecondition, "this node speaks no BGP (%s): the routes to pods of other nodes are felix's", o.off)
}

// As in bgpd itself.
//go:debug multipathtcp=0

// Command bench measures what a pod's start and end cost: CNI ADD and DEL of the
// whole process beside ptp + host-local, the plugin beside an empty program, and
// the datastore's and the kernel's floors, all in one run on one lab node, so that
// the ratios hold on any machine; and what it costs to bring the routes of a BGP peer
// into the kernel, beside BIRD 2, and bgpd as one node of many.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"tortie/tests/bench/cluster"
	"tortie/tests/bench/onepeer"
	"tortie/tests/bench/probe"
	"tortie/tests/lab"
)

func main() {
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if serve, args, ok := child(os.Args[1:]); ok {
		return serve(ctx, args)
	}
	onlyRoutes := flag.Bool("only-routes", false, "measure the routes of a BGP peer alone")
	onlyNodes := flag.Bool("only-nodes", false, "measure bgpd as one node of many alone")
	onlyWays := flag.Bool("only-ways", false, "measure what pods' ways carry alone")
	onlyFelix := flag.Bool("only-felix", false, "measure felix at rest and at its start alone")
	onlyCNI := flag.Bool("only-cni", false, "measure the CNI plugin alone")
	soakHours := flag.Int("soak", 0, "have bgpd live through so many hours of churn, compressed, and nothing else")
	rounds := flag.Int("rounds", 60, "pods added and deleted one at a time, per plugin")
	burst := flag.Int("burst", 64, "pods added and deleted 32 at once, per plugin")
	bin := flag.String("bin", "bin", "directory of the programs")
	flag.Parse()
	*rounds, *burst = max(1, *rounds), max(1, *burst)
	if *soakHours > 0 {
		return soak(ctx, *soakHours, os.Stdout)
	}
	switch {
	case *onlyWays:
		return dataplane(ctx, *bin, os.Stdout)
	case *onlyFelix:
		return residentFelix(ctx, *bin, os.Stdout)
	case *onlyCNI:
		return run(ctx, *bin, *rounds, *burst)
	}
	if err := probe.HasBIRD(); err != nil {
		return err
	}
	if !*onlyNodes {
		if err := routesOfOnePeer(ctx, os.Stdout); err != nil || *onlyRoutes {
			return err
		}
	}
	if err := manyNodes(ctx, os.Stdout); err != nil || *onlyNodes {
		return err
	}
	for _, part := range []func(context.Context, string, io.Writer) error{dataplane, residentFelix} {
		if err := part(ctx, *bin, os.Stdout); err != nil {
			return err
		}
	}
	return run(ctx, *bin, *rounds, *burst)
}

// child is what this program is when it is a process under measurement.
func child(args []string) (serve func(context.Context, []string) error, rest []string, ok bool) {
	if len(args) == 0 {
		return nil, nil, false
	}
	serve, ok = map[string]func(context.Context, []string) error{
		serveBGPD:             func(ctx context.Context, _ []string) error { return onepeer.ServeBGPD(ctx) },
		serveGoBGP:            onepeer.ServeGoBGP,
		cluster.RouterCommand: cluster.ServeRouter,
		cluster.NodeCommand: func(ctx context.Context, args []string) error {
			return cluster.ServeNode(ctx, args, os.Stdin)
		},
	}[args[0]]
	return serve, args[1:], ok
}

func run(ctx context.Context, bin string, rounds, burst int) (err error) {
	spec := lab.DefaultSpec()
	spec.Name, spec.Nodes = "bench", 1
	l, err := lab.Up(ctx, spec, bin, func(step string) { fmt.Fprintln(os.Stderr, "…", step) })
	if err != nil {
		return err
	}
	defer func() {
		if downErr := l.Down(); err == nil {
			err = downErr
		}
	}()
	dir, err := os.MkdirTemp("", "tortie-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{lab: l, bin: bin, rounds: rounds, burst: burst}
	if b.empty, err = buildEmpty(ctx, dir); err != nil {
		return err
	}
	if b.installed, err = install(filepath.Join(bin, "calico"), dir); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{b.process, b.oneAtATime, b.onBusyMachine, b.manyAtOnce, b.felixAlone, b.floors} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	b.print(os.Stdout)
	return nil
}

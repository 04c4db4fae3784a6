// Command bench measures what a pod's start and end cost: CNI ADD and DEL of the
// whole process beside ptp + host-local, the plugin beside an empty program, and
// the datastore's and the kernel's floors, all in one run on one lab node, so that
// the ratios hold on any machine; and what it costs to bring the routes of a BGP peer
// into the kernel, beside BIRD 2.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tortie/tests/bench/onepeer"
	"tortie/tests/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) == 2 && os.Args[1] == serveBGPD {
		if err := onepeer.ServeBGPD(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	onlyRoutes := flag.Bool("only-routes", false, "measure the routes of a BGP peer alone")
	rounds := flag.Int("rounds", 60, "pods added and deleted one at a time, per plugin")
	burst := flag.Int("burst", 64, "pods added and deleted 16 at once, per plugin")
	bin := flag.String("bin", "bin", "directory of the programs")
	flag.Parse()
	*rounds, *burst = max(1, *rounds), max(1, *burst)
	err := routesOfOnePeer(ctx, os.Stdout)
	if err == nil && !*onlyRoutes {
		err = run(ctx, *bin, *rounds, *burst)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
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
	for _, part := range []func(context.Context) error{b.process, b.oneAtATime, b.onBusyMachine, b.sixteenAtOnce, b.felixAlone, b.floors} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	b.print(os.Stdout)
	return nil
}

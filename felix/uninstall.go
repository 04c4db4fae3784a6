package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
	"syscall"

	"sigs.k8s.io/knftables"

	"tortie/felix/cleanup"
	"tortie/internal/kernel"
)

// cleanUp is felix --cleanup.
func cleanUp(args []string, stdout, stderr io.Writer) int {
	cfg := cleanup.Config{Say: func(format string, args ...any) { _, _ = fmt.Fprintf(stdout, format+"\n", args...) }}
	f := flag.NewFlagSet("felix --cleanup", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&cfg.Pods, "pods", false, "")
	f.StringVar(&cfg.Root, "root", "/", "")
	wait := f.Bool("wait", false, "")
	if err := f.Parse(args); err != nil || f.NArg() > 0 {
		_, _ = fmt.Fprintf(stderr, "felix: unknown arguments %q after --cleanup: see felix --help\n", args)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := cleanUpNode(ctx, cfg); err != nil {
		_, _ = fmt.Fprintf(stderr, "felix: %v\n", err)
		return 1
	}
	_, _ = fmt.Fprintln(stdout, "this node is clean")
	if *wait {
		<-ctx.Done()
	}
	return 0
}

func cleanUpNode(ctx context.Context, cfg cleanup.Config) error {
	h, err := kernel.Open()
	if err != nil {
		return fmt.Errorf("open netlink: %w; this needs root and CAP_NET_ADMIN", err)
	}
	defer h.Close()
	cfg.Kernel = h
	nft, err := knftables.New(cleanup.Family, cleanup.Table)
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("run nft: %w", err)
	}
	if err == nil {
		cfg.NFT = nft
		cfg.ARP, _ = knftables.New(knftables.ARPFamily, cleanup.Table) // nil where the kernel has none
	}
	return cleanup.Run(ctx, cfg)
}

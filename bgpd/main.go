// Listeners of Multipath TCP, Go's default, refuse the socket options that TTL
// security and TCP MD5 need.
//go:debug multipathtcp=0

// Command bgpd is the BGP daemon of a node: it advertises the node's blocks and
// writes what it learns into the kernel. Its configuration is in the datastore;
// DESIGN.md says what it promises.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"tortie/bgpd/daemon"
)

// version is set by the linker.
var version = "dev"

const usage = `bgpd speaks BGP for this node. It has no arguments but --version; the environment configures it:
  NODENAME                  the name of this node's Node resource (default: the host's name)
  ETCD_ENDPOINTS            where the datastore is; ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE,
                            ETCD_USERNAME, ETCD_PASSWORD as for calicoctl
  BGPD_SOCKET, BGPD_LOCK    default /var/run/calico/bgpd.sock and bgpd.lock
  BGPD_LOG_LEVEL            debug, info (default), warn, error`

func main() {
	if len(os.Args) > 1 {
		os.Exit(arguments(os.Args[1:]))
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "bgpd: %v\n", err)
		os.Exit(1)
	}
}

func arguments(args []string) int {
	switch {
	case len(args) == 1 && (args[0] == "--version" || args[0] == "-v"):
		fmt.Println("bgpd", version)
	case len(args) == 1 && (args[0] == "--help" || args[0] == "-h"):
		fmt.Println(usage)
	default:
		fmt.Fprintf(os.Stderr, "bgpd: unknown argument %q: see bgpd --help\n", args[0])
		return 2
	}
	return 0
}

func run() error {
	cfg, err := daemon.Load(os.Getenv, version)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	return daemon.Run(ctx, cfg, log)
}

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
	"io"
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
  CALICO_NETWORKING_BACKEND bird (default): BGP; vxlan, none: no session and no route, the program waits
  BGPD_HEALTH_ADDRESS       host:port of /liveness and /readiness, such as localhost:9097 (default: none)
  BGPD_METRICS_ADDRESS      host:port of Prometheus' /metrics, may be the same (default: none)
  BGPD_PASSWORD_DIR         folder of peers' passwords, a file <secret>/<key> each (default: Secrets of Kubernetes)
  KUBECONFIG                the API server these are read from (default: that of the cluster whose pod this is)
  BGPD_SOCKET, BGPD_LOCK    default /var/run/calico/bgpd.sock and bgpd.lock
  BGPD_LOG_LEVEL            debug, info (default), warn, error`

func main() {
	if len(os.Args) > 1 {
		os.Exit(arguments(os.Args[1:], os.Stdout, os.Stderr))
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "bgpd: %v\n", err)
		os.Exit(1)
	}
}

// arguments answers the command line and returns the exit status.
func arguments(args []string, stdout, stderr io.Writer) int {
	named := "bgpd " + version
	answer, known := map[string]string{
		"--version": named, "-version": named, "-v": named, "--help": usage, "-help": usage, "-h": usage,
	}[args[0]]
	unknown := args[0]
	if known && len(args) > 1 {
		known, unknown = false, args[1]
	}
	if !known {
		fmt.Fprintf(stderr, "bgpd: unknown argument %q: see bgpd --help\n", unknown)
		return 2
	}
	fmt.Fprintln(stdout, answer)
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

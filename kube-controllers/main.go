// Command kube-controllers brings what Kubernetes knows into the datastore, and
// takes out of it what Kubernetes has no more.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"tortie/kube-controllers/daemon"
)

// version is set by the linker.
var version = "dev"

const help = `kube-controllers runs once per cluster. It has no arguments but --version; the environment configures it:
  ENABLED_CONTROLLERS       of autotopology, namespace, node, policy, service, serviceaccount, workloadendpoint (default: all)
  ETCD_ENDPOINTS            the datastore; ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE as for calicoctl
  KUBECONFIG                default: the service account of the pod
  LOG_LEVEL                 debug, info, warning, error (default: KubeControllersConfiguration, then info)
  SYNC_NODE_LABELS          default: KubeControllersConfiguration, then true
  PROMETHEUS_METRICS_PORT   /metrics, /liveness and /readiness (default 9094, 0 for none); HEALTH_ENABLED=false: only metrics
  PROFILE_WORKERS, POLICY_WORKERS, WORKLOAD_ENDPOINT_WORKERS   default 1, 1 and 4
  LEADER_ELECTION_NAMESPACE of the Lease by which one replica works (default: the pod's)`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 1 && slices.Contains([]string{"--version", "-version", "-v"}, args[0]):
		fmt.Fprintln(stdout, "kube-controllers", version)
		return 0
	case len(args) == 1 && slices.Contains([]string{"--help", "-help", "-h"}, args[0]):
		fmt.Fprintln(stdout, help)
		return 0
	case len(args) > 0:
		fmt.Fprintf(stderr, "kube-controllers: unknown argument %q: see kube-controllers --help\n", args[0])
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := daemon.Run(ctx, daemon.Process{Version: version, Getenv: os.Getenv, Log: stderr}); err != nil {
		fmt.Fprintf(stderr, "kube-controllers: %v\n", err)
		return 1
	}
	return 0
}

// Command felix is the dataplane daemon of a node: it wires pods for the CNI
// plugin and keeps the kernel as the datastore says.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"tortie/felix/config"
	"tortie/felix/daemon"
	"tortie/felix/wireguard/userspace"
	"tortie/internal/control/cniwire"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:]))
}

const help = `felix is the dataplane daemon of a node: it wires pods for the CNI plugin, routes to them, keeps
the tunnels of IP pools with vxlanMode, and masquerades what leaves the pools with natOutgoing. It takes no arguments but --help, --version and
  --cleanup                 take away from this node all that felix and bgpd left, which must not run any more:
                            routes, the nftables table, tunnels, files. Pods that still run keep their devices,
                            which go with them
  --cleanup --pods          these, too
  --cleanup --root=/host    where the node's files are mounted; --wait: do not end when it is done

Configuration, the strongest first:
  FELIX_<PARAMETER>         environment, for example FELIX_LOGSEVERITYSCREEN=debug
  %-25s lines of <Parameter> = <value>
  FelixConfiguration        resources node.<node name>, then default: calicoctl get felixconfiguration
and from the environment:
  NODENAME                  this node's name; else the content of %s, else the host name
  ETCD_ENDPOINTS            the datastore; also ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE,
                            ETCD_USERNAME, ETCD_PASSWORD

This node's entry in the datastore, from variables as upstream has them:
  IP, IP6                   autodetect, none, or an address; else what is stored stays
  IP_AUTODETECTION_METHOD   first-found, can-reach=, interface=, skip-interface=, cidr=; IP6_AUTODETECTION_METHOD
  AS                        the node's AS number
  CALICO_IPV4POOL_CIDR      the first pool, where there is none (CALICO_IPV4POOL_BLOCK_SIZE, _NAT_OUTGOING,
                            _NODE_SELECTOR, _DISABLE_BGP_EXPORT, _IPIP, _VXLAN; CALICO_IPV6POOL_…)

In a cluster of Kubernetes, found by its pod's service account or KUBECONFIG; without one felix does without:
  CALICO_K8S_NODE_REF       the node's name in Kubernetes (NODENAME)
  POD_NAMESPACE, POD_NAME, POD_UID   this pod, by the downward API: what is wrong is an Event of it and of the node
  kubernetes-internal-ip    is one more method for IP_AUTODETECTION_METHOD

Files, with the parameter that moves them:
  %-32s socket for the CNI plugin (CNISocket)
  %-32s keeps a second felix off the node (LockFile)
  %-32s what must be remembered of pods (JournalDir)

What is wrong stands in felix-status.json beside the socket, for calicoctl node status.

It needs root, and the nft command for natOutgoing. Logs go to standard error. Health probes, when
HealthEnabled is true: http://localhost:9099/liveness and /readiness. Metrics, when
PrometheusMetricsEnabled is true: http://<node>:9091/metrics (PrometheusMetricsHost, …Port).
`

func run(args []string) int {
	if len(args) > 0 {
		return flags(args, os.Stdout, os.Stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := daemon.Run(ctx, daemon.Process{Version: version, Environ: os.Environ(), Log: os.Stderr})
	if err != nil {
		fmt.Fprintf(os.Stderr, "felix: %v\n", err)
		return 1
	}
	return 0
}

// flags serves a run by hand.
func flags(args []string, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 1 && slices.Contains([]string{"--version", "-version", "-v"}, args[0]):
		_, _ = fmt.Fprintln(stdout, "felix", version)
	case len(args) == 1 && slices.Contains([]string{"--help", "-help", "-h"}, args[0]):
		_, _ = fmt.Fprintf(stdout, help, config.DefaultFile, config.DefaultNodeNameFile, cniwire.DefaultSocket, config.DefaultLockFile, config.DefaultJournalDir)
	case args[0] == userspace.Argument:
		if err := userspace.Main(args[1:], stdout); err != nil {
			_, _ = fmt.Fprintf(stderr, "felix: %v\n", err)
			return 1
		}
	case args[0] == "--cleanup":
		return cleanUp(args[1:], stdout, stderr)
	default:
		_, _ = fmt.Fprintf(stderr, "felix: unknown argument %q: see felix --help\n", args[0])
		return 2
	}
	return 0
}

// Command install-cni puts the CNI plugin and its configuration on a node: the
// init container of the DaemonSet. With --uninstall it takes them away.
package main

import (
	"fmt"
	"io"
	"os"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

const help = `install-cni puts the CNI plugins calico, calico-ipam and loopback, CNI's own bandwidth, portmap and tuning,
and then the configuration, on a node.
  install-cni                install, and end
  install-cni --uninstall    take everything away again

Environment, named as upstream's installer has it; the first is required:
  CNI_NETWORK_CONFIG         the conflist; or CNI_NETWORK_CONFIG_FILE, its path
  CNI_CONF_NAME              its name on the host (10-calico.conflist)
  CNI_NET_DIR                the host's folder for it, for messages (/etc/cni/net.d)
  KUBERNETES_NODE_NAME, CNI_MTU, LOG_LEVEL   fill in __KUBERNETES_NODE_NAME__, __CNI_MTU__, __LOG_LEVEL__
  SKIP_CNI_BINARIES          plugins to leave out, for example: loopback,portmap
  UPDATE_CNI_BINARIES        false leaves plugins that are there (true)
  POD_NAMESPACE, POD_NAME, POD_UID   this pod, for the Event that says why nothing was installed
and, where it does not run as a container's first process, the folders to write to and to take the plugins from:
  CNI_HOST_BIN_DIR, CNI_HOST_NET_DIR, CNI_SOURCE_DIR  (%s, %s, %s)
`

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	uninstall := false
	switch {
	case len(args) == 0:
	case len(args) == 1 && args[0] == "--uninstall":
		uninstall = true
	case len(args) == 1 && args[0] == "--version":
		_, _ = fmt.Fprintln(stdout, "install-cni", version)
		return 0
	case len(args) == 1 && args[0] == "--help":
		_, _ = fmt.Fprintf(stdout, help, defaultBinDir, defaultNetDir, defaultSource)
		return 0
	default:
		_, _ = fmt.Fprintf(stderr, "install-cni: unknown argument %q: see install-cni --help\n", args[0])
		return 2
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(stdout, format+"\n", args...) }
	s, err := fromEnv(getenv)
	if uninstall {
		err = s.uninstall(say) // needs no configuration
	} else if err == nil {
		err = s.install(say)
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "install-cni:", trimmed(err))
		if err := tell(getenv, "", err); err != nil {
			_, _ = fmt.Fprintln(stderr, "install-cni: no Event says so:", trimmed(err))
		}
		if err := leaveWord(getenv, getenv("FELIX_CNISOCKET"), err); err != nil {
			_, _ = fmt.Fprintln(stderr, "install-cni: calicoctl node status doesn't say so:", trimmed(err))
		}
		return 1
	}
	return 0
}

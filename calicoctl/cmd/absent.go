package cmd

import (
	"github.com/spf13/cobra"
)

// absent is a command that upstream has and this version has not. It answers
// with one line that says what to use instead, whatever its arguments are.
func (a *app) absent(use, instead string) *cobra.Command {
	return &cobra.Command{
		Use:                use,
		Short:              "Not available in this version",
		Hidden:             true,
		DisableFlagParsing: true, // they are upstream's; even --help gets the answer
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{text: cmd.CommandPath() + " is not available in this version; " + instead}
		},
	}
}

func (a *app) convertCommand() *cobra.Command {
	return a.absent("convert", "write manifests as projectcalico.org/v3; calicoctl validate -f FILE checks them")
}

func (a *app) clusterCommand() *cobra.Command {
	cluster := group("cluster", "Not available in this version", a.absent("diags", "on every node use "+nodeFacts))
	cluster.Hidden = true
	return cluster
}

// nodeFacts is where the state of a node is to be seen.
const nodeFacts = "calicoctl node status, calicoctl bgp peers, calicoctl bgp routes -o wide, and the logs of felix and bgpd"

func (a *app) absentNode() []*cobra.Command {
	return []*cobra.Command{
		a.absent("run", "start the programs felix and bgpd on the node; calicoctl node status shows whether they run"),
		a.absent("checksystem", "start felix and bgpd and look at their logs; calicoctl node status shows whether they run"),
		a.absent("diags", "use "+nodeFacts),
	}
}

func (a *app) absentMigrate() []*cobra.Command {
	return []*cobra.Command{
		a.absent("export", "use calicoctl get KIND -A --export -o yaml for each kind, or etcdctl snapshot save for the whole etcd"),
		a.absent("import", "use calicoctl create -f with what get -o yaml wrote, or etcdutl snapshot restore for a whole etcd"),
	}
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tortie/tests/lab"
	"tortie/tests/lab/progress"
)

func upCommand(name *string) *cobra.Command {
	spec := lab.DefaultSpec()
	pods := 0
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build the lab and wait until every node is ready",
		Example: `  lab up --nodes 3 --pods 2
  lab up --name big --nodes 9 --etcd http://127.0.0.1:2379`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec.Name = *name
			began := time.Now()
			bin, err := binDir()
			if err != nil {
				return err
			}
			l, err := lab.Up(cmd.Context(), spec, bin, progress.On(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			if err := addPods(cmd, l, pods); err != nil {
				return fmt.Errorf("%w; the lab is left up: look at `bin/lab logs`, then: %s", err, l.DownCommand())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Lab %q is up: %d nodes, %d pods, in %.1f s. Take it down with: %s\n",
				*name, spec.Nodes, len(l.Pods()), time.Since(began).Seconds(), l.DownCommand())
			return nil
		},
	}
	cmd.Flags().IntVar(&spec.Nodes, "nodes", spec.Nodes, "number of nodes; every third is behind the router")
	cmd.Flags().IntVar(&pods, "pods", 0, "pods to start on every node, of two containers each")
	cmd.Flags().StringVar(&spec.Etcd, "etcd", "", "URL of an etcd on this machine's network to use instead of the lab's own, http only; its data stays")
	return cmd
}

func addPods(cmd *cobra.Command, l *lab.Lab, each int) error {
	if each > 0 {
		progress.On(cmd.ErrOrStderr()).Say("%d pods on every node", each)
	}
	for i := range each {
		for _, n := range l.Topology().Nodes {
			_, err := l.AddPod(cmd.Context(), lab.PodSpec{
				Name: fmt.Sprintf("pod-%c-%s", 'a'+i%26, n.Name), Node: n.Name, Containers: 2,
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func downCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop everything the lab started and remove it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(*name)
			if errors.Is(err, lab.ErrNotUp) {
				fmt.Fprintf(cmd.OutOrStdout(), "Lab %q is not up.\n", *name)
				return nil
			}
			if err != nil {
				return err
			}
			if err := l.Down(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Lab %q is down; nothing of it is left.\n", *name)
			return nil
		},
	}
}

// etcdCommand and routerCommand are the bodies of processes that `lab up` starts.
func etcdCommand() *cobra.Command {
	return &cobra.Command{
		Use: "etcd CONFIG", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cfg lab.EtcdConfig
			if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
				return err
			}
			return lab.RunEtcd(cmd.Context(), cfg)
		},
	}
}

func routerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "router CONFIG", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var t lab.Topology
			if err := json.Unmarshal([]byte(args[0]), &t); err != nil {
				return err
			}
			return lab.RunRouter(cmd.Context(), t)
		},
	}
}

// binDir is where this program and the others beside it are.
func binDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(self), nil
}

// proxyCommand brings an etcd outside of the lab to the nodes.
func proxyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "proxy NETNS LISTEN ENDPOINT", Hidden: true, Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return lab.RunProxy(cmd.Context(), args[0], args[1], args[2])
		},
	}
}

// storeCommand prints what stands in the datastore and what is wrong with it.
func storeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "store", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := lab.ReadStore(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
		},
	}
}

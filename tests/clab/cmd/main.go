// Command clab runs the containerlab labs of tests/clab: each is deployed, checked,
// broken under traffic and destroyed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tortie/tests/clab"
	"tortie/tests/clab/docker"
	"tortie/tests/lab/matrix"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "runc" {
		// Not a command of ours to a user: the engine's runtime.
		fail(docker.Runc(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted; nothing of it is left")
	}
	fail(err)
}

func fail(err error) {
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "clab:", err)
	os.Exit(1)
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clab",
		Short: "Data centres of containers to try pod networking in, by containerlab",
		Long: `clab runs the labs of tests/clab: ` + strings.Join(clab.Labs(), ", ") + `.
It uses the Docker Engine that answers and the containerlab that is installed; where there is
none it starts or builds one, and says so. NODE_IMAGE, HOST_IMAGE, FRR_IMAGE, BIRD_IMAGE and
ETCD_IMAGE take the place of the images that it makes itself (tests/clab/README.md).`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(runCommand(), imagesCommand(), upCommand(), checkCommand(), downCommand())
	return cmd
}

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run [LAB...]",
		Short: "Deploy labs, one after another, check and break each, and destroy it",
		RunE: func(cmd *cobra.Command, labs []string) error {
			if len(labs) == 0 {
				labs = clab.Labs()
			}
			return withTools(cmd, true, func(ctx context.Context, t *tools) error {
				if err := t.prepare(ctx); err != nil {
					return err
				}
				for _, lab := range labs {
					if err := t.run(ctx, lab); err != nil {
						return fmt.Errorf("%s: %w", lab, err)
					}
				}
				return nil
			})
		},
	}
}

func imagesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "images",
		Short: "Make the labs' images in the Docker that runs, for containerlab by hand",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withTools(cmd, true, func(ctx context.Context, t *tools) error { return t.images(ctx) })
		},
	}
}

func upCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "up LAB",
		Short: "Deploy a lab with its pods and leave it up",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withTools(cmd, false, func(ctx context.Context, t *tools) error {
				topology, err := clab.Load(t.labs, args[0])
				if err != nil {
					return err
				}
				if err := t.prepare(ctx); err != nil {
					return err
				}
				if _, err := t.deploy(ctx, topology); err != nil {
					return err
				}
				fmt.Fprintf(t.out, "Lab %s is up. Its containers: docker ps --filter label=containerlab=%s\n", topology.Name, topology.Name)
				if t.own != nil {
					fmt.Fprintf(t.out, "Before docker: export DOCKER_HOST=%s\n", t.docker.Host())
				}
				fmt.Fprintf(t.out, "Check it: bin/clab check %s. Take it down: bin/clab down %s\n", topology.Name, topology.Name)
				return nil
			})
		},
	}
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check LAB",
		Short: "Probe every path of a lab that is up, and print the matrix",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRunning(cmd, func(ctx context.Context, t *tools) error {
				lab, err := t.open(ctx, args[0])
				if err != nil {
					return err
				}
				began := time.Now()
				checks, err := lab.Check(ctx)
				if err != nil {
					return err
				}
				return matrix.Print(t.out, checks, time.Since(began))
			})
		},
	}
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down [LAB...]",
		Short: "Destroy labs, or all of them, and stop what was started for them",
		RunE: func(cmd *cobra.Command, labs []string) error {
			if len(labs) == 0 {
				labs = clab.Labs()
			}
			return withRunning(cmd, func(ctx context.Context, t *tools) error {
				for _, lab := range labs {
					if err := t.down(ctx, lab); err != nil {
						return err
					}
				}
				return t.stopIfIdle(ctx)
			})
		},
	}
}

// paths are the folders that the program works with.
type paths struct {
	self, bin, labs, cache string
	// state is gone when nothing runs.
	state string
}

func findPaths() (paths, error) {
	self, err := os.Executable()
	if err != nil {
		return paths{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return paths{}, fmt.Errorf("a folder for what is built once: %w", err)
	}
	p := paths{
		self: self, bin: filepath.Dir(self), labs: filepath.Join(filepath.Dir(self), "..", "tests", "clab"),
		cache: filepath.Join(cache, "tortie", "clab"), state: "/run/tortie-clab",
	}
	if _, err := os.Stat(p.labs); err != nil {
		return p, fmt.Errorf("%w: run it from where `make clab` builds it", err)
	}
	return p, os.MkdirAll(p.cache, 0o755)
}

// locked calls fn while no other clab works on this machine.
func locked(dir string, fn func() error) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and starts containers: run it as root")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.New("another clab is at work on this machine: wait until it is done")
	}
	return fn()
}

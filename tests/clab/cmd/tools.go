package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tortie/tests/clab"
	"tortie/tests/clab/docker"
	"tortie/tests/lab/progress"
)

// tools are what labs are made with.
type tools struct {
	paths
	out, errs io.Writer
	steps     progress.Steps
	docker    docker.Docker
	own       *docker.Engine // the engine, if it is one of ours
	clab      clab.Containerlab
}

// newTools finds the engine that answers: the user's, else one of ours that runs.
func newTools(ctx context.Context, cmd *cobra.Command, p paths) (t *tools, running bool) {
	t = &tools{paths: p, out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), steps: progress.On(cmd.ErrOrStderr())}
	if d, ok := docker.Find(ctx); ok {
		t.docker = d
		return t, true
	}
	t.own = docker.Own(p.state, filepath.Join(p.cache, "docker"), p.self)
	t.docker = t.own.Docker
	return t, t.own.Runs(ctx)
}

// note tells one thing that was found, built or started.
func (t *tools) note(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// withTools finds or starts an engine and calls fn. What was started is stopped
// afterwards, if stop says so or fn failed.
func withTools(cmd *cobra.Command, stop bool, fn func(context.Context, *tools) error) error {
	p, err := findPaths()
	if err != nil {
		return err
	}
	return locked(p.state, func() error {
		ctx := cmd.Context()
		t, running := newTools(ctx, cmd, p)
		err := t.engine(ctx, running)
		if err == nil {
			err = fn(ctx, t)
		}
		if t.own == nil || running || !stop && err == nil {
			return err
		}
		t.steps.Say("stopping Docker")
		return errors.Join(err, t.remove(context.WithoutCancel(ctx)))
	})
}

// withRunning calls fn with the engine that runs; without one there is no lab.
func withRunning(cmd *cobra.Command, fn func(context.Context, *tools) error) error {
	p, err := findPaths()
	if err != nil {
		return err
	}
	return locked(p.state, func() error {
		ctx := cmd.Context()
		t, running := newTools(ctx, cmd, p)
		if !running {
			fmt.Fprintln(t.out, "No Docker Engine runs, and so no lab.")
			return t.remove(ctx)
		}
		if err := t.containerlab(ctx); err != nil {
			return err
		}
		return fn(ctx, t)
	})
}

// remove stops our engine and removes every trace of it but the cache.
func (t *tools) remove(ctx context.Context) error {
	if t.own != nil {
		if err := t.own.Stop(ctx); err != nil {
			return err
		}
	}
	return os.RemoveAll(t.state)
}

// prepare makes ready what a lab needs besides the engine.
func (t *tools) prepare(ctx context.Context) error {
	if err := t.containerlab(ctx); err != nil {
		return err
	}
	return t.images(ctx)
}

func (t *tools) engine(ctx context.Context, running bool) error {
	if running {
		t.note("Docker %s: the one that runs, %s", t.docker.Version(ctx), t.docker.Host())
		return nil
	}
	if err := t.install(ctx, "dockerd:docker.io", "docker:docker.io"); err != nil {
		return fmt.Errorf("no Docker Engine answers at %s: %w", (docker.Docker{}).Host(), err)
	}
	t.steps.Say("starting Docker")
	if err := t.own.Start(ctx); err != nil {
		return err
	}
	t.note("Docker %s: started, in a network namespace of its own", t.docker.Version(ctx))
	return nil
}

// install installs Debian packages, each given as tool:package, where the tool is
// missing.
func (t *tools) install(ctx context.Context, pairs ...string) error {
	cmd := docker.Command(ctx, filepath.Join(t.labs, "..", "install.sh"), pairs...)
	cmd.Stderr = t.errs
	return cmd.Run()
}

func (t *tools) containerlab(ctx context.Context) error {
	t.clab = clab.Containerlab{Docker: t.docker, Dir: filepath.Join(t.state, "labs")}
	if t.own != nil {
		t.clab.Netns = t.own.Netns()
	}
	if t.clab.Path = clab.FindContainerlab(ctx); t.clab.Path != "" {
		return nil
	}
	t.steps.Say("containerlab")
	var err error
	var built bool
	t.clab.Path, built, err = clab.BuildContainerlab(ctx, t.cache)
	if built {
		t.note("containerlab: built from its module, %s", t.clab.Path)
	}
	return err
}

// images makes those that the environment doesn't name.
func (t *tools) images(ctx context.Context) error {
	images := clab.Images{Docker: t.docker, Bin: t.bin, Labs: t.labs, Install: t.install, Say: t.note}
	for _, name := range []string{"node", "etcd"} {
		if os.Getenv(strings.ToUpper(name)+"_IMAGE") != "" {
			continue
		}
		names, err := images.Load(ctx, name)
		if err != nil {
			return err
		}
		if t.own != nil {
			if err := images.ForgetOthers(ctx, names); err != nil {
				return err
			}
		}
		t.note("%s: loaded from bin/images", names[0])
	}
	others := []string{"HOST_IMAGE", "FRR_IMAGE", "BIRD_IMAGE"}
	if !slices.ContainsFunc(others, func(name string) bool { return os.Getenv(name) == "" }) {
		return nil
	}
	t.steps.Say("the image of hosts and routers")
	return images.Debian(ctx)
}

// down destroys a lab; one that is not there is no failure.
func (t *tools) down(ctx context.Context, name string) error {
	topology, err := clab.Load(t.labs, name)
	if err != nil {
		return err
	}
	there, err := t.clab.Deployed(ctx, topology)
	if err != nil || !there {
		return err
	}
	t.steps.Say("%s: destroying", name)
	if err := t.clab.Destroy(ctx, topology); err != nil {
		return err
	}
	t.note("Lab %s is down.", name)
	return nil
}

// stopIfIdle stops our engine when it has no lab any more.
func (t *tools) stopIfIdle(ctx context.Context) error {
	if t.own == nil {
		return nil
	}
	out, err := t.docker.Run(ctx, "ps", "--all", "--quiet")
	if err != nil || out != "" {
		return err
	}
	t.note("Docker is stopped; nothing is left but the cache in %s.", t.cache)
	return t.remove(ctx)
}

// open is a lab that is up.
func (t *tools) open(ctx context.Context, name string) (*clab.Lab, error) {
	topology, err := clab.Load(t.labs, name)
	if err != nil {
		return nil, err
	}
	there, err := t.clab.Deployed(ctx, topology)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, fmt.Errorf("lab %s is not up; deploy it with: bin/clab up %s", name, name)
	}
	return clab.Open(ctx, t.docker, topology)
}

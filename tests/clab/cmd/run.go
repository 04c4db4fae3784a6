package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"tortie/tests/clab"
	"tortie/tests/lab/matrix"
)

// podsPerNode is how many pods each node of a lab has.
const podsPerNode = 2

// deploy brings a lab up with its pods and waits until every path works. One that
// doesn't come up is diagnosed and destroyed.
func (t *tools) deploy(ctx context.Context, topology *clab.Topology) (lab *clab.Lab, err error) {
	there, err := t.clab.Deployed(ctx, topology)
	if err != nil {
		return nil, err
	}
	if there {
		return nil, fmt.Errorf("lab %s is up already; take it down with: bin/clab down %s", topology.Name, topology.Name)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.giveUp(ctx, topology))
		}
	}()
	began := time.Now()
	t.steps.Say("%s: deploying", topology.Name)
	if err := t.clab.Deploy(ctx, topology); err != nil {
		return nil, err
	}
	deployed := time.Since(began)
	t.steps.Say("%s: pods", topology.Name)
	if err := clab.AddPods(ctx, t.docker, topology, podsPerNode); err != nil {
		return nil, err
	}
	t.steps.Say("%s: waiting until every path works", topology.Name)
	if lab, err = clab.Open(ctx, t.docker, topology); err != nil {
		return nil, err
	}
	if err = lab.Converge(ctx); err != nil {
		return nil, err
	}
	t.note("\n%s: %d nodes; deployed in %.1f s, all paths work after %.1f s", topology.Name, len(topology.Nodes), deployed.Seconds(), time.Since(began).Seconds())
	return lab, nil
}

// giveUp shows what a person would want to see of a lab that failed, unless it was
// interrupted, and destroys it.
func (t *tools) giveUp(ctx context.Context, topology *clab.Topology) error {
	if ctx.Err() == nil {
		clab.Diagnose(ctx, t.clab, topology, t.errs)
	}
	return t.clab.Destroy(context.WithoutCancel(ctx), topology)
}

// run takes a lab through all of its life.
func (t *tools) run(ctx context.Context, name string) error {
	topology, err := clab.Load(t.labs, name)
	if err != nil {
		return err
	}
	lab, err := t.deploy(ctx, topology)
	if err != nil {
		return err
	}
	if err := t.try(ctx, lab); err != nil {
		return errors.Join(err, t.giveUp(ctx, topology))
	}
	t.steps.Say("%s: destroying", name)
	return t.clab.Destroy(context.WithoutCancel(ctx), topology)
}

// try checks a lab and breaks it.
func (t *tools) try(ctx context.Context, lab *clab.Lab) error {
	began := time.Now()
	checks, err := lab.Check(ctx)
	if err != nil {
		return err
	}
	if err := matrix.Print(t.out, checks, time.Since(began)); err != nil {
		return err
	}
	spreads, err := lab.Spreads(ctx)
	if err != nil {
		return err
	}
	for _, s := range spreads {
		t.note("%s: %d routes to the pods of the other rack, each by both spines; %d packets went by spine1, %d by spine2", s.Leaf, s.Routes, s.Sent[0], s.Sent[1])
	}
	return t.faults(ctx, lab)
}

// faults breaks one thing after another and prints what each cost.
func (t *tools) faults(ctx context.Context, lab *clab.Lab) error {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"Fault, under traffic", "Flows", "Sent", "Lost", "Flows hit", "Longest outage"})
	var failed error
	for _, f := range lab.Faults() {
		t.steps.Say("%s: %s", lab.Name, f.Name)
		loss, err := lab.Try(ctx, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.AppendRow(table.Row{loss.Fault, loss.Flows, loss.Sent, loss.Lost, loss.Hit, fmt.Sprintf("%d ms", loss.Outage.Milliseconds())})
		if failed = err; failed != nil {
			break
		}
	}
	fmt.Fprintln(t.out, w.Render())
	return failed
}

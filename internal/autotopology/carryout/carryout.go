// Package carryout carries auto-topology out in the datastore, a step at a time: it reads
// the resources, asks nodes for what autotopology wants to know, and makes the one write
// that comes next, if nothing of what it depends on has changed meanwhile.
package carryout

import (
	"context"
	"errors"
	"fmt"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/advertise"
	"tortie/internal/api"
	"tortie/internal/autotopology"
	"tortie/internal/bgpsummary"
	"tortie/internal/datastore"
	"tortie/internal/nodeask"
)

// Runner carries out.
type Runner struct {
	Client   datastore.Client
	Registry *api.Registry
	Now      func() time.Time
	Asker    nodeask.Asker
	// Unfit says which nodes had better be no reflectors, and why, by their names.
	Unfit func(nodes []*api.Node) map[string]string
	// AskReflectors has reflectors be asked first whether they live, where Unfit doesn't
	// know.
	AskReflectors bool
}

// present are the resources as they were read.
type present struct {
	in      autotopology.Input
	entries map[api.Key]datastore.Entry
}

// Once makes the next step, if one can be made now. A conflict is no error: the next call
// looks again. Outcome is what was found; of a step that was not made by a conflict, none.
func (r Runner) Once(ctx context.Context) (autotopology.Outcome, error) {
	p, out, err := r.look(ctx)
	if err != nil || out.Step == nil {
		return out, err
	}
	err = r.write(ctx, p, out.Step)
	switch {
	case errors.Is(err, datastore.ErrConflict), errors.Is(err, datastore.ErrAlreadyExists), errors.Is(err, datastore.ErrNotFound):
		return autotopology.Outcome{State: out.State, Wait: []string{"somebody else has changed what this depends on: looking again"}}, nil
	case err != nil:
		return out, fmt.Errorf("%s: %w", out.Step.What, err)
	}
	return out, nil
}

// look finds what is to be done, and writes nothing.
func (r Runner) look(ctx context.Context) (present, autotopology.Outcome, error) {
	p, err := r.read(ctx)
	if err != nil {
		return p, autotopology.Outcome{}, err
	}
	p.in.Asked, p.in.Summaries = map[string]bool{}, map[string]bgpsummary.Summary{}
	out := autotopology.Next(p.in)
	if r.AskReflectors && len(out.Refused) == 0 {
		out.Ask = append(out.Ask, reflectors(out.State, out.Ask)...)
	}
	for len(out.Ask) > 0 {
		if err := r.ask(ctx, &p.in, out.Ask); err != nil {
			return p, out, err
		}
		out = autotopology.Next(p.in)
	}
	return p, out, nil
}

func reflectors(s autotopology.State, besides []string) []string {
	asked := map[string]bool{}
	for _, name := range besides {
		asked[name] = true
	}
	var out []string
	for _, n := range s.Reflectors {
		if !asked[n.Node] {
			out = append(out, n.Node)
		}
	}
	return out
}

// ask asks nodes that have not been asked. One that knows nothing of summaries counts as one
// that doesn't answer.
func (r Runner) ask(ctx context.Context, in *autotopology.Input, nodes []string) error {
	q := nodeask.Question{Annotation: bgpsummary.Annotation, Class: v3.NodeStatusClassTypeAgent}
	answers, err := r.Asker.Ask(ctx, q, nodes)
	if err != nil {
		return err
	}
	for _, name := range nodes {
		in.Asked[name] = true
		o := answers[name]
		if o == nil || o.Annotations[bgpsummary.Annotation] == "" {
			continue
		}
		s, err := bgpsummary.Decode(o.Annotations[bgpsummary.Annotation])
		if err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
		in.Summaries[name] = s
	}
	return nil
}

// Read is what auto-topology depends on in the datastore.
func (r Runner) Read(ctx context.Context) (autotopology.Input, error) {
	p, err := r.read(ctx)
	return p.in, err
}

// read fails on what it can't read: the step could be wrong for it.
func (r Runner) read(ctx context.Context) (present, error) {
	p := present{entries: map[api.Key]datastore.Entry{}}
	for _, of := range []datastore.Range{
		{Kind: api.KindNode}, {Kind: api.KindBGPPeer}, {Kind: api.KindBGPFilter}, {Kind: api.KindBGPConfiguration, NamePrefix: advertise.ConfigName},
	} {
		snap, err := r.Client.List(ctx, of)
		if err != nil {
			return p, fmt.Errorf("list %s: %w", of.Kind, err)
		}
		for _, bad := range snap.Invalid {
			return p, fmt.Errorf("%s can't be read, so it is not known what depends on it: mend or delete it: %w", bad.Path, bad.Err)
		}
		for _, e := range snap.Entries {
			p.take(e)
		}
	}
	if r.Unfit != nil {
		p.in.Unfit = r.Unfit(p.in.Nodes)
	}
	return p, nil
}

func (p *present) take(e datastore.Entry) {
	p.entries[e.Key] = e
	switch o := e.Object.(type) {
	case *api.Node:
		p.in.Nodes = append(p.in.Nodes, o)
	case *v3.BGPPeer:
		p.in.Peers = append(p.in.Peers, o)
	case *api.BGPFilter:
		p.in.Filters = append(p.in.Filters, o)
	case *v3.BGPConfiguration:
		if o.Name == advertise.ConfigName {
			p.in.Config = o
		}
	}
}

// write makes a step in one transaction with checks of what it depends on.
func (r Runner) write(ctx context.Context, p present, s *autotopology.Step) error {
	key, err := r.Registry.KeyOf(s.Object)
	if err != nil {
		return err
	}
	var ops []datastore.Op
	for _, o := range s.DependsOn {
		k, err := r.Registry.KeyOf(o)
		if err != nil {
			return err
		}
		ops = append(ops, datastore.Check(k, p.entries[k].Revision))
	}
	resources := datastore.NewResources(r.Client, r.Registry, r.Now)
	e := p.entries[key]
	e.Object = s.Object
	switch s.Verb {
	case autotopology.Create:
		_, err = resources.Create(ctx, s.Object, ops...)
	case autotopology.Update:
		_, err = resources.Update(ctx, e, ops...)
	case autotopology.Delete:
		_, err = r.Client.Txn(ctx, append(ops, datastore.Delete(key, e.Revision))...)
	}
	return err
}

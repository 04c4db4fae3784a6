package clab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tortie/tests/lab/agentwire"
	"tortie/tests/lab/matrix"
)

// Fault is something that breaks while packets flow.
type Fault struct {
	Name string
	// Break breaks it, Mend mends it; without Mend it stays as it is.
	Break, Mend func(ctx context.Context, l *Lab) error
	// Gone is the node whose machine the fault takes away, if any: what flows to it and
	// from it is not counted.
	Gone string
	// Outage is the longest that a flow may be interrupted for.
	Outage time.Duration
}

const (
	// interval is between two packets of a flow: the finest outage that is seen.
	interval = 5 * time.Millisecond
	// before a fault, and after it and its mending, packets flow for these times.
	before, after = time.Second, 4 * time.Second
)

// Faults are the faults of a lab, in the order in which they are tried.
func (t *Topology) Faults() []Fault {
	crash := func(node string) func(context.Context, *Lab) error {
		return func(ctx context.Context, l *Lab) error { return l.crash(ctx, node) }
	}
	exec := func(node string, command ...string) func(context.Context, *Lab) error {
		return func(ctx context.Context, l *Lab) error {
			_, err := l.docker.Exec(ctx, l.container(node), command...)
			return err
		}
	}
	// containers kills or starts containers; Docker does not start what was so killed.
	containers := func(verb string, nodes ...string) func(context.Context, *Lab) error {
		return func(ctx context.Context, l *Lab) error {
			args := []string{verb}
			for _, n := range nodes {
				args = append(args, l.container(n))
			}
			_, err := l.docker.Run(ctx, args...)
			return err
		}
	}
	sessions := func(verb string) func(context.Context, *Lab) error {
		return func(ctx context.Context, l *Lab) error {
			return errors.Join(exec("border", "birdc", verb, "rr1")(ctx, l), exec("border", "birdc", verb, "rr1_v6")(ctx, l))
		}
	}
	switch t.Name {
	case "leaf-spine":
		return []Fault{
			{Name: "the link leaf1 – spine1 goes down", Break: exec("leaf1", "ip", "link", "set", "eth1", "down"), Mend: exec("leaf1", "ip", "link", "set", "eth1", "up"), Outage: 2 * time.Second},
			{Name: "spine2 dies", Break: containers("kill", "spine2"), Outage: 2 * time.Second},
			{Name: "bgpd on n1 is killed", Break: crash("n1-bgpd")},
		}
	case "reflectors":
		return []Fault{
			{Name: "the border closes its sessions with rr1", Break: sessions("disable"), Mend: sessions("enable"), Outage: 2 * time.Second},
			{Name: "bgpd on rr1 is killed", Break: crash("rr1-bgpd")},
			{Name: "bgpd on rr2 stops, and starts later", Break: containers("kill", "rr2-bgpd"), Mend: containers("start", "rr2-bgpd")},
			{Name: "rr1 dies, the whole machine", Break: containers("kill", "rr1-felix", "rr1-bgpd", "rr1"), Gone: "rr1"},
		}
	}
	return []Fault{
		{Name: "bgpd on n1 is killed", Break: crash("n1-bgpd")},
		{Name: "felix on n1 is killed", Break: crash("n1-felix")},
	}
}

// flow is packets from one agent to another.
type flow struct {
	from string
	to   netip.AddrPort
}

// flows are those that a fault is watched with: from the first pod of every node to
// every pod of the other nodes and to the outside, in both families.
func (l *Lab) flows() []flow {
	var all []flow
	started := map[string]bool{}
	for _, from := range l.pods {
		if started[from.Node] {
			continue
		}
		started[from.Node] = true
		for _, v6 := range []bool{false, true} {
			targets := []netip.Addr{l.Outside.probed().Addr(v6)}
			for _, to := range l.pods {
				if to.Node != from.Node {
					targets = append(targets, to.Addr(v6))
				}
			}
			for _, a := range targets {
				if a.IsValid() {
					all = append(all, flow{from.Agents[0], netip.AddrPortFrom(a, agentwire.Port)})
				}
			}
		}
	}
	return all
}

// Loss is what a fault cost.
type Loss struct {
	Fault  string
	Flows  int
	Hit    int // flows that lost a packet
	Sent   int
	Lost   int
	Outage time.Duration // the longest of any flow
}

// add counts the report of one flow in.
func (l *Loss) add(r agentwire.StreamReport) {
	l.Flows++
	l.Sent += r.Sent
	lost := r.Sent - r.Answered
	if lost == 0 {
		return
	}
	l.Hit++
	l.Lost += lost
	l.Outage = max(l.Outage, time.Duration(r.LongestLoss)*interval)
}

// judge says whether the fault cost more than it may.
func (l Loss) judge(f Fault) error {
	switch {
	case l.Sent == 0:
		return fmt.Errorf("%s: nothing was sent", f.Name)
	case f.Outage == 0 && l.Lost > 0:
		return fmt.Errorf("%s: %d of %d packets were lost, and none may be", f.Name, l.Lost, l.Sent)
	case l.Outage > f.Outage:
		return fmt.Errorf("%s: a flow was interrupted for %v, and %v are allowed", f.Name, l.Outage, f.Outage)
	}
	return nil
}

// Try lets packets flow, breaks and mends, and counts what was lost. The lab must
// converge again afterwards. The error is also about a loss that may not be.
func (l *Lab) Try(ctx context.Context, f Fault) (Loss, error) {
	loss := Loss{Fault: f.Name}
	if f.Gone != "" {
		l.forget(f.Gone)
	}
	flows := l.flows()
	if err := l.each(flows, func(id string, fl flow) error {
		_, err := l.Ask(ctx, fl.from, agentwire.Request{StartStream: &agentwire.Stream{ID: id, Network: "udp", Target: fl.to, Interval: interval}})
		return err
	}); err != nil {
		return loss, err
	}
	broken := l.happen(ctx, f)
	reports := make(chan agentwire.StreamReport, len(flows))
	stopped := l.each(flows, func(id string, fl flow) error {
		// Also when ctx has ended, so that no stream runs on.
		resp, err := l.Ask(context.WithoutCancel(ctx), fl.from, agentwire.Request{StopStream: id})
		if err == nil {
			reports <- *resp.Stream
		}
		return err
	})
	close(reports)
	for r := range reports {
		loss.add(r)
	}
	if err := errors.Join(broken, stopped); err != nil {
		return loss, fmt.Errorf("%s: %w", f.Name, err)
	}
	if err := loss.judge(f); err != nil {
		return loss, err
	}
	if err := l.Converge(ctx); err != nil {
		return loss, fmt.Errorf("after %q: %w", f.Name, err)
	}
	if f.Mend == nil {
		return loss, nil
	}
	// What is mended is as before: packets must not only get through.
	return loss, await(ctx, fmt.Sprintf("after %q was mended", f.Name), func() error {
		_, err := l.Spreads(ctx)
		return err
	})
}

// forget leaves a node and its pods out from now on.
func (l *Lab) forget(node string) {
	l.nodes = slices.DeleteFunc(l.nodes, func(m Machine) bool { return m.Name == node })
	l.pods = slices.DeleteFunc(l.pods, func(p matrix.Pod) bool { return p.Node == node })
}

// happen is the fault's course in time.
func (l *Lab) happen(ctx context.Context, f Fault) error {
	steps := []struct {
		pause time.Duration
		do    func(context.Context, *Lab) error
	}{{before, f.Break}, {after, f.Mend}, {after, nil}}
	if f.Mend == nil {
		steps = steps[:2]
	}
	for _, s := range steps {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.pause):
		}
		if s.do == nil {
			continue
		}
		if err := s.do(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// each calls fn for all flows, each with an ID of its own.
func (l *Lab) each(flows []flow, fn func(id string, f flow) error) error {
	var g errgroup.Group
	g.SetLimit(16)
	for i, f := range flows {
		g.Go(func() error { return fn(fmt.Sprintf("flow-%d", i), f) })
	}
	return g.Wait()
}

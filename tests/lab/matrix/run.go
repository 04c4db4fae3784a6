package matrix

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"

	"tortie/tests/lab/agentwire"
)

// Lab is what the probes are sent through.
type Lab interface {
	// Ask sends one request to an agent.
	Ask(ctx context.Context, agent string, req agentwire.Request) (agentwire.Response, error)
	// NextHop is the next hop that a node uses towards an address; invalid for none.
	NextHop(ctx context.Context, node string, dst netip.Addr) (netip.Addr, error)
}

// Run carries the checks out and fills in their results. Each agent gets all its
// probes in one request.
func Run(ctx context.Context, l Lab, checks []Check) error {
	hops := hops{lab: l, seen: map[string]netip.Addr{}}
	byAgent := map[string][]int{}
	for i, c := range checks {
		byAgent[c.From] = append(byAgent[c.From], i)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for agent, indexes := range byAgent {
		g.Go(func() error {
			req := agentwire.Request{}
			for _, i := range indexes {
				req.Probes = append(req.Probes, checks[i].Probe)
			}
			resp, err := l.Ask(ctx, agent, req)
			for n, i := range indexes {
				if err != nil {
					checks[i].Failure = err.Error()
					continue
				}
				checks[i].Result = resp.Results[n]
				checks[i].Failure = checks[i].Judge()
				if checks[i].Failure == "" {
					checks[i].Failure = hops.judge(ctx, checks[i])
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// Judge says what is wrong with a check's result; empty for nothing.
func (c Check) Judge() string {
	switch {
	case c.Result.Err != "":
		return c.Result.Err
	case c.Result.By != c.To:
		return fmt.Sprintf("answered by %q instead of %q", c.Result.By, c.To)
	case c.Want.IsValid() && c.Result.Seen != c.Want:
		return fmt.Sprintf("%s saw it come from %s instead of %s", c.To, c.Result.Seen, c.Want)
	}
	return ""
}

// hops remembers which next hop a node uses towards an address: many checks ask
// the same.
type hops struct {
	lab  Lab
	mu   sync.Mutex
	seen map[string]netip.Addr
}

// judge says what is wrong with the way of a check whose probe went well: without
// BGP a router might carry everything, and the probe would not tell.
func (h *hops) judge(ctx context.Context, c Check) string {
	if !c.Via.IsValid() {
		return ""
	}
	got, err := h.nextHop(ctx, c.Node, c.Probe.Target.Addr())
	if err != nil {
		return err.Error()
	}
	if got != c.Via {
		return fmt.Sprintf("%s sends it via %s instead of %s", c.Node, got, c.Via)
	}
	return ""
}

func (h *hops) nextHop(ctx context.Context, node string, dst netip.Addr) (netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := node + " " + dst.String()
	if hop, ok := h.seen[key]; ok {
		return hop, nil
	}
	hop, err := h.lab.NextHop(ctx, node, dst)
	if err == nil {
		h.seen[key] = hop
	}
	return hop, err
}

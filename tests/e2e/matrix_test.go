package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tortie/tests/e2e/cluster"
	"tortie/tests/lab/agentwire"
)

// expectation is one probe with what must come of it.
type expectation struct {
	what  string
	probe agentwire.Probe
	// by is who must answer; empty means anybody may, "-" that nobody must.
	by string
	// seen is the address that the one who answers must see.
	seen netip.Addr
}

// probeTimeout is long enough for a first packet that waits for a neighbour.
const (
	probeTimeout = 5 * time.Second
	// refusedTimeout is for what must not be answered.
	refusedTimeout = 500 * time.Millisecond
)

// both is an expectation of TCP and UDP.
func both(what string, to netip.AddrPort, by string, seen netip.Addr) []expectation {
	var all []expectation
	timeout := probeTimeout
	if by == "-" {
		timeout = refusedTimeout
	}
	for _, network := range []string{"tcp", "udp"} {
		all = append(all, expectation{
			what: what + " by " + network, by: by, seen: seen,
			probe: agentwire.Probe{Network: network, Target: to, Timeout: timeout},
		})
	}
	return all
}

// judge is what is wrong with a result.
func (x expectation) judge(r agentwire.Result) string {
	switch {
	case x.by == "-" && r.Err == "":
		return "answered by " + r.By + "; nobody was to answer"
	case x.by == "-":
		return ""
	case r.Err != "":
		return r.Err
	case x.by != "" && r.By != x.by:
		return fmt.Sprintf("answered by %s instead of %s", r.By, x.by)
	case x.seen.IsValid() && r.Seen != x.seen:
		return fmt.Sprintf("seen from %s instead of %s", r.Seen, x.seen)
	}
	return ""
}

// asker has an agent do something.
type asker func(req agentwire.Request) (agentwire.Response, error)

func (e *env) fromPod(t *testing.T, p pod) asker {
	return func(req agentwire.Request) (agentwire.Response, error) { return e.askPod(t.Context(), p, p.name, req) }
}

func (e *env) fromHost(t *testing.T, name string) asker {
	return func(req agentwire.Request) (agentwire.Response, error) {
		return cluster.AskHost(t.Context(), e.Machine(name), req)
	}
}

// check has an agent probe, and fails the test for what was wrong.
func check(t *testing.T, from string, ask asker, all []expectation) {
	t.Helper()
	for _, wrong := range probe(from, ask, all) {
		t.Error(wrong)
	}
}

func probe(from string, ask asker, all []expectation) (wrong []string) {
	var req agentwire.Request
	for _, x := range all {
		req.Probes = append(req.Probes, x.probe)
	}
	resp, err := ask(req)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", from, err)}
	}
	for i, x := range all {
		if judged := x.judge(resp.Results[i]); judged != "" {
			wrong = append(wrong, fmt.Sprintf("%s → %s (%s): %s", from, x.what, x.probe.Target, judged))
		}
	}
	return wrong
}

// matrix probes every path between pods, nodes and the outside, in both families,
// and asserts whose address the other side sees.
func (e *env) matrix(t *testing.T, pods []pod) {
	t.Helper()
	began, count := time.Now(), 0
	var g errgroup.Group
	g.SetLimit(8)
	problems := make(chan []string, 64)
	run := func(from string, ask asker, all []expectation) {
		count += len(all)
		g.Go(func() error { problems <- probe(from, ask, all); return nil })
	}
	for _, p := range pods {
		run(p.name, e.fromPod(t, p), e.expectationsOfPod(p, pods))
	}
	for name, h := range e.hosts() {
		if name != cluster.Outside {
			run(name, e.fromHost(t, name), e.expectationsOfNode(h, pods))
		}
	}
	go func() { _ = g.Wait(); close(problems) }()
	for wrong := range problems {
		for _, w := range wrong {
			t.Error(w)
		}
	}
	t.Logf("%d checks in %v", count, time.Since(began).Round(time.Millisecond))
}

func (e *env) expectationsOfPod(from pod, pods []pod) []expectation {
	var all []expectation
	for _, v6 := range []bool{false, true} {
		own := from.addr(v6)
		if !own.IsValid() {
			continue
		}
		for _, to := range pods {
			if to.name != from.name {
				all = append(all, both(to.name, netip.AddrPortFrom(to.addr(v6), agentwire.Port), to.name, own)...)
			}
		}
		for name, h := range e.hosts() {
			seen := own
			switch {
			case name == cluster.Outside && (!v6 || e.natIPv6): // masqueraded
				seen = hostAddr(e.hosts()[from.node], v6)
			case e.tunnels && name != from.node: // as its node, or its tunnel, is seen
				seen = netip.Addr{}
			}
			all = append(all, both(name, netip.AddrPortFrom(hostAddr(h, v6), agentwire.Port), name, seen)...)
		}
	}
	return all
}

func (e *env) expectationsOfNode(h cluster.Host, pods []pod) []expectation {
	var all []expectation
	for _, v6 := range []bool{false, true} {
		for _, to := range pods {
			seen := hostAddr(h, v6)
			if e.tunnels && to.node != h.Name {
				seen = netip.Addr{} // the tunnel's
			}
			if to.addr(v6).IsValid() {
				all = append(all, both(to.name, netip.AddrPortFrom(to.addr(v6), agentwire.Port), to.name, seen)...)
			}
		}
	}
	return all
}

// localhost probes from one container of a pod to the other.
func (e *env) localhost(t *testing.T, pods []pod) {
	t.Helper()
	for _, p := range pods {
		for _, address := range []string{"127.0.0.1", "::1"} {
			a := netip.MustParseAddr(address)
			if a.Is6() && !p.v6.IsValid() {
				continue // a pod without IPv6 has none on its loopback either
			}
			check(t, p.name, e.fromPod(t, p), both("the other container", netip.AddrPortFrom(a, agentwire.Port+1), p.name+"-second", a))
		}
	}
}

// streamInterval is the pause between two packets of a stream.
const streamInterval = 20 * time.Millisecond

// streams are numbered packets between pods that every disturbance is measured by.
type streams struct {
	e     *env
	ids   map[string]pod
	names map[string]string
}

// stream starts a UDP and a TCP stream from every pod to the next one, so that
// each pair of nodes is among them.
func (e *env) stream(t *testing.T, pods []pod) *streams {
	t.Helper()
	s := &streams{e: e, ids: map[string]pod{}, names: map[string]string{}}
	for i, from := range pods {
		for hop, to := range []pod{pods[(i+1)%len(pods)], pods[(i+len(pods)/2)%len(pods)]} {
			for _, network := range []string{"udp", "tcp"} {
				for _, v6 := range []bool{false, true} {
					if !from.addr(v6).IsValid() {
						continue
					}
					id := fmt.Sprintf("%s-%s-%d-%s-%t", t.Name(), from.name, hop, network, v6)
					_, err := e.askPod(t.Context(), from, from.name, agentwire.Request{StartStream: &agentwire.Stream{
						ID: id, Network: network, Target: netip.AddrPortFrom(to.addr(v6), agentwire.Port), Interval: streamInterval,
					}})
					if err != nil {
						t.Fatal(err)
					}
					s.ids[id], s.names[id] = from, fmt.Sprintf("%s (%s) → %s (%s) by %s", from.name, from.node, to.name, to.node, network)
				}
			}
		}
	}
	return s
}

// stop ends the streams and reports what was lost: nothing must be.
func (s *streams) stop(t *testing.T) {
	t.Helper()
	sent, lost := 0, 0
	var gap time.Duration
	for id, from := range s.ids {
		resp, err := s.e.askPod(t.Context(), from, from.name, agentwire.Request{StopStream: id})
		if err != nil {
			t.Error(err)
			continue
		}
		r := resp.Stream
		sent, lost, gap = sent+r.Sent, lost+r.Sent-r.Answered, max(gap, r.LongestGap)
		if r.Sent != r.Answered || r.Err != "" {
			t.Errorf("%s: %d of %d packets lost, longest gap %v %s", s.names[id], r.Sent-r.Answered, r.Sent, r.LongestGap, r.Err)
		}
	}
	t.Logf("%d streams: %d of %d packets lost, longest gap between two answers %v", len(s.ids), lost, sent, gap.Round(time.Millisecond))
}

package pathmtu

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// paths are a network: the largest size that each address answers; 0 for none at all.
type paths struct {
	most  map[netip.Addr]int
	fail  error
	asked []int
	lose  int // as many packets get lost by chance
	after int // when so many were asked, nothing is answered any more; 0 for never
}

func (p *paths) Ask(_ context.Context, to netip.Addr, size int) (bool, error) {
	p.asked = append(p.asked, size)
	if p.fail != nil {
		return false, p.fail
	}
	if p.lose > 0 {
		p.lose--
		return false, nil
	}
	return size <= p.most[to] && (p.after == 0 || len(p.asked) <= p.after), nil
}

var (
	node2  = Target{"node2", netip.MustParseAddr("192.0.2.2"), 1500}
	node26 = Target{"node2", netip.MustParseAddr("2001:db8::2"), 1500}
)

func prober(p *paths, log *bytes.Buffer, targets ...Target) *Prober {
	return New(Config{
		Echo: p, Targets: func() []Target { return targets }, Every: time.Second,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
}

func TestBlackHoleIsFoundToTheByte(t *testing.T) {
	for _, tc := range []struct {
		name   string
		target Target
		most   int
		want   []Finding
	}{
		{"nothing is lost", node2, 1500, nil},
		{"more than needed arrives", node2, 9000, nil},
		{"one byte is missing", node2, 1499, []Finding{{node2, 1499}}},
		{"a tunnel on the way", node2, 1450, []Finding{{node2, 1450}}},
		{"just the least of IPv4", node2, 576, []Finding{{node2, 576}}},
		{"just the least of IPv6", node26, 1280, []Finding{{node26, 1280}}},
		{"IPv6", node26, 1406, []Finding{{node26, 1406}}},
		{"nobody answers", node2, 0, nil},
		{"less than IPv6 demands", node26, 1000, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			net := &paths{most: map[netip.Addr]int{tc.target.Addr: tc.most}}
			p := prober(net, &bytes.Buffer{}, tc.target)
			p.Step(t.Context())
			if got := p.Stats().Findings; !slices.Equal(got, tc.want) {
				t.Errorf("found %v, want %v", got, tc.want)
			}
			if len(net.asked) > 50 {
				t.Errorf("%d packets", len(net.asked))
			}
		})
	}
}

func TestLossByChanceIsNoBlackHole(t *testing.T) {
	net := &paths{most: map[netip.Addr]int{node2.Addr: 1500}, lose: 2}
	p := prober(net, &bytes.Buffer{}, node2)
	p.Step(t.Context())
	if s := p.Stats(); s.Passed != 1 || len(s.Findings) > 0 {
		t.Errorf("%+v", s)
	}
}

// TestNodeThatGoesAwayMeanwhileIsNoBlackHole: nothing is answered at the end, small or
// large.
func TestNodeThatGoesAwayMeanwhileIsNoBlackHole(t *testing.T) {
	for after := 1; after < 3; after++ {
		net := &paths{most: map[netip.Addr]int{node2.Addr: 1400}, after: after}
		p := prober(net, &bytes.Buffer{}, node2)
		p.Step(t.Context())
		if s := p.Stats(); s.Unknown != 1 || len(s.Findings) > 0 {
			t.Errorf("after %d answers: %+v", after, s)
		}
	}
}

func TestFindingLastsAsLongAsTheBlackHole(t *testing.T) {
	net := &paths{most: map[netip.Addr]int{node2.Addr: 1400}}
	targets := []Target{node2}
	p := New(Config{Echo: net, Targets: func() []Target { return targets }, Log: slog.New(slog.DiscardHandler)})
	for _, step := range []struct {
		what string
		most int
		want []Finding
	}{
		{"found", 1400, []Finding{{node2, 1400}}},
		{"as before", 1400, []Finding{{node2, 1400}}},
		{"another size", 1350, []Finding{{node2, 1350}}},
		{"the node does not answer for a while", 0, []Finding{{node2, 1350}}},
		{"mended", 1500, nil},
	} {
		net.most[node2.Addr], net.asked = step.most, nil
		p.Step(t.Context())
		if got := p.Stats().Findings; !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
		if step.what == "as before" && len(net.asked) > 1+tries+1+tries+1 {
			t.Errorf("%d packets to see that nothing has changed: %v", len(net.asked), net.asked)
		}
	}
	net.most[node2.Addr] = 1400
	p.Step(t.Context())
	targets = nil
	p.Step(t.Context())
	if got := p.Stats().Findings; len(got) > 0 {
		t.Errorf("the node is gone: %v", got)
	}
}

// TestEveryNodeHasItsTurn: and one with a finding is seen to be well again soon, whatever
// the number of the others.
func TestEveryNodeHasItsTurn(t *testing.T) {
	const nodes = 100
	net := &paths{most: map[netip.Addr]int{}}
	var targets []Target
	for i, a := 0, netip.MustParseAddr("192.0.2.0"); i < nodes; i++ {
		a = a.Next()
		targets = append(targets, Target{Addr: a, Size: 1500})
		net.most[a] = 1500
	}
	bad := targets[40].Addr
	net.most[bad] = 1400
	p := prober(net, &bytes.Buffer{}, targets...)
	for range 2 * nodes {
		p.Step(t.Context())
	}
	if s := p.Stats(); len(p.looked) != nodes || len(s.Findings) != 1 {
		t.Errorf("%d of %d nodes were looked at, found %v", len(p.looked), nodes, s.Findings)
	}
	net.most[bad] = 1500
	p.Step(t.Context())
	p.Step(t.Context())
	if s := p.Stats(); len(s.Findings) > 0 {
		t.Errorf("the node is well again, and two looks later there is still %v", s.Findings)
	}
}

// TestRateIsBoundedAndOutOfStep: one node at a time, with a pause that differs.
func TestRateIsBoundedAndOutOfStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &paths{most: map[netip.Addr]int{node2.Addr: 1500, node26.Addr: 1500}}
		p := prober(net, &bytes.Buffer{}, node2, node26)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(100 * time.Second)
		synctest.Wait()
		if n := p.Stats().Passed; n < 75 || n > 134 {
			t.Errorf("%d looks in 100 s, at one a second", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWhoCanNotAskSaysSoOnce(t *testing.T) {
	var log bytes.Buffer
	p := prober(&paths{fail: errors.New("operation not permitted")}, &log, node2)
	for range 3 {
		p.Step(t.Context())
	}
	if s := p.Stats(); s.Unknown != 3 || strings.Count(log.String(), "operation not permitted") != 1 {
		t.Errorf("%+v, log %s", s, &log)
	}
}

func TestPacketLargerThanTheDeviceCountsAsLost(t *testing.T) {
	p := New(Config{Echo: tooLarge{}, Targets: func() []Target { return []Target{node2} }, Log: slog.New(slog.DiscardHandler)})
	p.Step(t.Context())
	if got := p.Stats().Findings; !slices.Equal(got, []Finding{{node2, 1400}}) {
		t.Errorf("found %v", got)
	}
}

// tooLarge is a device with MTU 1400.
type tooLarge struct{}

func (tooLarge) Ask(_ context.Context, _ netip.Addr, size int) (bool, error) {
	if size > 1400 {
		return false, ErrTooLarge
	}
	return true, nil
}

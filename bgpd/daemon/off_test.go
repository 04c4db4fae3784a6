package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
)

func TestBackendDecidesWhetherThereIsBGP(t *testing.T) {
	for _, tc := range []struct{ backend, off, refused string }{
		{"", "", ""},
		{"bird", "", ""},
		{"vxlan", "CALICO_NETWORKING_BACKEND=vxlan", ""},
		{"none", "CALICO_NETWORKING_BACKEND=none", ""},
		{"gobgp", "", `CALICO_NETWORKING_BACKEND "gobgp": want bird (BGP), vxlan or none`},
	} {
		cfg, err := Load(func(name string) string {
			return map[string]string{"NODENAME": "n", "ETCD_ENDPOINTS": "http://a:1", "CALICO_NETWORKING_BACKEND": tc.backend}[name]
		}, "v1")
		if got := errText(err); got != tc.refused || err == nil && cfg.Off != tc.off {
			t.Errorf("%q: off %q, error %q", tc.backend, cfg.Off, got)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestWithoutBGPNoLearnedRouteStays: those of the time when there was BGP go, all
// others stay.
func TestWithoutBGPNoLearnedRouteStays(t *testing.T) {
	b := newBench(t)
	learned, other := netip.MustParsePrefix("10.65.2.0/26"), netip.MustParsePrefix("10.1.2.0/24")
	link, err := b.k.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	hop := kernel.NextHopObject{ID: 8, Protocol: kernel.ProtocolBGP, NextHop: kernel.NextHop{Link: link.Index, Gateway: netip.MustParseAddr("10.1.1.12")}}
	group := kernel.NextHopObject{ID: 9, Protocol: kernel.ProtocolBGP, Group: []kernel.GroupMember{{ID: 8}}}
	others := kernel.NextHopObject{ID: 7, Protocol: kernel.ProtocolStatic, NextHop: hop.NextHop}
	for _, c := range []kernel.Change{
		kernel.NextHopChange{Op: kernel.Add, Object: hop},
		kernel.NextHopChange{Op: kernel.Add, Object: group},
		kernel.NextHopChange{Op: kernel.Add, Object: others},
		kernel.RouteChange{Op: kernel.Add, Route: kernel.Route{Dst: learned, Protocol: kernel.ProtocolBGP, NextHopID: 9}},
	} {
		if err := b.k.Apply(c)[0]; err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := &noBGP{node: "node1", off: "CALICO_NETWORKING_BACKEND=vxlan"}
	log := slog.New(slog.DiscardHandler)
	o.sweep(ctx, contextless{newNoRoutes(b.k, log)}, log)
	if err := o.probes().Ready(); err != nil {
		t.Error(err)
	}
	routes, err := b.k.Routes(t.Context(), kernel.RouteFilter{})
	if err != nil {
		t.Fatal(err)
	}
	has := map[netip.Prefix]bool{}
	for _, r := range routes {
		has[r.Dst] = true
	}
	if has[learned] || !has[other] {
		t.Errorf("learned route there: %v, another's: %v", has[learned], has[other])
	}
	if left, err := b.k.NextHopObjects(t.Context(), 0); err != nil || len(left) != 1 || !left[0].Equal(others) {
		t.Errorf("next-hop objects left: %v, %v; want another's alone", left, err)
	}
	st, err := o.Status(t.Context(), nil)
	if err != nil || st.GetOff() != o.off || len(st.GetProblems()) > 0 {
		t.Errorf("%v, %v", st, err)
	}
}

// contextless works on although the test has ended the loop around it.
type contextless struct{ reconciler }

func (c contextless) Apply(ctx context.Context) error {
	return c.reconciler.Apply(context.WithoutCancel(ctx))
}

// refusing refuses a number of times.
type refusing struct{ times int }

func (r *refusing) Apply(context.Context) error {
	if r.times--; r.times >= 0 {
		return errors.New("the kernel refuses")
	}
	return nil
}

func TestWithoutBGPTheSweepIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &noBGP{}
		if err := o.probes().Ready(); err == nil {
			t.Error("ready before anything was done")
		}
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go o.sweep(ctx, &refusing{times: 3}, slog.New(slog.NewTextHandler(&log, nil)))
		synctest.Wait()
		st, err := o.Status(ctx, nil)
		if err != nil || o.probes().Ready() == nil || o.probes().Live() != nil || len(st.GetProblems()) != 1 {
			t.Errorf("status %v, %v", st, err)
		}
		time.Sleep(3 * tick)
		synctest.Wait()
		if err := o.probes().Ready(); err != nil {
			t.Error(err)
		}
		cancel()
		synctest.Wait()
		if n := strings.Count(log.String(), "the kernel refuses"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

func TestWithoutBGPThereAreNoPeersAndRoutes(t *testing.T) {
	o := &noBGP{}
	peers, err := o.Peers(t.Context(), &nodestatus.PeersRequest{})
	routes, err2 := o.Routes(t.Context(), &nodestatus.RoutesRequest{})
	if err != nil || err2 != nil || len(peers.GetPeers())+len(routes.GetRoutes()) > 0 {
		t.Errorf("%v %v %v %v", peers, routes, err, err2)
	}
}

package cniserver

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"tortie/felix/delegate"
	"tortie/internal/control/cniwire"
	"tortie/ipam"
)

// fakePlugins is an IPAM plugin that keeps its addresses in the world, by container.
type fakePlugins world

func (f *fakePlugins) Add(ctx context.Context, c delegate.Call) (got delegate.Result, err error) {
	w := (*world)(f)
	err = w.through(ctx, "assign", "assigned", func() error {
		w.delegated = c
		addr := netip.MustParseAddr("192.0.2.7")
		w.held[pluginsOwn(c)] = []netip.Addr{addr}
		got = delegate.Result{Addrs: []netip.Addr{addr}, DNS: types.DNS{Nameservers: []string{"192.0.2.53"}}}
		return nil
	})
	return got, err
}

func (f *fakePlugins) Do(ctx context.Context, command string, c delegate.Call) error {
	w := (*world)(f)
	return w.through(ctx, "release", "released", func() error {
		w.plugged = append(w.plugged, command)
		if command == "DEL" {
			delete(w.held, pluginsOwn(c))
		}
		if command == "CHECK" && w.held[pluginsOwn(c)] == nil {
			return &cniwire.Error{Code: 3, Msg: "IPAM plugin host-local: CHECK: unknown container"}
		}
		return nil
	})
}

// pluginsOwn is where the plugin keeps what it assigned.
func pluginsOwn(c delegate.Call) ipam.HandleID { return ipam.HandleID("host-local." + c.ContainerID) }

func delegatedRequest(command, container string) cniwire.Request {
	r := request(command, container)
	r.Path = "/opt/cni/bin"
	r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "host-local", "subnet": "192.0.2.0/24"},
		"policy": {"k8s_auth_token": "secret"}, "cni.dev/valid-attachments": []}`)
	return r
}

func TestDelegatedIPAM(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		result := string(w.ok(delegatedRequest("ADD", "c1")))
		for _, want := range []string{`"192.0.2.7/32"`, `"169.254.1.1"`, `"192.0.2.53"`} {
			if !strings.Contains(result, want) {
				t.Errorf("the result lacks %s: %s", want, result)
			}
		}
		if again := string(w.ok(delegatedRequest("ADD", "c1"))); again != result {
			t.Errorf("a repeated ADD answers %s", again)
		}
		if wep := w.endpoint("default", "node1-cni-c1-eth0"); !slices.Equal(wep.Spec.IPNetworks, []string{"192.0.2.7/32"}) {
			t.Errorf("endpoint %+v", wep.Spec)
		}
		entry := w.journal.Entries()[0]
		if strings.Contains(entry.IPAM.Config, "secret") {
			t.Errorf("the journal has the token: %s", entry.IPAM.Config)
		}
		w.ok(delegatedRequest("CHECK", "c1"))
		w.ok(delegatedRequest("STATUS", ""))
		clear(w.held)
		if msg := w.fails(delegatedRequest("CHECK", "c1"), cniwire.CodeInternal); !strings.Contains(msg, "host-local: CHECK: unknown container") {
			t.Errorf("CHECK: %s", msg)
		}
		w.ok(delegatedRequest("GC", ""))
		w.wantNothing()
		if got := strings.Join(w.plugged, " "); got != "CHECK STATUS CHECK GC DEL" && got != "CHECK STATUS CHECK DEL GC" {
			t.Errorf("the plugin was called with %s", got)
		}
		if len(w.owner) > 0 {
			t.Errorf("felix itself assigned %v", w.owner)
		}
	})(t)
}

// TestFailedDelegatedAddLeavesNothingBehind: also where the plugin may have assigned an
// address, and where felix is killed.
func TestFailedDelegatedAddLeavesNothingBehind(t *testing.T) {
	for _, step := range addSteps() {
		t.Run(step, inWorld(func(_ *testing.T, w *world) {
			w.fault = failAt(step)
			w.fails(delegatedRequest("ADD", "c1"), cniwire.CodeInternal)
			w.wantNothing()
		}))
		t.Run(step+" killed", inWorld(func(_ *testing.T, w *world) {
			w.fault = w.killAt(step)
			w.call(delegatedRequest("ADD", "c1"))
			w.restart()
			w.wantNothing()
		}))
	}
}

// TestPodCIDRThatIsNotKnownIsWaitedFor: the runtime tries again, and nothing is left.
func TestPodCIDRThatIsNotKnownIsWaitedFor(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		var known atomic.Bool
		w.server.podCIDRs = func() []netip.Prefix {
			if known.Load() {
				return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			}
			return nil
		}
		with := func(command string) cniwire.Request {
			r := delegatedRequest(command, "c1")
			r.Config = []byte(strings.Replace(string(r.Config), "192.0.2.0/24", "usePodCidr", 1))
			return r
		}
		if msg := w.fails(with("ADD"), cniwire.CodeTryAgainLater); !strings.Contains(msg, "no such podCIDR of this node") {
			t.Errorf("message %q", msg)
		}
		w.ok(with("DEL"))
		known.Store(true)
		w.wantNothing()
		w.ok(with("ADD"))
		w.ok(delegatedRequest("DEL", "c1"))
		w.wantNothing()
	})(t)
}

// TestDelegatedDelNeedsNoJournal: what an earlier plugin or felix added is released by
// the configuration of the DEL.
func TestDelegatedDelNeedsNoJournal(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.held["host-local.c1"] = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
		w.ok(delegatedRequest("DEL", "c1"))
		w.wantNothing()
	})(t)
}

// TestUnknownKeysReachTheDelegate, in the outer object and in its own.
func TestUnknownKeysReachTheDelegate(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := delegatedRequest("ADD", "c1")
		r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "vlan": {"id": 7}, "example.org/x": [1], "args": {"org.example": {"a": 1}}, "runtimeConfig": {"ips": ["192.0.2.7/24"], "ring": "r1"},
			"ipam": {"type": "host-local", "ranges": [], "asign_ipv4": 12345678901234567890}}`)
		w.ok(r)
		want := []string{`"vlan":{"id":7}`, `"example.org/x":[1]`, `"args":{"org.example":{"a":1}}`, `"runtimeConfig":{"ips":["192.0.2.7/24"],"ring":"r1"}`, `"asign_ipv4":12345678901234567890`}
		got := strings.ReplaceAll(string(w.delegated.Config), " ", "")
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("the plugin got %s, without %s", got, part)
			}
		}
		w.ok(delegatedRequest("DEL", "c1"))
		w.wantNothing()
	})(t)
}

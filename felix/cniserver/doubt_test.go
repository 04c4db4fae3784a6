package cniserver

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tortie/felix/cniserver/netconf"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
)

// slowStore is a store whose writes of endpoints take a while. One that is broken
// off meanwhile takes effect all the same, but only when land is called.
type slowStore struct {
	datastore.Client
	begun   chan struct{} // closed at the first such write
	pending []func()
}

func (s *slowStore) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	if ops[0].Key.Kind != api.KindWorkloadEndpoint || ops[0].Kind == datastore.OpDelete {
		return s.Client.Txn(ctx, ops...)
	}
	close(s.begun)
	select {
	case <-ctx.Done():
		s.pending = append(s.pending, func() { _, _ = s.Client.Txn(context.WithoutCancel(ctx), ops...) })
		return 0, ctx.Err()
	case <-time.After(100 * time.Millisecond): // who breaks writes off does it within this time
	}
	return s.Client.Txn(ctx, ops...)
}

func (w *world) slow() *slowStore {
	s := &slowStore{Client: w.server.endpoints.client, begun: make(chan struct{})}
	w.server.endpoints.client = s
	return s
}

func (s *slowStore) land() {
	for _, write := range s.pending {
		write()
	}
}

func TestFailedWiringDoesNotBreakTheEndpointsWriteOff(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		store := w.slow()
		fail := failAt("wire")
		w.fault = func(step string) error {
			err := fail(step)
			if err != nil {
				<-store.begun
			}
			return err
		}
		w.fails(request("ADD", "c1"), cniwire.CodeInternal)
		w.settled()
		store.land()
		w.wantNothing()
	})(t)
}

func TestHangingUpDoesNotBreakTheEndpointsWriteOff(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		store := w.slow()
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() {
			<-store.begun
			cancel(errHungUp)
		}()
		resp := w.server.Handle(ctx, request("ADD", "c1"))
		if resp.Error == nil || resp.Error.Code != cniwire.CodeTryAgainLater || !strings.Contains(resp.Error.Msg, "ADD: the caller hung up") {
			t.Errorf("error %+v", resp.Error)
		}
		w.settled()
		store.land()
		w.wantNothing()
	})(t)
}

// TestEndpointThatComesWithItsAddressesIsLookedForAgain: an assignment that ran out
// of time is settled by the release behind it, and has brought its endpoint along.
func TestEndpointThatComesWithItsAddressesIsLookedForAgain(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := podRequest("ADD", "c1", "pod1")
		r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}}`)
		c, err := newCall(testNode, new(netconf.Reader), r)
		if err != nil {
			t.Fatal(err)
		}
		landed := false
		w.fault = func(step string) error {
			switch {
			case step == "assign":
				return context.DeadlineExceeded
			case step == "release" && !landed:
				landed = true
				w.put(upstreamEndpoint(c.endpoint, "c1", c.hostIf))
			}
			return nil
		}
		w.fails(r, cniwire.CodeTryAgainLater)
		w.settled()
		if !landed {
			t.Fatal("nothing was released")
		}
		w.wantNothing()
	})(t)
}

func TestRepeatedAddInAnotherNamespace(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		dir := t.TempDir()
		first, alias, second := filepath.Join(dir, "first"), filepath.Join(dir, "alias"), filepath.Join(dir, "second")
		for path, namespace := range map[string]string{first: "net", alias: "net", second: "uts"} { // two that there are anyhow
			if err := os.Symlink("/proc/self/ns/"+namespace, path); err != nil {
				t.Fatal(err)
			}
		}
		in := func(netns string) cniwire.Request {
			r := request("ADD", "c1")
			r.Netns, r.NetnsOverride = netns, "1"
			return r
		}
		w.ok(in(alias))
		w.ok(in(first))
		if msg := w.fails(in(second), cniwire.CodeInvalidEnvironment); !strings.Contains(msg, "run DEL first") {
			t.Errorf("message %q", msg)
		}
		for _, d := range w.devices {
			if d.Netns != first {
				t.Errorf("the device was moved to %s all the same", d.Netns)
			}
		}
		// Nobody can reach the first one by that name any more.
		if err := os.Remove(first); err != nil {
			t.Fatal(err)
		}
		w.ok(in(second))
		// And as a namespace is left when it is unmounted: an empty file.
		if err := os.Remove(second); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(second, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.ok(in(alias))
		w.ok(request("DEL", "c1"))
		w.wantNothing()
	})(t)
}

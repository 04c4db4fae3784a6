package cniserver

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"tortie/felix/cniserver/netconf"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// A container ID that comes again (a restart of the same container): what the watch
// still shows of its first life must not stand for an assignment.
func TestAddAfterDelDoesNotBelieveALaggingWatch(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := request("ADD", "c1")
		w.ok(r)
		c, err := newCall(testNode, new(netconf.Reader), r)
		if err != nil {
			t.Fatal(err)
		}
		w.await("the endpoint to be seen", func() bool { _, _, ok := w.state.endpoint(c.endpoint); return ok })
		entry, _, _ := w.state.endpoint(c.endpoint)
		w.ok(request("DEL", "c1"))
		w.settled()
		w.await("the deletion to be seen", func() bool { _, _, ok := w.state.endpoint(c.endpoint); return !ok })
		w.state.Apply([]datastore.SyncUpdate{{Key: c.endpoint.Key(), Entry: &entry}}) // as if it had not been
		w.ok(r)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.held) != 1 {
			t.Errorf("the pod runs with an address nobody assigned: held %v, routes %v", w.held, w.routes)
		}
	})(t)
}

// TestRepeatedADDOfAnAddressAloneDoesNotBelieveTheJournal: an address that was released
// meanwhile, and may be another's, is not answered; one that is still the container's is.
func TestRepeatedADDOfAnAddressAloneDoesNotBelieveTheJournal(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		add := request("ADD", "c1")
		add.Plugin, add.Netns = "calico-ipam", ""
		add.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}}`)
		asked := 0
		w.fault = func(step string) error {
			if step == "look" {
				asked++
			}
			return nil
		}
		first := string(w.ok(add))
		if asked != 0 {
			t.Errorf("a new container costs %d further looks at the store", asked)
		}
		if again := string(w.ok(add)); again != first || asked != 1 {
			t.Errorf("while it has them: %s after %d looks, want %s", again, asked, first)
		}

		// The collector releases one of the two, and another container gets it.
		handle := ipam.HandleID("lan.c1")
		lost := w.held[handle][0]
		w.held[handle] = w.held[handle][1:]
		w.held["lan.c2"], w.owner[lost] = []netip.Addr{lost}, "lan.c2"
		w.fault = func(step string) error {
			if step == "look" {
				return errors.New("no answer")
			}
			return nil
		}
		if msg := w.fails(add, cniwire.CodeInternal); !strings.Contains(msg, "are the addresses of the earlier ADD still those of lan/c1/eth0: no answer") {
			t.Errorf("while nobody knows: %s", msg)
		}
		w.fault = nil
		other := string(w.ok(add))
		if strings.Contains(other, lost.String()+"/") || other == first {
			t.Errorf("the repeated ADD answers %s, which is another's, in %s", lost, other)
		}
		if got := w.held[handle]; len(got) != 2 || w.owner[lost] != "lan.c2" {
			t.Errorf("it holds %v, and %s belongs to %s", got, lost, w.owner[lost])
		}
		if again := string(w.ok(add)); again != other {
			t.Errorf("then: %s, want %s", again, other)
		}
		del := add
		del.Command = "DEL"
		w.ok(del)
		w.settled()
		if len(w.held) != 1 {
			t.Errorf("after DEL: %v", w.held)
		}
	})(t)
}

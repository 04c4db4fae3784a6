package cniserver

import (
	"testing"

	"tortie/felix/cniserver/netconf"
	"tortie/internal/datastore"
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

package cniserver

import (
	"encoding/json"
	"testing"

	"tortie/felix/calc"
	"tortie/felix/podnet"
	"tortie/internal/control/cniwire"
)

// machineDies starts felix on a machine that died before anything of the journal
// reached its disk: no device and no route is left either.
func (w *world) machineDies() {
	w.t.Helper()
	w.kill()
	w.mu.Lock()
	w.dir = w.t.TempDir()
	w.devices, w.routes = map[string]podnet.Attachment{}, map[calc.EndpointID]calc.Endpoint{}
	w.mu.Unlock()
	w.restart()
}

// TestStoreTellsWhoseAddressesAreWhenTheMachineDied is why an ADD that writes the
// endpoint with its addresses need not wait for the journal's disk.
func TestStoreTellsWhoseAddressesAreWhenTheMachineDied(t *testing.T) {
	const conf = `{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}`
	for name, release := range map[string]func() cniwire.Request{
		"DEL": func() cniwire.Request {
			r := podRequest("DEL", "c1", "pod1")
			r.Config = json.RawMessage(conf + "}")
			return r
		},
		"GC": func() cniwire.Request {
			return cniwire.Request{
				Version: cniwire.Version, Plugin: "calico", Command: "GC",
				Config: json.RawMessage(conf + `, "cni.dev/valid-attachments": []}`),
			}
		},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			add := podRequest("ADD", "c1", "pod1")
			add.Config = json.RawMessage(conf + "}")
			w.ok(add)
			w.putBlock(map[string]string{"net1.c1": testNode})
			w.machineDies()
			if len(w.held) != 1 || len(w.endpoints()) != 1 || len(w.journal.Entries()) != 0 {
				t.Fatalf("the machine did not die in the middle: addresses %v, endpoints %v", w.held, w.endpoints())
			}
			w.await("felix knows the endpoint", func() bool { return len(w.state.own()) == 1 })
			w.ok(release())
			w.wantNothing()
		}))
	}
}

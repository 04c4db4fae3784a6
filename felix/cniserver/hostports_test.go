package cniserver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	"sigs.k8s.io/knftables"

	"tortie/felix/calc"
	"tortie/felix/journal"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
)

// portRequest asks for ports of the node.
func portRequest(command, container, portMappings string) cniwire.Request {
	r := request(command, container)
	r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"},
 "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": ` + portMappings + `}}`)
	return r
}

const web = `[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 0, "containerPort": 81}]`

// ports are what leads where in the node's table.
func (w *world) ports() []string {
	var out []string
	for _, name := range []string{"host-ports-ipv4", "host-ports-of-ipv4"} {
		elements, err := w.nft.ListElements(w.t.Context(), "map", name)
		if err != nil && !knftables.IsNotFound(err) {
			w.t.Fatal(err)
		}
		for _, e := range elements {
			out = append(out, strings.Join(append(slices.Clone(e.Key), e.Value...), " "))
		}
	}
	return out
}

func (w *world) wantPorts(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.ports()); diff != "" {
		w.t.Errorf("ports of the node (-want +got):\n%s", diff)
	}
}

func TestHostPortsComeWithThePodAndGoWithIt(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(portRequest("ADD", "c1", web))
		w.wantPorts("6 8080 10.65.0.1 80")
		w.ok(portRequest("ADD", "c1", web))
		w.kill()
		w.restart()
		w.wantPorts("6 8080 10.65.0.1 80")
		w.ok(portRequest("ADD", "c2", `[{"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"}]`))
		w.wantPorts("6 8080 10.65.0.1 80", "192.0.2.1 17 53 10.65.0.2 53")
		w.ok(request("DEL", "c1"))
		w.wantPorts("192.0.2.1 17 53 10.65.0.2 53")
		w.ok(request("DEL", "c2"))
		w.wantNothing()
	})(t)
}

func TestOfTwoPodsWithOneHostPortTheNewerHasIt(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(portRequest("ADD", "c1", web))
		w.ok(portRequest("ADD", "c2", web))
		w.wantPorts("6 8080 10.65.0.2 80")
		w.kill()
		w.restart()
		w.ok(portRequest("ADD", "c3", web))
		w.ok(request("DEL", "c3"))
		w.settled()
		w.wantPorts("6 8080 10.65.0.2 80")
		w.ok(request("DEL", "c2"))
		w.wantPorts("6 8080 10.65.0.1 80")
		w.ok(request("DEL", "c1"))
		w.wantNothing()
	})(t)
}

func TestNoHostPortOutlivesAFailedAddOrDel(t *testing.T) {
	for _, step := range []string{"map", "mapped"} {
		t.Run("ADD fails: "+step, inWorld(func(t *testing.T, w *world) {
			w.fault = failAt(step)
			if msg := w.fails(portRequest("ADD", "c1", web), cniwire.CodeInternal); !strings.Contains(msg, "ports") {
				t.Errorf("message %q", msg)
			}
			w.wantNothing()
		}))
		t.Run("repeated ADD fails: "+step, inWorld(func(t *testing.T, w *world) {
			w.ok(portRequest("ADD", "c1", web))
			w.fault = failAt(step)
			w.fails(portRequest("ADD", "c1", web), cniwire.CodeInternal)
			w.wantPorts("6 8080 10.65.0.1 80")
		}))
		t.Run("killed in ADD: "+step, inWorld(func(t *testing.T, w *world) {
			w.fault = w.killAt(step)
			w.call(portRequest("ADD", "c1", web))
			w.restart()
			w.wantNothing()
		}))
		t.Run("DEL fails: "+step, inWorld(func(t *testing.T, w *world) {
			w.ok(portRequest("ADD", "c1", web))
			w.fault = failAt(step)
			w.ok(request("DEL", "c1"))
			w.wantNothing()
		}))
		t.Run("killed in DEL: "+step, inWorld(func(t *testing.T, w *world) {
			w.ok(portRequest("ADD", "c1", web))
			w.fault = w.killAt(step)
			w.call(request("DEL", "c1"))
			w.restart()
			w.ok(request("DEL", "c1"))
			w.wantNothing()
		}))
	}
}

// killAt kills felix at a step.
func (w *world) killAt(step string) func(string) error {
	return func(s string) error {
		if s == step {
			w.kill()
			return errDead
		}
		return nil
	}
}

func TestCheckNamesAHostPortThatIsGone(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		result := w.ok(portRequest("ADD", "c1", web))
		check := portRequest("CHECK", "c1", web)
		check.Config = json.RawMessage(strings.TrimSuffix(string(check.Config), "}") + `, "prevResult": ` + string(result) + `}`)
		w.ok(check)
		tx := w.nft.NewTransaction()
		tx.Delete(&knftables.Element{Map: "host-ports-ipv4", Key: []string{"6", "8080"}})
		if err := w.nft.Run(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if msg := w.fails(check, cniwire.CodeInternal); !strings.Contains(msg, "elements of map host-ports-ipv4") {
			t.Errorf("message %q", msg)
		}
	})(t)
}

// TestLostJournalTakesNoHostPortAway: an uninstallation takes the journal with it, and a
// migration comes without one.
func TestLostJournalTakesNoHostPortAway(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := podRequest("ADD", "c1", "web-0")
		r.Config = portRequest("ADD", "c1", web).Config
		w.ok(r)
		wep := *w.endpoint("ns1", "node1-k8s-web--0-eth0")
		wep.Spec.Ports = []api.WorkloadEndpointPort{
			{Name: "http", Protocol: numorstring.ProtocolFromString("TCP"), Port: 80, HostPort: 8080},
			{Name: "other", Protocol: numorstring.ProtocolFromString("TCP"), Port: 81},
		}
		w.put(&wep)
		w.kill()
		if err := os.Remove(filepath.Join(w.dir, "attachments.log")); err != nil {
			t.Fatal(err)
		}
		w.restart()
		w.wantPorts("6 8080 10.65.0.1 80")
		id := calc.EndpointID{Namespace: "ns1", Name: "node1-k8s-web--0-eth0"}
		if made, settled := w.server.Attached(id, wep.Spec.InterfaceName); !settled || !made.FromLoopback || made.MTU != 0 {
			t.Errorf("the device was made as %+v, settled %v", made, settled)
		}
		del := podRequest("DEL", "c1", "web-0")
		w.ok(del)
		w.settled()
		w.wantPorts()
	})(t)
}

// TestDeviceIsToStayAsItWasMade from the answer to its ADD until its DEL.
func TestDeviceIsToStayAsItWasMade(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		id := calc.EndpointID{Namespace: "ns1", Name: "node1-k8s-web--0-eth0"}
		add := podRequest("ADD", "c1", "web-0")
		add.Config = portRequest("ADD", "c1", web).Config
		w.ok(add)
		hostIf := w.endpoint(id.Namespace, id.Name).Spec.InterfaceName
		if made, settled := w.server.Attached(id, hostIf); !settled || !made.FromLoopback || made.MTU != 1450 || made.HostIf != hostIf {
			t.Errorf("it was made as %+v, settled %v", made, settled)
		}
		w.fault = failAt("release")
		w.ok(podRequest("DEL", "c1", "web-0"))
		releasing := w.journal.Find(func(e journal.Entry) bool { return e.State == journal.StateReleasing })
		if _, settled := w.server.Attached(id, hostIf); settled == (len(releasing) > 0) {
			t.Errorf("while it is released: settled %v", settled)
		}
	})(t)
}

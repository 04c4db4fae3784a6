package cniserver

import (
	"net/netip"
	"strings"
	"testing"

	"tortie/felix/journal"
	"tortie/internal/control/cniwire"
)

// TestAddRefusesNamesThatCannotBeStored: were the address assigned first, its
// endpoint could never be written, nor its release ever be done.
func TestAddRefusesNamesThatCannotBeStored(t *testing.T) {
	w := newWorld(t)
	for args, key := range map[string]string{
		"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=a/b":   "K8S_POD_NAME",
		"K8S_POD_NAMESPACE=n/s;K8S_POD_NAME=web-0": "K8S_POD_NAMESPACE",
		"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=Web":   "K8S_POD_NAME",
	} {
		r := request("ADD", "c1")
		r.Args = args
		if msg := w.fails(r, cniwire.CodeInvalidEnvironment); !strings.Contains(msg, "CNI_ARGS: "+key+":") {
			t.Errorf("%s: message %q", args, msg)
		}
	}
	for _, name := range []string{"all", "default", ".", "..", "eth 0", "eth\u00a00"} {
		r := request("ADD", "c1")
		r.IfName = name
		if msg := w.fails(r, cniwire.CodeInvalidEnvironment); !strings.Contains(msg, "CNI_IFNAME") {
			t.Errorf("%s: message %q", name, msg)
		}
	}
	if w.next != 0 {
		t.Errorf("%d addresses were assigned", w.next)
	}
	w.wantNothing()
}

// TestReleaseOfAnEndpointThatCannotBeStored: a journal may have an entry that was
// written before such names were refused.
func TestReleaseOfAnEndpointThatCannotBeStored(t *testing.T) {
	w := newWorld(t)
	id := idOf(request("ADD", "c1"))
	err := w.journal.Put(journal.Entry{
		ID: id, State: journal.StateReleasing, Plugin: pluginCalico,
		Namespace: "n/s", Endpoint: "node1-k8s-a/b-eth0", HostIf: "cali01234567890", MAC: newMAC(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.held[handleOf(id)] = []netip.Addr{netip.MustParseAddr("10.65.0.9")}
	w.restart()
	w.wantNothing()
}

package cniserver

import (
	"strings"
	"testing"

	"tortie/internal/control/cniwire"
)

func TestNodesOwnNamespaceIsRefused(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := request("ADD", "c1")
		r.Netns = "/proc/self/ns/net"
		for _, plugin := range []string{"calico", "calico-ipam"} {
			r.Plugin = plugin
			if msg := w.fails(r, cniwire.CodeInvalidNetns); !strings.Contains(msg, "the node's own network namespace") {
				t.Errorf("message %q", msg)
			}
		}
		if w.next != 0 {
			t.Errorf("%d addresses were assigned", w.next)
		}
		r.Plugin = "calico"
		for _, override := range []string{"1", "true", "TRUE"} {
			r.NetnsOverride = override
			w.ok(r)
		}
		// For DEL the container's is gone then: a runtime would try for ever.
		r.Command, r.NetnsOverride = "DEL", "0"
		w.ok(r)
		w.wantNothing()
	})(t)
}

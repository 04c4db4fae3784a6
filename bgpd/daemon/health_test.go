package daemon

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"tortie/bgpd/topology"
	"tortie/internal/api"
)

func TestReadinessIsAboutBGPDItselfNotItsPeers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state func(*bench)
		says  string
	}{
		{"before the datastore is read", func(*bench) {}, "the datastore has not been read yet"},
		{"without this node's resource", func(b *bench) { b.take(topology.Input{}) }, "node1"},
		{"its only peer is away", func(b *bench) {
			b.take(topology.Input{Nodes: []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")}})
		}, ""},
		{"no speaker", func(b *bench) {
			b.take(topology.Input{Nodes: []*api.Node{node("node1", "10.1.1.11/24")}})
			b.e.speakerErr = errors.New("listen on port 179: in use")
		}, "port 179: in use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			tc.state(b)
			b.service()
			probes := b.e.probes(t.Context())
			if err := probes.Live(); err != nil {
				t.Error(err)
			}
			switch err := probes.Ready(); {
			case tc.says == "" && err != nil, tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}

func TestLoopThatHangsIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if err := newBench(t).e.probes(t.Context()).Live(); err == nil || !strings.Contains(err.Error(), "has not answered for 5s") {
			t.Errorf("%v", err)
		}
	})
}

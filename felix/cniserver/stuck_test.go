package cniserver

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tortie/felix/delegate"
	"tortie/internal/control/cniwire"
)

// goneAt makes the IPAM plugin of others one that is not there, and counts who asks for it.
func (w *world) goneAt() *atomic.Int32 {
	tries := new(atomic.Int32)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = func(step string) error {
		if step != "release" {
			return nil
		}
		tries.Add(1)
		return &delegate.MissingError{Type: "host-local", Path: "/opt/cni/bin"}
	}
	return tries
}

func (w *world) back() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = nil
}

// TestReleaseByAPluginThatIsGoneIsNamed: in the answer, at once, in the node's status, and
// in the log once; and it is not tried all the time.
func TestReleaseByAPluginThatIsGoneIsNamed(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		var log bytes.Buffer
		w.server.releaser.log = slog.New(slog.NewTextHandler(&log, nil))
		w.ok(delegatedRequest("ADD", "c1"))
		tries := w.goneAt()
		w.ok(delegatedRequest("DEL", "c1"))
		time.Sleep(time.Hour)
		warned := func() int { synctest.Wait(); return strings.Count(log.String(), "level=WARN") }
		if n, lines := tries.Load(), warned(); n < 10 || n > 60 || lines != 1 {
			t.Errorf("%d tries and %d lines in an hour", n, lines)
		}
		began := time.Now()
		e := w.call(delegatedRequest("ADD", "c1")).Error
		if e == nil || e.Code != cniwire.CodeTryAgainLater || e.Details != pluginAdvice ||
			!strings.Contains(e.Msg, "the address of the previous attachment of net1/c1/eth0 is still being released: IPAM plugin host-local: felix does not find it in CNI_PATH /opt/cni/bin") {
			t.Errorf("error %+v", e)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("after %v", took)
		}
		line := w.server.StuckReleases()["host-local"]
		if !strings.Contains(line, "(net1/c1/eth0): IPAM plugin host-local: felix does not find it") || !strings.HasSuffix(line, pluginAdvice) {
			t.Errorf("line %q", line)
		}
		w.back()
		w.ok(delegatedRequest("ADD", "c1")) // and nobody waits for the next try
		if lines := w.server.StuckReleases(); len(lines) != 0 || warned() != 1 {
			t.Errorf("lines %v", lines)
		}
		w.ok(delegatedRequest("DEL", "c1"))
		w.wantNothing()
	})(t)
}

// TestPluginThatIsGoneIsGivenUp by who names another: the container is not blocked for good.
func TestPluginThatIsGoneIsGivenUp(t *testing.T) {
	for name, tc := range map[string]struct {
		restart bool
		command string
	}{"by ADD": {false, "ADD"}, "by DEL": {false, "DEL"}, "by ADD, after a restart": {true, "ADD"}, "by DEL, after a restart": {true, "DEL"}} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			w.ok(delegatedRequest("ADD", "c1"))
			w.goneAt()
			w.ok(delegatedRequest("DEL", "c1"))
			stuck := func() bool { return len(w.server.StuckReleases()) > 0 }
			w.await("the release is stuck", stuck)
			if tc.restart {
				w.stop()
				w.start()
				w.awaitReady()
				w.await("the release is stuck again", stuck)
			}
			w.ok(request(tc.command, "c1"))
			w.await("the release is done without it", func() bool { return w.server.PendingReleases() == 0 })
			w.back()
			w.ok(request("ADD", "c1"))
			w.ok(request("DEL", "c1"))
			w.settled()
			if len(w.journal.Entries()) > 0 || len(w.held) != 1 { // what the plugin itself keeps
				t.Errorf("left are %+v, %v", w.journal.Entries(), w.held)
			}
		}))
	}
}

// TestPluginThatIsThereIsNeverGivenUp: it releases what it assigned, whoever is named by now.
func TestPluginThatIsThereIsNeverGivenUp(t *testing.T) {
	for _, command := range []string{"DEL", "GC"} {
		t.Run(command, inWorld(func(t *testing.T, w *world) {
			w.ok(delegatedRequest("ADD", "c1"))
			r := request(command, "c1")
			r.Config = []byte(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "cni.dev/valid-attachments": []}`)
			w.ok(r)
			w.wantNothing()
			if got := strings.Join(w.plugged, " "); got != "DEL" {
				t.Errorf("the plugin was called with %q", got)
			}
		}))
	}
}

// TestReleaseByAPluginOfOurOwnNameIsOver: an earlier felix took calico for one, and it has
// assigned nothing.
func TestReleaseByAPluginOfOurOwnNameIsOver(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(delegatedRequest("ADD", "c1"))
		e := w.journal.Entries()[0]
		p := *e.IPAM
		p.Type = "calico"
		e.IPAM = &p
		if err := w.journal.Put(e); err != nil {
			t.Fatal(err)
		}
		tries := w.goneAt()
		w.ok(delegatedRequest("DEL", "c1"))
		w.settled()
		if n := tries.Load(); n != 0 {
			t.Errorf("it was run %d times", n)
		}
	})(t)
}

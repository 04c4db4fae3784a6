package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"tortie/felix/problems"
	"tortie/internal/control/felixstatus"
	"tortie/internal/kubeevent"
)

// teller tells operators what is wrong: calicoctl node status by a file, kubectl
// describe by Events.
type teller struct {
	path   string // of the file; empty while another felix may own it
	status felixstatus.Status
	events interface{ Set(now []kubeevent.Warning) } // nil without Kubernetes
	say    func(ctx context.Context, w kubeevent.Warning) error
	log    *slog.Logger
}

// show tells the whole list.
func (t *teller) show(list []problems.Problem) {
	t.status.Problems = nil
	var warnings []kubeevent.Warning
	for _, p := range list {
		t.status.Problems = append(t.status.Problems, p.Line)
		if !p.Minor {
			warnings = append(warnings, kubeevent.Warning{Reason: p.Reason, Topic: p.Topic, Message: p.Line})
		}
	}
	t.write()
	if t.events != nil {
		t.events.Set(warnings)
	}
}

// own makes the status file this felix's: it holds the node's lock.
func (t *teller) own(path string) {
	t.path = path
	t.status.PID, t.status.Started = os.Getpid(), time.Now().Unix()
	t.write()
}

func (t *teller) write() {
	if t.path == "" {
		return
	}
	if err := felixstatus.Write(t.path, t.status); err != nil {
		t.log.Warn("calicoctl node status won't show what is wrong", "err", err)
	}
}

// sayTimeout bounds the last words of a felix that can't go on.
const sayTimeout = 3 * time.Second

// ended tells why felix ends; nil for an end in order.
func (t *teller) ended(ctx context.Context, err error) {
	t.status.Problems, t.status.Ended = nil, ""
	if err != nil {
		t.status.Ended = oneLine(err)
	}
	t.write()
	if err == nil || t.say == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sayTimeout)
	defer cancel()
	said := t.say(ctx, kubeevent.Warning{Reason: reasonEnded, Message: "felix can't run: " + oneLine(err)})
	if said != nil && !errors.Is(said, context.DeadlineExceeded) {
		t.log.Warn("no Event says why felix ends", "err", said)
	}
}

// oneLine is an error's text on one line.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

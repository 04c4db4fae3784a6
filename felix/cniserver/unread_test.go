package cniserver

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

// logLines takes down what is logged.
type logLines struct{ said []string }

func (l *logLines) Write(p []byte) (int, error) {
	l.said = append(l.said, string(p))
	return len(p), nil
}

// TestUnknownKeysAreNamedOnceInTheLog, and nowhere else.
func TestUnknownKeysAreNamedOnceInTheLog(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		var log logLines
		w.server.log = slog.New(slog.NewTextHandler(&log, nil))
		for range 3 {
			w.ok(configured("ADD", `, "vlan": 7, "ring": {"a": 1}`))
			w.ok(configured("DEL", `, "vlan": 7, "ring": {"a": 1}`))
		}
		w.wantNothing()
		named := slices.DeleteFunc(log.said, func(line string) bool { return !strings.Contains(line, "vlan") })
		if len(named) != 1 || !strings.Contains(named[0], "level=WARN") || !strings.Contains(named[0], `keys="[ring vlan]"`) || !strings.Contains(named[0], "network=net1") {
			t.Errorf("the log names them so: %q", named)
		}
	})(t)
}

func TestUnreadKeysAreBounded(t *testing.T) {
	var u unread
	for i := range 2 * maxUnread {
		u.first(fmt.Sprint(i), []string{"vlan"})
	}
	if len(u.told) != maxUnread {
		t.Errorf("%d are remembered", len(u.told))
	}
}

package speaker_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"tortie/bgpd/speaker"
)

func TestPasswordIsNeverPrinted(t *testing.T) {
	p := speaker.Peer{Password: "hunter2"}
	var log bytes.Buffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	l.Info("peer", "peer", p, "password", p.Password, "all", speaker.Desired{Peers: []speaker.Peer{p}})
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		fmt.Fprintf(&log, format+format+format, p, p.Password, []speaker.Peer{p})
	}
	fmt.Fprint(&log, p, p.Password)
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("the password is in %s", log.String())
	}
}

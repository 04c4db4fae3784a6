package daemon_test

import (
	"strings"
	"testing"

	"tortie/internal/api"
)

// TestGracefulShutdownAgainstBIRD: a node with the label of a cordoned one announces all
// it has with the community of RFC 8326, on the sessions as they are, and no longer
// without the label.
func TestGracefulShutdownAgainstBIRD(t *testing.T) {
	l := newTorLab(t, torSessions("", ""), torPeer("tor-v4", "10.1.1.254", nil), torPeer("tor-v6", "fd01::fe", nil))
	l.startNode("node1", l.content())
	v4, v6 := l.peer("IPv4", "tor-v4", isUp), l.peer("IPv6", "tor-v6", isUp)
	told := func(going bool) {
		t.Helper()
		for _, prefix := range []string{"10.65.1.0/26", "fd65:1::/122"} {
			l.until("what BIRD hears of "+prefix, func() (bool, string) {
				out := l.birdRoute(prefix)
				return strings.Contains(out, "BGP.as_path: 64512") && strings.Contains(out, "(65535,0)") == going, out
			})
		}
	}
	told(false)
	for _, going := range []bool{true, false} {
		for _, o := range l.objects {
			if n, ok := o.(*api.Node); ok && n.Name == "node1" {
				n.Labels = map[string]string{api.LabelGracefulShutdown: map[bool]string{true: "true", false: "no"}[going]}
			}
		}
		l.write()
		told(going)
	}
	if l.peer("IPv4", "tor-v4", isUp).Since != v4.Since || l.peer("IPv6", "tor-v6", isUp).Since != v6.Since {
		t.Error("a session was reset")
	}
}

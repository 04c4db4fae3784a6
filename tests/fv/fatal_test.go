package fv

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"tortie/bgpd/bgptest"
	"tortie/internal/kernel"
	"tortie/tests/lab"
)

// TestMessageThatTheLibraryCannotReadEndsItsSessionAlone: either of these ends the whole
// program where the library is as published (bgpd/library).
func TestMessageThatTheLibraryCannotReadEndsItsSessionAlone(t *testing.T) {
	l := up(t, "fatal", 2)
	addPods(t, l, 2, 1)
	mustConverge(t, l)
	pod := l.Pods()[0]
	apply(t, l, manifestHead+"kind: BGPConfiguration\nmetadata: {name: default}\nspec: {localWorkloadPeeringIPV4: 169.254.0.179}\n---\n"+
		manifestHead+"kind: BGPPeer\nmetadata: {name: pods}\nspec: {node: "+pod.Node+", asNumber: 65401, localWorkloadSelector: all()}\n")
	before := l.Daemon("bgpd", pod.Node)
	for name, message := range map[string][]byte{
		"of a type that there isn't":           bgptest.Message(9, nil),
		"a flow specification that ends early": bgptest.Message(bgptest.Update, []byte{0, 0, 0, 12, 0x80, 14, 9, 0, 1, 133, 0, 0, 3, 3, 48, 1}),
	} {
		t.Run(name, func(t *testing.T) {
			p := establish(t, pod)
			if err := p.SendRaw(message); err != nil {
				t.Fatal(err)
			}
			var notification bgptest.NotificationError
			if err := p.End(); !errors.As(err, &notification) {
				t.Errorf("the session ended with %v, want a NOTIFICATION", err)
			}
		})
	}
	if after := l.Daemon("bgpd", pod.Node); after != before || !after.Alive() {
		t.Errorf("bgpd is not the process it was: %+v, %+v", before, after)
	}
	establish(t, pod).Close() // it still takes what is right
}

// establish is a session of a pod with its node.
func establish(t *testing.T, pod *lab.Pod) *bgptest.Peer {
	t.Helper()
	ns, err := kernel.OpenNetns(pod.Pause.Netns())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var p *bgptest.Peer
	until(t, "a session of the pod", func() (bool, string) {
		var conn net.Conn
		err := ns.Do(func() (err error) {
			conn, err = net.DialTimeout("tcp", "169.254.0.179:179", time.Second)
			return err
		})
		if err == nil {
			p, err = bgptest.Establish(conn, bgptest.Config{ASN: 65401, ID: pod.Addr(false)})
		}
		return err == nil, strings.TrimSpace(fmt.Sprint(err))
	})
	return p
}

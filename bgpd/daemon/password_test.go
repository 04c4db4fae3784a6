package daemon_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

func passwordIn(secret, key string) func(s *v3.BGPPeerSpec) {
	return func(s *v3.BGPPeerSpec) {
		s.Password = &v3.BGPPassword{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key,
		}}
	}
}

func birdPassword(p string) string { return fmt.Sprintf("password %q;", p) }

// TestPasswordsAgainstBIRD: IPv4 and IPv6, right, wrong, changed while the node runs,
// missing, and taken away.
func TestPasswordsAgainstBIRD(t *testing.T) {
	l := newTorLab(t, torSessions(birdPassword("four"), birdPassword("six")),
		torPeer("tor-v4", "10.1.1.254", passwordIn("tor", "v4")), torPeer("tor-v6", "fd01::fe", passwordIn("tor", "v6")))
	l.password("tor", "v4", "four\n")
	l.password("tor", "v6", "six")
	l.startNode("node1", l.content())
	l.peer("the right password, IPv4", "tor-v4", isUp)
	l.peer("the right password, IPv6", "tor-v6", isUp)
	l.learned("node1", "10.200.0.0/24", "fd20::/64")

	mismatch := func(p *nodestatus.Peer) bool {
		return !isUp(p) && strings.Contains(p.Info, "likely a TCP MD5 mismatch")
	}
	l.reconfigure(torSessions(birdPassword("quatre"), birdPassword("six")))
	l.peer("the cause of a session with the wrong password, IPv4", "tor-v4", mismatch)
	l.password("tor", "v4", "quatre")
	l.peer("the password to be read anew", "tor-v4", isUp)

	l.reconfigure(torSessions(birdPassword("quatre"), ""))
	l.peer("the cause where the peer has no password, IPv6", "tor-v6", mismatch)
	l.have(torPeer("tor-v6", "fd01::fe", nil))
	l.write()
	v6 := l.peer("no password on both sides, IPv6", "tor-v6", isUp)

	l.have(torPeer("tor-v4", "10.1.1.254", passwordIn("tor", "absent")))
	l.write()
	l.problem("BGPPeer tor-v4", "spec.password", "tor", "has no key absent: add it", "not configured")
	l.have(torPeer("tor-v4", "10.1.1.254", passwordIn("nothing", "v4")))
	l.write()
	l.problem("BGPPeer tor-v4", "spec.password", "key v4", "there is no folder", "nothing")
	if now := l.peer("the other peer", "tor-v6", isUp); now.Since != v6.Since {
		t.Errorf("the session of the other peer was reset, since %d, was %d", now.Since, v6.Since)
	}
	l.have(torPeer("tor-v4", "10.1.1.254", passwordIn("nothing", "v4")))
	l.password("nothing", "v4", "quatre")
	l.peer("the password that was missing", "tor-v4", isUp)
}

// TestMeshWithAPasswordOutlivesKill: the password is there when the first peers are
// configured, so that a restart is as graceful as without one.
func TestMeshWithAPasswordOutlivesKill(t *testing.T) {
	l := &torLab{lab: newLab(t), objects: map[string]api.Object{}}
	l.have(resources()...)
	for key, o := range l.objects {
		if _, peer := o.(*v3.BGPPeer); peer {
			delete(l.objects, key)
		}
	}
	mesh := v3.BGPPeerSpec{}
	passwordIn("mesh", "k")(&mesh)
	l.have(&v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeMeshPassword: mesh.Password}})
	l.password("mesh", "k", "of the mesh")
	for _, name := range []string{"node1", "node2"} {
		l.startNode(name, l.content())
	}
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122")
	l.learned("node2", "10.65.1.0/26", "fd65:1::/122")
	stop4 := l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1")
	stop6 := l.traffic("node2", "fd65:2::1", "node1", "fd65:1::1")
	l.end("node1", syscall.SIGKILL)
	l.startNode("node1", l.content())
	l.peer("the mesh after the restart", "node2", isUp)
	l.swept("node1")
	for name, stop := range map[string]func() (int, int){"IPv4": stop4, "IPv6": stop6} {
		if sent, lost := stop(); lost != 0 {
			t.Errorf("%s: %d of %d packets lost", name, lost, sent)
		}
	}
	l.password("mesh", "k", "") // both nodes read it: nobody has a session in the mesh
	l.problem("BGPConfiguration default", "spec.nodeMeshPassword", "key k", "is empty", "no mesh sessions")
	l.password("mesh", "k", "another")
	l.peer("the new password on both", "node2", isUp)
}

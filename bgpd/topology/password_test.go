package topology

import (
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

func inSecret(name, key string) *v3.BGPPassword {
	return &v3.BGPPassword{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key}}
}

func bgpSecret(value string) map[string]Secret {
	return map[string]Secret{"bgp": {Where: "Secret bgp in namespace ns", Keys: map[string]string{"tor": value}}}
}

func TestPasswordOfAPeer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ref     *v3.BGPPassword
		secrets map[string]Secret
		want    speaker.Password
		problem string
	}{
		{"right", inSecret("bgp", "tor"), bgpSecret("pw"), "pw", ""},
		{"a line's end is not part of it", inSecret("bgp", "tor"), bgpSecret("p w\r\n"), "p w", ""},
		{"as long as can be", inSecret("bgp", "tor"), bgpSecret(strings.Repeat("x", 80)), speaker.Password(strings.Repeat("x", 80)), ""},
		{"too long", inSecret("bgp", "tor"), bgpSecret(strings.Repeat("x", 81)), "", "spec.password: key tor of Secret bgp in namespace ns has 81 bytes, and TCP MD5 takes at most 80: write a shorter password there"},
		{"empty", inSecret("bgp", "tor"), bgpSecret("\n"), "", "spec.password: key tor of Secret bgp in namespace ns is empty: write a password there"},
		{"another key", inSecret("bgp", "rr"), bgpSecret("pw"), "", "spec.password: Secret bgp in namespace ns has no key rr: add it"},
		{
			"no secret", inSecret("bgp", "tor"),
			map[string]Secret{"bgp": {Problem: "there is no Secret bgp in namespace ns: create it"}},
			"",
			"spec.password: key tor: there is no Secret bgp in namespace ns: create it",
		},
		{"not read yet", inSecret("bgp", "tor"), nil, "", "spec.password: secret bgp has not been read yet"},
		{"no name", &v3.BGPPassword{}, nil, "", "spec.password.secretKeyRef: want the name of a secret and a key in it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := Compute(Input{Node: "node1", Nodes: threeNodes()[:1], Secrets: tt.secrets, Peers: []*v3.BGPPeer{
				aPeer("tor", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999, Password: tt.ref}),
				aPeer("other", v3.BGPPeerSpec{PeerIP: "10.1.1.253", ASNumber: 64999}),
			}})
			peers := map[string]Peer{}
			for _, p := range out.Peers {
				peers[p.Name] = p
			}
			if _, there := peers["other"]; !there {
				t.Error("the other peer is gone as well")
			}
			if tt.problem == "" {
				if peers["tor"].Password != tt.want || len(out.Problems) > 0 {
					t.Errorf("password %q, problems %q", string(peers["tor"].Password), out.Problems)
				}
				return
			}
			if want := "BGPPeer tor: " + tt.problem + "; the peer is not configured"; len(out.Problems) != 1 || out.Problems[0] != want {
				t.Errorf("problems %q, want %q", out.Problems, want)
			}
			if _, there := peers["tor"]; there {
				t.Error("the peer has a session without its password")
			}
		})
	}
}

// TestOnlySecretsOfOwnPeersAreAskedFor: a node reads no more than it needs.
func TestOnlySecretsOfOwnPeersAreAskedFor(t *testing.T) {
	in := Input{Node: "node1", Nodes: threeNodes(), Configs: defaultConfig(v3.BGPConfigurationSpec{NodeMeshPassword: inSecret("mesh", "k")}), Peers: []*v3.BGPPeer{
		aPeer("mine", v3.BGPPeerSpec{Node: "node1", PeerIP: "10.1.1.254", ASNumber: 64999, Password: inSecret("mine", "k")}),
		aPeer("another's", v3.BGPPeerSpec{Node: "node2", PeerIP: "10.1.1.254", ASNumber: 64999, Password: inSecret("another", "k")}),
	}}
	if got := strings.Join(Compute(in).Secrets, " "); got != "mesh mine" {
		t.Errorf("secrets %q", got)
	}
	off := false
	in.Configs = defaultConfig(v3.BGPConfigurationSpec{NodeMeshPassword: inSecret("mesh", "k"), NodeToNodeMeshEnabled: &off})
	if got := strings.Join(Compute(in).Secrets, " "); got != "mine" {
		t.Errorf("without the mesh: secrets %q", got)
	}
}

func TestPasswordOfTheMesh(t *testing.T) {
	in := Input{
		Node: "node1", Nodes: threeNodes(), Secrets: bgpSecret("pw"),
		Configs: defaultConfig(v3.BGPConfigurationSpec{NodeMeshPassword: inSecret("bgp", "tor")}),
		Peers:   []*v3.BGPPeer{aPeer("tor", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999})},
	}
	out := Compute(in)
	for _, p := range out.Peers {
		if want := map[bool]speaker.Password{true: "pw"}[p.Type == Mesh]; p.Password != want {
			t.Errorf("%s: password %q, want %q", p.Name, string(p.Password), string(want))
		}
	}
	in.Secrets = nil
	out = Compute(in)
	if len(out.Peers) != 1 || out.Peers[0].Name != "tor" {
		t.Errorf("peers %v, want those outside the mesh alone", out.Peers)
	}
	want := "BGPConfiguration default: spec.nodeMeshPassword: secret bgp has not been read yet; there are no mesh sessions until then"
	if len(out.Problems) != 1 || out.Problems[0] != want {
		t.Errorf("problems %q, want %q", out.Problems, want)
	}
}

// TestPeerInPlaceOfAMeshSessionHasTheMeshPassword: the other end has no other.
func TestPeerInPlaceOfAMeshSessionHasTheMeshPassword(t *testing.T) {
	in := Input{
		Node: "node1", Nodes: []*api.Node{threeNodes()[0], threeNodes()[1]}, Secrets: bgpSecret("pw"),
		Configs: defaultConfig(v3.BGPConfigurationSpec{NodeMeshPassword: inSecret("bgp", "tor")}),
		Peers:   []*v3.BGPPeer{aPeer("p", v3.BGPPeerSpec{PeerIP: "10.1.1.12", ASNumber: 64512})},
	}
	if out := Compute(in); len(out.Problems) != 1 || !strings.Contains(out.Problems[0], "has another password for this node") {
		t.Errorf("problems %q", out.Problems)
	}
	in.Peers[0].Spec.Password = inSecret("bgp", "tor")
	if out := Compute(in); len(out.Problems) != 0 || out.Peers[0].Reason != "BGPPeer p" {
		t.Errorf("problems %q, peers %v", out.Problems, out.Peers)
	}
}

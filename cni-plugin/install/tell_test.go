package main

import (
	"errors"
	"testing"

	"tortie/internal/kubeevent/eventtest"
)

func TestRefusalIsAnEventOfThePodAndTheNode(t *testing.T) {
	server := &eventtest.Server{}
	env, credentials := server.ServePods(t)
	env["KUBERNETES_NODE_NAME"], env["POD_NAMESPACE"], env["POD_NAME"], env["POD_UID"] = "worker-1", "kube-system", "calico-node-x", "u1"
	h := newHost(t)
	h.write("net.d/05-cilium.conflist", "{}")
	s, err := fromEnv(func(name string) string { return h.env[name] })
	if err != nil {
		t.Fatal(err)
	}
	refusal := s.install(func(string, ...any) {})
	for range 2 { // the kubelet starts the container again and again
		if err := tell(func(name string) string { return env[name] }, credentials, refusal); err != nil {
			t.Fatal(err)
		}
	}
	got := server.Events()
	const want = "the CNI plugin is not installed: /etc/cni/net.d holds the configuration of another network, 05-cilium.conflist, " +
		"which the runtime prefers to 10-calico.conflist: remove it, or set CNI_CONF_NAME to a name before it"
	if len(got) != 2 || got[0].About.Kind != "Node" || got[1].About.Kind != "Pod" || got[1].Message != want || got[1].Count != 2 ||
		got[1].Reason != "CNINotInstalled" || got[1].Component != "install-cni" {
		t.Errorf("%+v", got)
	}
}

func TestOutsideOfAClusterNobodyIsTold(t *testing.T) {
	if err := tell(func(string) string { return "" }, "", errors.New("x")); err != nil {
		t.Error(err)
	}
}

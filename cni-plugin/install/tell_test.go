package main

import (
	"errors"
	"net"
	"path/filepath"
	"testing"

	"tortie/internal/control/felixstatus"
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

func TestNodeStatusSaysWhyFelixDoesNotStart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "felix-cni.sock")
	word := func() felixstatus.Status {
		t.Helper()
		s, err := felixstatus.Read(felixstatus.Path(socket))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	node := func(string) string { return "worker-1" }
	if err := leaveWord(node, filepath.Join(t.TempDir(), "absent", "felix-cni.sock"), errors.New("x")); err != nil {
		t.Errorf("without a place for it: %v", err)
	}
	if err := leaveWord(node, socket, errors.New("another network is there")); err != nil {
		t.Fatal(err)
	}
	if got := word(); got.Node != "worker-1" || got.Ended != "install-cni has failed, after which it would start: another network is there" {
		t.Errorf("%+v", got)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := word()
	if err := leaveWord(node, socket, errors.New("later")); err != nil || word().Ended != before.Ended {
		t.Errorf("the status of a felix that runs became %+v, %v", word(), err)
	}
}

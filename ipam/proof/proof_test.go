package proof_test

import (
	"net/netip"
	"testing"

	"tortie/internal/api"
	"tortie/ipam"
	"tortie/ipam/proof"
)

func seen(attrs map[string]string) ipam.Allocation {
	return ipam.Allocation{Handle: "h", Addr: netip.MustParseAddr("fd65::1"), Attrs: attrs}
}

func TestOwnerIsOnePodOrNobody(t *testing.T) {
	pod := map[string]string{api.AttributeNode: "n", api.AttributeNamespace: "ns", api.AttributePod: "p"}
	other := map[string]string{api.AttributeNode: "n", api.AttributeNamespace: "ns", api.AttributePod: "q"}
	vm := map[string]string{api.AttributeNode: "n", api.AttributeNamespace: "ns", api.AttributePod: "p", "vmi-name": "v"}
	tunnel := map[string]string{api.AttributeNode: "n", api.AttributeType: "vxlanTunnelAddress"}
	migrating := seen(pod)
	migrating.Alternate = pod
	nameless := seen(pod)
	nameless.Handle = ""
	for name, tc := range map[string]struct {
		seen []ipam.Allocation
		want bool
	}{
		"a pod's":             {[]ipam.Allocation{seen(pod), seen(pod)}, true},
		"two pods'":           {[]ipam.Allocation{seen(pod), seen(other)}, false},
		"a virtual machine's": {[]ipam.Allocation{seen(vm)}, false},
		"a tunnel's":          {[]ipam.Allocation{seen(tunnel)}, false},
		"in a migration":      {[]ipam.Allocation{migrating}, false},
		"without a handle":    {[]ipam.Allocation{nameless}, false},
		"none":                {nil, false},
	} {
		if _, ok := proof.OwnerOf(tc.seen); ok != tc.want {
			t.Errorf("%s: %v, want %v", name, ok, tc.want)
		}
	}
}

func TestPodWithoutAClaim(t *testing.T) {
	o := proof.Owner{Node: "a", Namespace: "ns", Pod: "p"}
	mine := []ipam.Allocation{seen(nil)}
	for name, tc := range map[string]struct {
		pod  *proof.Pod
		want string
	}{
		"gone":                                 {nil, "the pod is gone"},
		"not scheduled yet":                    {&proof.Pod{}, ""},
		"on its node":                          {&proof.Pod{Node: "a"}, ""},
		"elsewhere":                            {&proof.Pod{Node: "b", IPs: []string{"fd65::2"}}, "the pod lives on node b now"},
		"elsewhere with the address":           {&proof.Pod{Node: "b", IPs: []string{"FD65:0::1"}}, ""},
		"elsewhere with an unreadable address": {&proof.Pod{Node: "b", IPs: []string{"what"}}, ""},
		"elsewhere with no address (yet)":      {&proof.Pod{Node: "b"}, "the pod lives on node b now"},
	} {
		same := func(kube, node string) bool { return kube == node }
		if got := proof.Without(tc.pod, o, mine, same); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestNodeIsGoneOnlyWhenNothingSaysOtherwise(t *testing.T) {
	for name, tc := range map[string]struct {
		node  string
		facts proof.NodeFacts
		gone  bool
	}{
		"nothing known":            {"a", proof.NodeFacts{}, true},
		"known":                    {"a", proof.NodeFacts{Known: true}, false},
		"endpoints left":           {"a", proof.NodeFacts{Endpoints: 1}, false},
		"a Kubernetes of no nodes": {"a", proof.NodeFacts{NobodyKnown: true}, false},
		"a load balancer":          {"virtual:load-balancer", proof.NodeFacts{}, false},
		"no name":                  {"", proof.NodeFacts{}, false},
	} {
		if got := proof.NodeGone(tc.node, tc.facts) != ""; got != tc.gone {
			t.Errorf("%s: gone %v", name, got)
		}
	}
}

func TestUnreadableEndpointMayHoldAnything(t *testing.T) {
	mine := []ipam.Allocation{seen(nil)}
	for network, want := range map[string]bool{"fd65::1/128": true, "FD65:0:0::1": true, "fd65::2/128": false, "what": true} {
		wep := &api.WorkloadEndpoint{Spec: api.WorkloadEndpointSpec{IPNetworks: []string{network}}}
		if got := proof.Holds(wep, mine); got != want {
			t.Errorf("%s: %v", network, got)
		}
	}
	if !proof.Holds(&api.Node{}, mine) {
		t.Error("what is no endpoint holds nothing")
	}
}

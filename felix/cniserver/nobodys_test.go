package cniserver

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"tortie/felix/calc"
	"tortie/felix/given"
	"tortie/internal/control/cniwire"
)

// TestAddressesOfOthersAreNotTakenWithoutIPAM, and nothing is left of the ADD; felix/given
// has what is whose.
func TestAddressesOfOthersAreNotTakenWithoutIPAM(t *testing.T) {
	const allowed = `, "feature_control": {"ip_addrs_no_ipam": true}`
	const says = "annotation cni.projectcalico.org/ipAddrsNoIpam of the pod: "
	for name, tc := range map[string]struct {
		addr, says string
		code       uint
	}{
		"etcd's":            {"192.0.2.70", "192.0.2.70 is the address of the datastore; choose another", cniwire.CodeInvalidConfig},
		"a pool's":          {"10.65.0.9", "10.65.0.9 lies in IP pool pool1, which may give it to another pod", cniwire.CodeInvalidConfig},
		"another pod's":     {"198.51.100.5", "198.51.100.5 is in use: WorkloadEndpoint ns1/node2-k8s-other-eth0 has it", cniwire.CodeTryAgainLater},
		"its own, of once":  {"198.51.100.6", "", 0},
		"nobody's":          {"198.51.100.7", "", 0},
		"the loopback's":    {"127.0.0.1", "127.0.0.1 can't be the address of a pod", cniwire.CodeInvalidConfig},
		"its own network's": {"192.0.2.99", "", 0},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			w.server.surroundings = func(context.Context) (given.Surroundings, error) {
				return given.Surroundings{Etcd: []netip.Addr{netip.MustParseAddr("192.0.2.70")}, Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}, nil
			}
			other := upstreamEndpoint(calc.EndpointID{Namespace: "ns1", Name: "node2-k8s-other-eth0"}, "c9", "cali1")
			other.Spec.IPNetworks = []string{"198.51.100.5/32"}
			own := upstreamEndpoint(calc.EndpointID{Namespace: "ns1", Name: "node1-k8s-web--0-eth0"}, "c0", "cali2")
			own.Spec.IPNetworks = []string{"198.51.100.6/32"}
			w.put(other)
			w.put(own)
			w.annotated("ipAddrsNoIpam", `["`+tc.addr+`"]`)
			if tc.says == "" {
				w.ok(configured("ADD", allowed))
				return
			}
			if msg := w.fails(configured("ADD", allowed), tc.code); !strings.HasPrefix(msg, says+tc.says) {
				t.Errorf("message %q", msg)
			}
			if len(w.journal.Entries())+len(w.devices) > 0 {
				t.Errorf("left are %+v, %v", w.journal.Entries(), w.devices)
			}
		}))
	}
}

// TestOneOfTwoPodsGetsAnAddressOfNobody, also when they ask at once.
func TestOneOfTwoPodsGetsAnAddressOfNobody(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.annotated("ipAddrsNoIpam", `["198.51.100.7"]`)
		second := kubernetesPod("", "sa")
		second.Name, second.Annotations = "web-1", w.pods["ns1/web-0"].Annotations
		w.pods = map[string]*corev1.Pod{"ns1/web-0": w.pods["ns1/web-0"], "ns1/web-1": second}
		var wg sync.WaitGroup
		var codes [2]uint
		for i, pod := range []string{"web-0", "web-1"} {
			wg.Go(func() {
				r := configured("ADD", `, "feature_control": {"ip_addrs_no_ipam": true}`)
				r.ContainerID, r.Args = pod, strings.Replace(r.Args, "web-0", pod, 1)
				if e := w.call(r).Error; e != nil {
					codes[i] = e.Code
				}
			})
		}
		wg.Wait()
		if codes[0]+codes[1] != cniwire.CodeTryAgainLater || codes[0]*codes[1] != 0 {
			t.Errorf("codes %v, want one 11", codes)
		}
	})(t)
}

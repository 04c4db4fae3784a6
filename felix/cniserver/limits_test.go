package cniserver

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/podendpoint"
)

// own is the configuration of a plugin that sees to bandwidths itself.
const own = `, "capabilities": {"bandwidth": true, "io.kubernetes.cri.pod-annotations": true}`

func limitedPod(annotations ...string) *corev1.Pod {
	pod := kubernetesPod("", "sa")
	pod.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		pod.Annotations[annotations[i]] = annotations[i+1]
	}
	return pod
}

// TestLimitsArriveWithAddHoweverTheyAreAskedFor: they stand in the endpoint, and the
// dataplane has them when ADD returns.
func TestLimitsArriveWithAddHoweverTheyAreAskedFor(t *testing.T) {
	const ingress, egress = "kubernetes.io/ingress-bandwidth", "qos.projectcalico.org/egressPacketRate"
	tenM := &api.QoSControls{IngressBandwidth: 1e7, IngressBurst: 4 << 30}
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		more string
		want *api.QoSControls
	}{
		"none":                      {limitedPod(), own, nil},
		"annotation of Kubernetes":  {limitedPod(ingress, "10M"), own, tenM},
		"upstream's annotation":     {limitedPod(egress, "100"), own, &api.QoSControls{EgressPacketRate: 100, EgressPacketBurst: 5}},
		"by the runtime":            {nil, own + `, "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"` + ingress + `": "10M"}}`, tenM},
		"capability":                {nil, own + `, "runtimeConfig": {"bandwidth": {"ingressRate": 10000000, "ingressBurst": 4294967296}}`, tenM},
		"capability of annotations": {limitedPod(ingress, "10M"), own + `, "runtimeConfig": {"bandwidth": {"ingressRate": 10000000, "ingressBurst": 2147483647}}`, tenM},
		"another plugin's":          {limitedPod(ingress, "10M"), "", nil},
		"upstream's are always ours": {
			limitedPod(ingress, "10M", egress, "100"), "", &api.QoSControls{EgressPacketRate: 100, EgressPacketBurst: 5},
		},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			if tc.pod != nil {
				w.pods = map[string]*corev1.Pod{"ns1/web-0": tc.pod}
			}
			add := configured("ADD", tc.more)
			w.ok(add)
			wep := w.endpoint("ns1", "node1-k8s-web--0-eth0")
			id := calc.EndpointID{Namespace: "ns1", Name: "node1-k8s-web--0-eth0"}
			if diff := cmp.Diff(tc.want, wep.Spec.QoSControls) + cmp.Diff(tc.want, w.routes[id].Limits); diff != "" {
				t.Error(diff)
			}
			if others := wep.Annotations[podendpoint.BandwidthBy] == podendpoint.ByPlugin; others != !strings.HasPrefix(tc.more, own) {
				t.Errorf("annotations %v", wep.Annotations)
			}
			w.ok(configured("CHECK", tc.more))
		}))
	}
}

// TestRepeatedAddLeavesLimitsAsTheyHaveBecome: they may have been changed since.
func TestRepeatedAddLeavesLimitsAsTheyHaveBecome(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		add := configured("ADD", own+`, "runtimeConfig": {"bandwidth": {"ingressRate": 10000000}}`)
		w.ok(add)
		wep := w.endpoint("ns1", "node1-k8s-web--0-eth0")
		wep.Spec.QoSControls = &api.QoSControls{IngressBandwidth: 5000, IngressBurst: 5000}
		w.put(wep)
		id := calc.EndpointID{Namespace: "ns1", Name: "node1-k8s-web--0-eth0"}
		w.await("felix has seen it", func() bool {
			_, seen, ok := w.state.endpoint(id)
			return ok && seen.Spec.QoSControls.Equal(wep.Spec.QoSControls)
		})
		w.ok(add)
		got := w.endpoint("ns1", "node1-k8s-web--0-eth0").Spec.QoSControls
		if diff := cmp.Diff(wep.Spec.QoSControls, got) + cmp.Diff(wep.Spec.QoSControls, w.routes[id].Limits); diff != "" {
			t.Error(diff)
		}
		// A new sandbox begins anew.
		again := configured("ADD", own)
		again.ContainerID = "c2"
		w.ok(again)
		if got := w.endpoint("ns1", "node1-k8s-web--0-eth0").Spec.QoSControls; got != nil {
			t.Errorf("the next sandbox has %+v", got)
		}
	})(t)
}

// TestAddRefusesALimitThatCanNotBe, before anything is assigned.
func TestAddRefusesALimitThatCanNotBe(t *testing.T) {
	for annotation, says := range map[string]string{
		"kubernetes.io/ingress-bandwidth=fast":         `annotation kubernetes.io/ingress-bandwidth of the pod: "fast": want 1k to 1P bits a second, such as 10M`,
		"qos.projectcalico.org/egressPacketRate=20000": `annotation qos.projectcalico.org/egressPacketRate of the pod: "20000": want 1 to 10k packets a second`,
	} {
		t.Run(annotation, inWorld(func(t *testing.T, w *world) {
			name, value, _ := strings.Cut(annotation, "=")
			w.pods = map[string]*corev1.Pod{"ns1/web-0": limitedPod(name, value)}
			if msg := w.fails(configured("ADD", own), cniwire.CodeInvalidConfig); msg != says {
				t.Errorf("message %q", msg)
			}
			w.wantNothing()
		}))
	}
}

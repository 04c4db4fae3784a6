package qos

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/projectcalico/api/pkg/lib/numorstring"

	"tortie/internal/api"
)

func dscp(s string) *api.DSCP {
	d := numorstring.DSCPFromString(s)
	return &d
}

// TestAnnotatedLimitsAreUpstreams: values, defaults, and what goes before what.
func TestAnnotatedLimitsAreUpstreams(t *testing.T) {
	tests := map[string]struct {
		annotations string
		want        *api.QoSControls
	}{
		"none":             {"app=web", nil},
		"kubernetes":       {"kubernetes.io/ingress-bandwidth=10M kubernetes.io/egress-bandwidth=5M", &api.QoSControls{IngressBandwidth: 1e7, IngressBurst: 4 << 30, EgressBandwidth: 5e6, EgressBurst: 4 << 30}},
		"upstream's first": {"kubernetes.io/ingress-bandwidth=1 qos.projectcalico.org/ingressBandwidth=1Mi", &api.QoSControls{IngressBandwidth: 1 << 20, IngressBurst: 4 << 30}},
		"all": {
			"qos.projectcalico.org/egressBandwidth=1M qos.projectcalico.org/egressBurst=1k qos.projectcalico.org/egressPeakrate=2M qos.projectcalico.org/egressMinburst=3k " +
				"qos.projectcalico.org/egressPacketRate=100 qos.projectcalico.org/egressPacketBurst=7 qos.projectcalico.org/egressMaxConnections=9 qos.projectcalico.org/dscp=ef",
			&api.QoSControls{EgressBandwidth: 1e6, EgressBurst: 1e3, EgressPeakrate: 2e6, EgressMinburst: 3e3, EgressPacketRate: 100, EgressPacketBurst: 7, EgressMaxConnections: 9, DSCP: dscp("EF")},
		},
		"packet burst": {"qos.projectcalico.org/ingressPacketRate=10k", &api.QoSControls{IngressPacketRate: 1e4, IngressPacketBurst: 5}},
		"number":       {"qos.projectcalico.org/dscp=0", &api.QoSControls{DSCP: dscp("0")}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Annotated(annotationsOf(tc.annotations), true)
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
			if again, err := Complete(got); err != nil || !again.Equal(got) {
				t.Errorf("complete: %v, %v", again, err)
			}
		})
	}
}

func annotationsOf(text string) map[string]string {
	all := map[string]string{}
	for pair := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(pair, "=")
		all[name] = value
	}
	return all
}

func TestKubernetesLimitsOfAnotherPluginAreLeftToIt(t *testing.T) {
	got, err := Annotated(annotationsOf("kubernetes.io/ingress-bandwidth=rubbish qos.projectcalico.org/egressBandwidth=1M"), false)
	if want := (&api.QoSControls{EgressBandwidth: 1e6, EgressBurst: 4 << 30}); err != nil || !got.Equal(want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWrongLimitIsNamed(t *testing.T) {
	tests := map[string]struct{ annotations, want string }{
		"no number":    {"kubernetes.io/ingress-bandwidth=fast", `kubernetes.io/ingress-bandwidth: "fast": want 1k to 1P bits a second, such as 10M`},
		"too little":   {"kubernetes.io/egress-bandwidth=999", `kubernetes.io/egress-bandwidth: "999": want 1k to 1P`},
		"too much":     {"qos.projectcalico.org/ingressBandwidth=2P", `qos.projectcalico.org/ingressBandwidth: "2P": want 1k to 1P`},
		"negative":     {"qos.projectcalico.org/egressPacketRate=-1", `qos.projectcalico.org/egressPacketRate: "-1": want 1 to 10k packets`},
		"packets":      {"qos.projectcalico.org/ingressPacketRate=11k", `want 1 to 10k packets a second`},
		"connections":  {"qos.projectcalico.org/ingressMaxConnections=5G", `want 1 to 4294967295 connections`},
		"burst alone":  {"qos.projectcalico.org/ingressBurst=1M", `qos.projectcalico.org/ingressBurst: means nothing alone; give ingressBandwidth as well`},
		"peak alone":   {"qos.projectcalico.org/egressPeakrate=1M", `qos.projectcalico.org/egressPeakrate: means nothing alone`},
		"peak below":   {"qos.projectcalico.org/egressPeakrate=1M qos.projectcalico.org/egressBandwidth=1M", `qos.projectcalico.org/egressPeakrate: 1000000: want more than egressBandwidth, which is 1000000`},
		"min alone":    {"qos.projectcalico.org/egressMinburst=2k qos.projectcalico.org/egressBandwidth=1M", `egressMinburst: means nothing alone; give egressPeakrate as well`},
		"packet burst": {"qos.projectcalico.org/egressPacketBurst=2", `egressPacketBurst: means nothing alone; give egressPacketRate as well`},
		"dscp":         {"qos.projectcalico.org/dscp=64", `qos.projectcalico.org/dscp: "64": want 0 to 63`},
		"dscp's name":  {"qos.projectcalico.org/dscp=AF99", `qos.projectcalico.org/dscp: "AF99": want 0 to 63`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Annotated(annotationsOf(tc.annotations), true)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
	for want, q := range map[string]*api.QoSControls{
		"ingressBandwidth: -1: want":   {IngressBandwidth: -1},
		"egressBurst: means nothing":   {EgressBurst: 5000},
		"dscp: 64: want 0 to 63":       {DSCP: dscp("64")},
		"egressPacketRate: 20000: wan": {EgressPacketRate: 20000},
	} {
		if _, err := Complete(q); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: got %v, want %s", q, err, want)
		}
	}
}

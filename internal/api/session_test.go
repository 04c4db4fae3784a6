package api_test

import (
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

func TestTimersAnnotation(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		value   string
		want    api.Timers // with the defaults
		problem string
	}{
		{"", api.Timers{Hold: 90 * s, Keepalive: 30 * s, Connect: s}, ""},
		{"hold=30s", api.Timers{Hold: 30 * s, Keepalive: 10 * s, Connect: s}, ""},
		{"hold=3s", api.Timers{Hold: 3 * s, Keepalive: s, Connect: s}, ""},
		{"hold=10s", api.Timers{Hold: 10 * s, Keepalive: 3 * s, Connect: s}, ""},
		{"connect=5s keepalive=1s  hold=1m", api.Timers{Hold: 60 * s, Keepalive: s, Connect: 5 * s}, ""},
		{"keepalive=30s", api.Timers{Hold: 90 * s, Keepalive: 30 * s, Connect: s}, ""},
		{"hold=65535s connect=5m", api.Timers{Hold: 65535 * s, Keepalive: 21845 * s, Connect: 300 * s}, ""},
		{"hold=0", api.Timers{}, "hold 0s would never find a dead peer: want 3s to 18h12m15s"},
		{"hold=2s", api.Timers{}, "hold 2s: want 3s to 18h12m15s"},
		{"hold=65536s", api.Timers{}, "hold 18h12m16s: want 3s to 18h12m15s"},
		{"hold=-9s", api.Timers{}, "hold -9s: want 1s or more"},
		{"hold=3500ms", api.Timers{}, "hold 3.5s: want whole seconds"},
		{"keepalive=31s", api.Timers{}, "keepalive 31s: want at most a third of the hold time, which is 1m30s"},
		{"keepalive=0s", api.Timers{}, "keepalive 0s: want 1s or more"},
		{"hold=9s keepalive=4s", api.Timers{}, "keepalive 4s: want at most a third of the hold time, which is 9s"},
		{"connect=301s", api.Timers{}, "connect 5m1s: want 1s to 5m0s"},
		{"fast", api.Timers{}, `"fast": want one or more of hold, keepalive and connect, as in "hold=30s keepalive=10s connect=5s"`},
		{"hold=90", api.Timers{}, `"hold=90": want one or more of hold, keepalive and connect, as in "hold=30s keepalive=10s connect=5s"`},
		{"hold=30s hold=60s", api.Timers{}, "hold is given twice"},
		{"retry=3s", api.Timers{}, `"retry=3s": want one or more of hold, keepalive and connect, as in "hold=30s keepalive=10s connect=5s"`},
	} {
		got, err := api.ParseTimers(tt.value)
		switch {
		case tt.problem != "":
			if err == nil || err.Error() != tt.problem {
				t.Errorf("%q: %v, want the problem %s", tt.value, err, tt.problem)
			}
		case err != nil || got.OrDefault() != tt.want:
			t.Errorf("%q: %v, %v; want %v", tt.value, got.OrDefault(), err, tt.want)
		}
	}
}

func TestLongLivedAnnotation(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "off": 0, "1s": time.Second, "1h30m": 90 * time.Minute, "16777215s": 16777215 * time.Second} {
		if got, err := api.ParseLongLived(value); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", value, got, err, want)
		}
	}
	for _, value := range []string{"on", "3600", "0s", "-1s", "1500ms", "16777216s"} {
		if got, err := api.ParseLongLived(value); err == nil {
			t.Errorf("%q is taken for %v", value, got)
		}
	}
}

func TestWrongSessionAnnotationIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{api.AnnotationTimers, "hold=1s", `metadata.annotations[tortie/timers]: "hold=1s": hold 1s: want 3s to 18h12m15s`},
		{api.AnnotationLongLived, "long", `metadata.annotations[tortie/long-lived-restart]: "long": want off, or a time as in "1h30m"`},
		{api.AnnotationAddPath, "yes", `metadata.annotations[tortie/add-path]: "yes": want on or off`},
	} {
		peer, conf, other := v3.NewBGPPeer(), v3.NewBGPConfiguration(), v3.NewBGPConfiguration()
		peer.Name, peer.Spec.PeerIP, peer.Spec.ASNumber = "p", "192.0.2.1", 64512
		conf.Name, other.Name = "default", "node.node1"
		for o, want := range map[api.Object]string{
			peer: tt.want, conf: tt.want, other: "metadata.annotations[" + tt.name + "]: can only be set in the BGPConfiguration named default",
		} {
			o.SetAnnotations(map[string]string{tt.name: tt.value})
			if err := api.NewRegistry().Validate(o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %s: %v, want %s", tt.name, o.GetName(), err, want)
			}
		}
	}
}

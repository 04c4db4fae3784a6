package api_test

import (
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

func TestBFDAnnotation(t *testing.T) {
	const want = `want on, off, or an interval and a multiplier as in "300ms x 3"`
	for _, tt := range []struct {
		value   string
		want    api.BFD
		problem string
	}{
		{"", api.BFD{}, ""},
		{"off", api.BFD{}, ""},
		{"on", api.BFD{Interval: 300 * time.Millisecond, Multiplier: 3}, ""},
		{"300ms x 3", api.BFD{Interval: 300 * time.Millisecond, Multiplier: 3}, ""},
		{"1sx5", api.BFD{Interval: time.Second, Multiplier: 5}, ""},
		{"50ms x 255", api.BFD{Interval: 50 * time.Millisecond, Multiplier: 255}, ""},
		{"true", api.BFD{}, want},
		{"300 x 3", api.BFD{}, want},
		{"300ms", api.BFD{}, want},
		{"300ms x three", api.BFD{}, want},
		{"300ms x 256", api.BFD{}, "multiplier 256: want 2 to 255"},
		{"49ms x 3", api.BFD{}, "interval 49ms: want 50ms to 1m0s"},
		{"61s x 3", api.BFD{}, "interval 1m1s: want 50ms to 1m0s"},
		{"300.0001ms x 3", api.BFD{}, "interval 300.0001ms: want whole microseconds"},
		{"300ms x 1", api.BFD{}, "multiplier 1: want 2 to 255"},
	} {
		got, err := api.ParseBFD(tt.value)
		if got != tt.want || tt.problem == "" && err != nil || tt.problem != "" && (err == nil || err.Error() != tt.problem) {
			t.Errorf("%q: %v, %v; want %v, %q", tt.value, got, err, tt.want, tt.problem)
		}
		if again, err := api.ParseBFD(got.String()); err != nil || again != got {
			t.Errorf("%v is written %q, which is read as %v, %v", got, got, again, err)
		}
	}
}

func TestWrongBFDIsRefused(t *testing.T) {
	annotations := map[string]string{api.AnnotationBFD: "fast"}
	peer, conf, other := v3.NewBGPPeer(), v3.NewBGPConfiguration(), v3.NewBGPConfiguration()
	peer.Name, peer.Spec.PeerIP, peer.Spec.ASNumber = "p", "192.0.2.1", 64512
	conf.Name, other.Name = "default", "node.node1"
	const problem = `metadata.annotations[tortie/bfd]: "fast": want on, off, or an interval`
	for _, tt := range []struct {
		o    api.Object
		want string
	}{
		{peer, problem},
		{conf, problem},
		{other, `metadata.annotations[tortie/bfd]: can only be set in the BGPConfiguration named default`},
	} {
		if err := api.NewRegistry().Validate(tt.o); err != nil {
			t.Fatalf("without the annotation: %v", err)
		}
		tt.o.SetAnnotations(annotations)
		if err := api.NewRegistry().Validate(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.o.GetName(), err, tt.want)
		}
	}
}

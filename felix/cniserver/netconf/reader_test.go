package netconf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestReaderReadsAsParseDoes(t *testing.T) {
	var r Reader
	conf := func(mtu int) []byte {
		return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"n","type":"calico","mtu":%d,"ipam":{"type":"calico-ipam"}}`, mtu)
	}
	withResult := []byte(`{"cniVersion":"1.1.0","name":"n","type":"calico","ipam":{"type":"calico-ipam"},"prevResult":{"cniVersion":"1.1.0"}}`)
	refused := []byte(`{"cniVersion":"1.1.0","name":"n","type":"calico","ipam":{"type":"a/b"}}`)
	for range 3 {
		inputs := append([][]byte{withResult, refused}, ofContainers()...)
		for mtu := range 2 * remembered {
			inputs = append(inputs, conf(1280+mtu), conf(1280))
		}
		for _, raw := range inputs {
			for _, plugin := range []string{"calico", IPAMCalico} {
				want, wantErr := Parse(plugin, raw)
				got, err := r.Parse(plugin, raw)
				if diff := cmp.Diff(want, got, sameAddr); diff != "" || (err == nil) != (wantErr == nil) {
					t.Fatalf("%s %s (-Parse +Reader): %v, %v\n%s", plugin, raw, wantErr, err, diff)
				}
			}
		}
	}
	if len(r.last) > remembered {
		t.Errorf("%d are remembered, want %d at most", len(r.last), remembered)
	}
	for _, l := range r.last {
		if l.conf.PrevResult != nil {
			t.Error("a configuration of one pod is remembered")
		}
	}
}

func TestReaderKeepsItsOwnCopy(t *testing.T) {
	var r Reader
	raw := []byte(`{"cniVersion":"1.1.0","name":"one","type":"calico","ipam":{"type":"calico-ipam"}}`)
	if _, err := r.Parse("calico", raw); err != nil {
		t.Fatal(err)
	}
	copy(raw[len(`{"cniVersion":"1.1.0","name":"`):], "two")
	if c, err := r.Parse("calico", raw); err != nil || c.Name != "two" {
		t.Errorf("name %q, %v", c.Name, err)
	}
}

// ofContainers are configurations that differ in what the runtime says, also where it
// can't be.
func ofContainers() (all [][]byte) {
	for _, runtime := range []string{
		`{"mac":"02:00:00:00:00:01","ips":["10.0.0.1"]}`, `{}`, `null`, `{"portMappings":[{"hostPort":80,"containerPort":8080}]}`,
		`{"dns":{"nameservers":["192.0.2.1"]}}`, `{"bandwidth":{"ingressRate":100000}}`, `{"bandwidth":{"ingressRate":1}}`, `{"mac":"x"}`, `5`,
		`{"io.kubernetes.cri.pod-annotations":{"a":"b"}}`, `{},"mtu":1400`, `{"mac":"02:00:00:00:00:01"},"runtimeConfig":{}`, ``, `{`,
	} {
		all = append(all, fmt.Appendf(nil, `{"args":{"cni":{"ips":["10.0.0.9"]}},"capabilities":{"bandwidth":true},"cniVersion":"1.1.0","dns":{"domain":"d"},"ipam":{"type":"calico-ipam"},"name":"n","runtimeConfig":%s,"type":"calico"}`, runtime))
	}
	return all
}

// TestReaderKnowsAConfigurationWhateverTheRuntimeSays: also pods with annotations take
// the short way.
func TestReaderKnowsAConfigurationWhateverTheRuntimeSays(t *testing.T) {
	var r Reader
	for i := range 20 {
		raw := fmt.Appendf(nil, `{"cniVersion":"1.1.0","ipam":{"type":"calico-ipam"},"name":"n","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"seen":"%d"}},"type":"calico"}`, i)
		c, err := r.Parse("calico", raw)
		if err != nil || c.Annotations["seen"] != fmt.Sprint(i) {
			t.Fatalf("%v, %v", c.Annotations, err)
		}
	}
	if len(r.last) != 1 {
		t.Errorf("%d configurations are remembered", len(r.last))
	}
}

// FuzzReader has what is read after one configuration be what Parse reads.
func FuzzReader(f *testing.F) {
	for _, raw := range ofContainers() {
		f.Add(raw)
	}
	first := ofContainers()[0]
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r Reader
		if _, err := r.Parse("calico", first); err != nil {
			t.Fatal(err)
		}
		want, wantErr := Parse("calico", raw)
		got, err := r.Parse("calico", raw)
		if diff := cmp.Diff(want, got, sameAddr); diff != "" || (err == nil) != (wantErr == nil) {
			t.Errorf("%s (-Parse +Reader): %v, %v\n%s", raw, wantErr, err, diff)
		}
	})
}

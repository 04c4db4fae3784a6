package netconf

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReaderReadsAsParseDoes(t *testing.T) {
	var r Reader
	conf := func(mtu int) []byte {
		return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"n","type":"calico","mtu":%d,"ipam":{"type":"calico-ipam"}}`, mtu)
	}
	withResult := []byte(`{"cniVersion":"1.1.0","name":"n","type":"calico","ipam":{"type":"calico-ipam"},"prevResult":{"cniVersion":"1.1.0"}}`)
	refused := []byte(`{"cniVersion":"1.1.0","name":"n","type":"calico","ipam":{"type":"a/b"}}`)
	for range 3 {
		inputs := [][]byte{withResult, refused}
		for mtu := range 2 * remembered {
			inputs = append(inputs, conf(1280+mtu), conf(1280))
		}
		for _, raw := range inputs {
			for _, plugin := range []string{"calico", IPAMCalico} {
				want, wantErr := Parse(plugin, raw)
				got, err := r.Parse(plugin, raw)
				if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (wantErr == nil) {
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

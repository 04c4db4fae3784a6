package api_test

import (
	"testing"

	"tortie/internal/api"
)

// TestDSCPIsANumberOrAName: upstream writes either, and both are kept as they are.
func TestDSCPIsANumberOrAName(t *testing.T) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: "n-k8s-p-eth0"}
	for text, want := range map[string]uint8{`46`: 46, `"EF"`: 46, `"46"`: 46, `"AF11"`: 10, `0`: 0} {
		stored := `{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"n-k8s-p-eth0","namespace":"ns1"},` +
			`"spec":{"orchestrator":"k8s","node":"n","pod":"p","endpoint":"eth0","qosControls":{"dscp":` + text + `}}}`
		obj, unknown, err := reg.Decode(key, []byte(stored))
		if err != nil {
			t.Fatal(err)
		}
		q := obj.(*api.WorkloadEndpoint).Spec.QoSControls
		if q == nil || q.DSCP == nil || q.DSCP.ToUint8() != want {
			t.Errorf("%s: %+v", text, q)
		}
		if _, err := reg.Encode(obj, unknown); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	a, b := &api.QoSControls{IngressBandwidth: 1}, &api.QoSControls{IngressBandwidth: 2}
	if a.Equal(b) || a.Equal(nil) || !a.Equal(a) || !(*api.QoSControls)(nil).Equal(nil) {
		t.Error("limits are compared wrong")
	}
}

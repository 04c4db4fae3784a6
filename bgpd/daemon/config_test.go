package daemon

import (
	"maps"
	"testing"
)

func TestAddressesOfProbesAndMetricsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"both":          {map[string]string{"BGPD_HEALTH_ADDRESS": "localhost:9097", "BGPD_METRICS_ADDRESS": "[::1]:9098"}, ""},
		"a bare port":   {map[string]string{"BGPD_METRICS_ADDRESS": "9098"}, `BGPD_METRICS_ADDRESS "9098": want host:port, such as localhost:9097`},
		"no port":       {map[string]string{"BGPD_HEALTH_ADDRESS": "localhost"}, `BGPD_HEALTH_ADDRESS "localhost": want host:port, such as localhost:9097`},
		"neither, none": {nil, ""},
	} {
		env := map[string]string{"NODENAME": "node1", "ETCD_ENDPOINTS": "http://127.0.0.1:2379"}
		maps.Copy(env, c.env)
		cfg, err := Load(func(k string) string { return env[k] }, "v")
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want || err == nil && (cfg.MetricsAddress != c.env["BGPD_METRICS_ADDRESS"] || cfg.HealthAddress != c.env["BGPD_HEALTH_ADDRESS"]) {
			t.Errorf("%s: %+v, %q; want %q", name, cfg, got, c.want)
		}
	}
}

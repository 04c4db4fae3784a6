package config

import (
	"strings"
	"testing"
)

func TestUpstreamsVariablesAreFineToldOrRefused(t *testing.T) {
	for _, tc := range []struct {
		name, value string
		says        string // "" for nothing
		refused     bool
	}{
		{"CLUSTER_TYPE", "k8s,bgp", "", false},
		{"WAIT_FOR_DATASTORE", "true", "", false},
		{"CALICO_DISABLE_FILE_LOGGING", "True", "", false},
		{"CALICO_DISABLE_FILE_LOGGING", "false", "has no effect: logs go to standard error only", false},
		{"CALICO_STARTUP_LOGLEVEL", "error", "set FELIX_LOGSEVERITYSCREEN", false},
		{"BGP_LOGSEVERITYSCREEN", "debug", "set BGPD_LOG_LEVEL", false},
		{"CALICO_ROUTER_ID", "192.0.2.1", "is not supported", true},
		{"CALICO_ROUTER_ID", "hash", "", false},
		{"USE_POD_CIDR", "true", "is not supported", true},
		{"USE_POD_CIDR", "false", "", false},
		{"CALICO_ADVERTISE_CLUSTER_IPS", "10.96.0.0/12", "serviceClusterIPs", true},
		{"NODENAME", "a", "", false},
	} {
		problems := FromUpstream(func(name string) string {
			if name == tc.name {
				return tc.value
			}
			return ""
		})
		if tc.says == "" && len(problems) > 0 {
			t.Errorf("%s=%s: %v", tc.name, tc.value, problems)
		}
		if tc.says != "" && (len(problems) != 1 || problems[0].Bad != tc.refused ||
			!strings.Contains(problems[0].String(), tc.says) || !strings.HasPrefix(problems[0].String(), "environment: "+tc.name+"="+tc.value+": ")) {
			t.Errorf("%s=%s: %v, want %q", tc.name, tc.value, problems, tc.says)
		}
	}
}

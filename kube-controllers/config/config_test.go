package config

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func load(vars ...string) (Config, error) {
	env := map[string]string{"ETCD_ENDPOINTS": "http://a:1"}
	for i := 0; i < len(vars); i += 2 {
		env[vars[i]] = vars[i+1]
	}
	return Load(func(name string) string { return env[name] })
}

func TestDefaults(t *testing.T) {
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Enabled, Controllers()) || cfg.LogLevel != nil || cfg.SyncNodeLabels != nil || !cfg.Health || cfg.MetricsPort != 9094 || len(cfg.Warnings) > 0 {
		t.Errorf("%+v", cfg)
	}
}

func TestUpstreamsNamesDoWhatTheyDid(t *testing.T) {
	cfg, err := load("ENABLED_CONTROLLERS", "node, profile,policy", "LOG_LEVEL", "Warning", "SYNC_NODE_LABELS", "false",
		"PROFILE_WORKERS", "3", "HEALTH_ENABLED", "false", "DATASTORE_TYPE", "etcdv3", "COMPACTION_PERIOD", "10m", "RECONCILER_PERIOD", "0", "AUTO_HOST_ENDPOINTS", "disabled")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Enabled, []Controller{Namespace, Node, Policy}) || *cfg.LogLevel != slog.LevelWarn || *cfg.SyncNodeLabels || cfg.ProfileWorkers != 3 || cfg.Health {
		t.Errorf("%+v", cfg)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "COMPACTION_PERIOD=10m has no effect") {
		t.Errorf("%v", cfg.Warnings)
	}
}

func TestRefusedByName(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"ENABLED_CONTROLLERS", "node,polcy", `did you mean "policy"?`},
		{"ENABLED_CONTROLLERS", "flannelmigration", `"flannelmigration" of upstream is not part`},
		{"ENABLED_CONTROLLERS", "node,", `there is no controller ""`},
		{"LOG_LEVEL", "loud", "want debug"},
		{"SYNC_NODE_LABELS", "maybe", "want true or false"},
		{"POLICY_WORKERS", "0", "from 1 to 64"},
		{"COMPACTION_PERIOD", "often", "want a duration"},
		{"AUTO_HOST_ENDPOINTS", "enabled", "host endpoints are not made"},
		{"DATASTORE_TYPE", "kubernetes", "kubernetes is not supported"},
	} {
		_, err := load(tc.name, tc.value)
		if err == nil || !strings.Contains(err.Error(), tc.name) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s=%s: %v, want %q", tc.name, tc.value, err, tc.want)
		}
	}
}

package daemon

import (
	"log/slog"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/kube-controllers/config"
	"tortie/kube-controllers/state"
)

// defaultLeakGrace is upstream's default of leakGracePeriod.
const defaultLeakGrace = 15 * time.Minute

// settings are what KubeControllersConfiguration decides, as it is now.
type settings struct {
	cfg   config.Config
	cache *state.Cache
}

func settingsKey() api.Key {
	return api.Key{Kind: api.KindKubeControllersConfiguration, Name: "default"}
}

func (s settings) spec() v3.KubeControllersConfigurationSpec {
	if e, ok := s.cache.Get(settingsKey()); ok {
		if k, ok := e.Object.(*v3.KubeControllersConfiguration); ok {
			return k.Spec
		}
	}
	return v3.KubeControllersConfigurationSpec{}
}

// syncLabels says whether labels of nodes are copied.
func (s settings) syncLabels() bool {
	if s.cfg.SyncNodeLabels != nil {
		return *s.cfg.SyncNodeLabels
	}
	node := s.spec().Controllers.Node
	return node == nil || node.SyncLabels != v3.Disabled
}

// leakGrace is how long an address must seem to be nobody's before it is released;
// 0 for never.
func (s settings) leakGrace() time.Duration {
	if node := s.spec().Controllers.Node; node != nil && node.LeakGracePeriod != nil {
		return node.LeakGracePeriod.Duration
	}
	return defaultLeakGrace
}

// assignIPs says which services get an address by themselves.
func (s settings) assignIPs() v3.AssignIPs {
	if balancer := s.spec().Controllers.LoadBalancer; balancer != nil && balancer.AssignIPs != "" {
		return balancer.AssignIPs
	}
	return v3.AllServices
}

// follow applies the log level whenever it changes, and names what is asked for
// and not done.
func (s settings) follow(level *slog.LevelVar, log *slog.Logger) {
	s.cache.Watch(api.KindKubeControllersConfiguration, func(_, _ *datastore.Entry, key api.Key) {
		if key != settingsKey() {
			return
		}
		spec := s.spec()
		if s.cfg.LogLevel == nil {
			l, _ := config.ParseLevel(spec.LogSeverityScreen)
			level.Set(l)
		}
		if node := spec.Controllers.Node; node != nil && node.HostEndpoint != nil && node.HostEndpoint.AutoCreate == v3.Enabled {
			log.Warn("host endpoints are not made by this program", "key", key, "field", "spec.controllers.node.hostEndpoint.autoCreate")
		}
	})
}

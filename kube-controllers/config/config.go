// Package config reads what kube-controllers is told by its environment, with
// upstream's names. What it can't do is refused by name.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"tortie/internal/datastore"
	"tortie/internal/suggest"
)

// Controller names a controller as ENABLED_CONTROLLERS does.
type Controller string

// The controllers.
const (
	Node             Controller = "node"
	Namespace        Controller = "namespace"
	ServiceAccount   Controller = "serviceaccount"
	Policy           Controller = "policy"
	WorkloadEndpoint Controller = "workloadendpoint"
	Service          Controller = "service"      // not upstream's: there each node watches Services itself
	LoadBalancer     Controller = "loadbalancer" // it does nothing while no IP pool is for load balancers
	AutoTopology     Controller = "autotopology" // nor this; it does nothing until calicoctl bgp auto-topology switches it on
)

// Controllers are all controllers.
func Controllers() []Controller {
	return []Controller{AutoTopology, LoadBalancer, Namespace, Node, Policy, Service, ServiceAccount, WorkloadEndpoint}
}

// Config is what the environment says.
type Config struct {
	Datastore datastore.Config
	// Kubeconfig is a file; empty for the pod's own service account.
	Kubeconfig string
	// Enabled are the controllers to run.
	Enabled []Controller
	// LogLevel is nil when KubeControllersConfiguration decides.
	LogLevel *slog.Level
	// SyncNodeLabels is nil when KubeControllersConfiguration decides.
	SyncNodeLabels *bool
	// Workers of the controllers that can have several.
	ProfileWorkers, PolicyWorkers, WorkloadEndpointWorkers int
	// Health says whether the probes are served, MetricsPort where they and the
	// metrics are; 0 for neither.
	Health      bool
	MetricsPort int
	// LeaseNamespace is where the replicas agree on who works; empty for the pod's
	// own. Identity tells them apart.
	LeaseNamespace, Identity string
	// Warnings are one line each for what is accepted and has no effect.
	Warnings []string
}

// Load reads the environment.
func Load(getenv func(string) string) (Config, error) {
	ds, err := datastore.LoadConfig("", getenv)
	if err != nil {
		return Config{}, err
	}
	r := reader{getenv: getenv}
	cfg := Config{
		Datastore: ds, Kubeconfig: getenv("KUBECONFIG"), Enabled: r.enabled("ENABLED_CONTROLLERS"),
		LogLevel: r.level("LOG_LEVEL"), SyncNodeLabels: r.boolean("SYNC_NODE_LABELS"),
		ProfileWorkers:          r.number("PROFILE_WORKERS", 1, 1, 64),
		PolicyWorkers:           r.number("POLICY_WORKERS", 1, 1, 64),
		WorkloadEndpointWorkers: r.number("WORKLOAD_ENDPOINT_WORKERS", 4, 1, 64),
		Health:                  true,
		MetricsPort:             r.number("PROMETHEUS_METRICS_PORT", 9094, 0, 65535),
		LeaseNamespace:          getenv("LEADER_ELECTION_NAMESPACE"), Identity: getenv("POD_NAME"),
	}
	if health := r.boolean("HEALTH_ENABLED"); health != nil {
		cfg.Health = *health
	}
	r.withoutEffect("COMPACTION_PERIOD", "etcd compacts itself: set --auto-compaction-retention there")
	r.withoutEffect("RECONCILER_PERIOD", "changes on either side are followed by watches; there is no periodic pass over everything")
	if v := strings.ToLower(getenv("AUTO_HOST_ENDPOINTS")); v != "" && v != "disabled" {
		r.fail("AUTO_HOST_ENDPOINTS", v, "host endpoints are not made by this program: leave it out or set it to disabled")
	}
	cfg.Warnings = r.warnings
	return cfg, errors.Join(r.errs...)
}

// reader reads variables and gathers what is wrong with them.
type reader struct {
	getenv   func(string) string
	errs     []error
	warnings []string
}

func (r *reader) fail(name, value, want string) {
	r.errs = append(r.errs, fmt.Errorf("environment: %s=%q: %s", name, value, want))
}

func (r *reader) enabled(name string) []Controller {
	list := r.getenv(name)
	if list == "" {
		return Controllers()
	}
	var names []string
	for _, c := range Controllers() {
		names = append(names, string(c))
	}
	var out []Controller
	for word := range strings.SplitSeq(list, ",") {
		word = strings.TrimSpace(word)
		switch c := Controller(word); {
		case word == "profile": // upstream's older name
			out = append(out, Namespace)
		case slices.Contains(Controllers(), c):
			out = append(out, c)
		case word == "flannelmigration" || word == "migration":
			r.fail(name, list, fmt.Sprintf("the controller %q of upstream is not part of this program: leave it out", word))
		default:
			meant := ""
			if near := suggest.Nearest(word, names); near != "" {
				meant = fmt.Sprintf(" (did you mean %q?)", near)
			}
			r.fail(name, list, fmt.Sprintf("there is no controller %q%s; there are %s", word, meant, strings.Join(names, ", ")))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (r *reader) level(name string) *slog.Level {
	text := r.getenv(name)
	if text == "" {
		return nil
	}
	level, ok := ParseLevel(text)
	if !ok {
		r.fail(name, text, "want debug, info, warning, error or fatal")
	}
	return &level
}

// ParseLevel reads a log level in upstream's words, in any case.
func ParseLevel(text string) (level slog.Level, ok bool) {
	switch strings.ToLower(text) {
	case "trace", "debug":
		return slog.LevelDebug, true
	case "info", "":
		return slog.LevelInfo, true
	case "warn", "warning":
		return slog.LevelWarn, true
	case "error", "fatal", "panic":
		return slog.LevelError, true
	}
	return slog.LevelInfo, false
}

func (r *reader) boolean(name string) *bool {
	text := r.getenv(name)
	if text == "" {
		return nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		r.fail(name, text, "want true or false")
	}
	return &value
}

func (r *reader) number(name string, otherwise, least, most int) int {
	text := r.getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		r.fail(name, text, fmt.Sprintf("want a number from %d to %d", least, most))
	}
	return n
}

// withoutEffect accepts a duration that changes nothing. That is said, unless it
// asks for nothing.
func (r *reader) withoutEffect(name, because string) {
	text := r.getenv(name)
	if text == "" {
		return
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.fail(name, text, "want a duration such as 10m")
	case d != 0:
		r.warnings = append(r.warnings, fmt.Sprintf("%s=%s has no effect: %s", name, text, because))
	}
}

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"

	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
)

// The paths used unless the environment says otherwise.
const (
	DefaultLock  = "/var/run/calico/bgpd.lock"
	nodenameFile = "/var/lib/calico/nodename"
)

// Config is what the environment of the process says.
type Config struct {
	// Node is this node's name: NODENAME, else the content of
	// /var/lib/calico/nodename, else the host's name.
	Node string
	// Socket is where the status service listens (BGPD_SOCKET).
	Socket string
	// Lock is held so that a node has one bgpd (BGPD_LOCK).
	Lock string
	// LogLevel is the least level logged (BGPD_LOG_LEVEL: debug, info, warn, error).
	LogLevel slog.Level
	// Off is the setting by which this node speaks no BGP: CALICO_NETWORKING_BACKEND
	// none or vxlan. Empty when it does.
	Off string
	// HealthAddress is host:port of /liveness and /readiness (BGPD_HEALTH_ADDRESS);
	// empty for none.
	HealthAddress string
	// MetricsAddress is host:port of Prometheus' /metrics (BGPD_METRICS_ADDRESS), which may
	// be HealthAddress; empty for none.
	MetricsAddress string
	// PasswordDir is where passwords are as files (BGPD_PASSWORD_DIR); without it they
	// are Secrets of Kubernetes.
	PasswordDir string
	// Kubeconfig says which API server (KUBECONFIG); empty for that of the pod.
	Kubeconfig string
	Datastore  datastore.Config
	Version    string
}

// Load reads the configuration.
func Load(getenv func(string) string, version string) (Config, error) {
	cfg := Config{
		Socket: or(getenv("BGPD_SOCKET"), nodestatus.DefaultSocket), Lock: or(getenv("BGPD_LOCK"), DefaultLock),
		Version: version, HealthAddress: getenv("BGPD_HEALTH_ADDRESS"),
		PasswordDir: getenv("BGPD_PASSWORD_DIR"), Kubeconfig: getenv("KUBECONFIG"),
		MetricsAddress: getenv("BGPD_METRICS_ADDRESS"),
	}
	if level := getenv("BGPD_LOG_LEVEL"); level != "" {
		if err := cfg.LogLevel.UnmarshalText([]byte(level)); err != nil {
			return Config{}, fmt.Errorf("BGPD_LOG_LEVEL %q: want debug, info, warn or error", level)
		}
	}
	var err error
	if cfg.Off, err = off(getenv("CALICO_NETWORKING_BACKEND")); err != nil {
		return Config{}, err
	}
	for name, address := range map[string]string{"BGPD_HEALTH_ADDRESS": cfg.HealthAddress, "BGPD_METRICS_ADDRESS": cfg.MetricsAddress} {
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			return Config{}, fmt.Errorf("%s %q: want host:port, such as localhost:9097", name, address)
		}
	}
	if cfg.Node, err = nodeName(getenv("NODENAME")); err != nil {
		return Config{}, err
	}
	cfg.Datastore, err = datastore.LoadConfig("", getenv)
	return cfg, err
}

// off is empty where the backend of pods' routes is BGP. Upstream's name for that is
// the program it has for it.
func off(backend string) (string, error) {
	switch backend {
	case "", "bird":
		return "", nil
	case "vxlan", "none":
		return "CALICO_NETWORKING_BACKEND=" + backend, nil
	}
	return "", fmt.Errorf("CALICO_NETWORKING_BACKEND %q: want bird (BGP), vxlan or none", backend)
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func nodeName(env string) (string, error) {
	if env != "" {
		return checkNodeName("NODENAME", env)
	}
	text, err := os.ReadFile(nodenameFile)
	if err == nil {
		return checkNodeName(nodenameFile, strings.TrimSpace(string(text)))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the node's name: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find the node's name: %w; set NODENAME", err)
	}
	return checkNodeName("host name", strings.ToLower(strings.TrimSpace(host)))
}

func checkNodeName(source, name string) (string, error) {
	if name == "" || strings.ContainsAny(name, "/ \t\n") {
		return "", fmt.Errorf("%s %q is not a node name: want the name of a Node resource, as in `calicoctl get nodes`", source, name)
	}
	return name, nil
}

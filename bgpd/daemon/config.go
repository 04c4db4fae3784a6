package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	// Off is why BGP is off on this node, as CALICO_NETWORKING_BACKEND says it; empty
	// when it is on.
	Off       string
	Datastore datastore.Config
	Version   string
}

// Load reads the configuration.
func Load(getenv func(string) string, version string) (Config, error) {
	cfg := Config{
		Socket: or(getenv("BGPD_SOCKET"), nodestatus.DefaultSocket), Lock: or(getenv("BGPD_LOCK"), DefaultLock),
		Version: version,
	}
	if level := getenv("BGPD_LOG_LEVEL"); level != "" {
		if err := cfg.LogLevel.UnmarshalText([]byte(level)); err != nil {
			return Config{}, fmt.Errorf("BGPD_LOG_LEVEL %q: want debug, info, warn or error", level)
		}
	}
	switch backend := getenv("CALICO_NETWORKING_BACKEND"); backend {
	case "", "bird":
	case "vxlan", "none":
		cfg.Off = "BGP is off on this node: CALICO_NETWORKING_BACKEND is " + backend
	default:
		return Config{}, fmt.Errorf("CALICO_NETWORKING_BACKEND %q: want bird for BGP, or vxlan or none for a node without it", backend)
	}
	var err error
	if cfg.Node, err = nodeName(getenv("NODENAME")); err != nil {
		return Config{}, err
	}
	cfg.Datastore, err = datastore.LoadConfig("", getenv)
	return cfg, err
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

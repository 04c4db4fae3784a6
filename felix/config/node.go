package config

import (
	"fmt"
	"os"
	"strings"
)

// DefaultNodeNameFile is where the node's name stands when the environment has
// none.
const DefaultNodeNameFile = "/var/lib/calico/nodename"

// NodeName is this node's name: FELIX_FELIXHOSTNAME, NODENAME, the content of
// file, or the host's name, the first there is. Names of the first two forms are
// checked: a node's name is one segment of a datastore key.
func NodeName(getenv func(string) string, file string) (string, error) {
	for _, variable := range []string{"FELIX_FELIXHOSTNAME", "NODENAME"} {
		if name := getenv(variable); name != "" {
			return name, checkNodeName(variable, name)
		}
	}
	if f := getenv("CALICO_NODENAME_FILE"); f != "" {
		file = f
	}
	raw, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(raw)) != "" {
		name := strings.TrimSpace(string(raw))
		return name, checkNodeName(file, name)
	}
	if err != nil && !os.IsNotExist(err) {
		return "", fmt.Errorf("read the node's name: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("read the node's name: %w; set NODENAME", err)
	}
	name = strings.ToLower(name)
	return name, checkNodeName("host name", name)
}

func checkNodeName(source, name string) error {
	for _, r := range name {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' || r >= 'A' && r <= 'Z' {
			continue
		}
		return fmt.Errorf("%s: node name %q has the character %q; want letters, digits, dots and hyphens", source, name, r)
	}
	return nil
}

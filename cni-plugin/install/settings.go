package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// settings say what to install and where, in the words of upstream's installer.
type settings struct {
	// source is the folder of the plugins in the image.
	source string
	// binDir and netDir are the host's folders as they are mounted here.
	binDir, netDir string
	// netDirOnHost is netDir by the host's own path, for messages.
	netDirOnHost string
	confName     string
	config       []byte
	skip         map[string]bool // plugins that are not to be installed
	overwrite    bool
}

// The places in the container and in the image.
const (
	defaultSource = "/opt/cni/bin"
	defaultBinDir = "/host/opt/cni/bin"
	defaultNetDir = "/host/etc/cni/net.d"
)

// fromEnv reads the settings. An error names the variable and what it wants.
func fromEnv(getenv func(string) string) (settings, error) {
	text := func(name, otherwise string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	s := settings{
		source: text("CNI_SOURCE_DIR", defaultSource), binDir: text("CNI_HOST_BIN_DIR", defaultBinDir), netDir: text("CNI_HOST_NET_DIR", defaultNetDir),
		netDirOnHost: text("CNI_NET_DIR", "/etc/cni/net.d"), confName: text("CNI_CONF_NAME", "10-calico.conflist"),
		skip: map[string]bool{}, overwrite: true,
	}
	for _, name := range strings.Split(getenv("SKIP_CNI_BINARIES"), ",") {
		s.skip[strings.TrimSpace(name)] = true
	}
	if v := getenv("UPDATE_CNI_BINARIES"); v != "" {
		var err error
		if s.overwrite, err = strconv.ParseBool(v); err != nil {
			return s, fmt.Errorf("UPDATE_CNI_BINARIES=%q: want true or false", v)
		}
	}
	if filepath.Base(s.confName) != s.confName || filepath.Ext(s.confName) != ".conflist" {
		return s, fmt.Errorf("CNI_CONF_NAME=%q: want the name of a file that ends in .conflist", s.confName)
	}
	return s, s.readConfig(getenv)
}

// readConfig takes the conflist of CNI_NETWORK_CONFIG_FILE or CNI_NETWORK_CONFIG
// and fills in what only the node knows.
func (s *settings) readConfig(getenv func(string) string) error {
	variable, raw := "CNI_NETWORK_CONFIG", []byte(getenv("CNI_NETWORK_CONFIG"))
	if path := getenv("CNI_NETWORK_CONFIG_FILE"); path != "" {
		variable = "CNI_NETWORK_CONFIG_FILE"
		var err error
		if raw, err = os.ReadFile(path); err != nil {
			return fmt.Errorf("%s: %w", variable, err)
		}
	}
	if len(raw) == 0 {
		return errors.New("CNI_NETWORK_CONFIG: missing; give the conflist, or its path in CNI_NETWORK_CONFIG_FILE")
	}
	for placeholder, name := range map[string]string{
		"__KUBERNETES_NODE_NAME__": "KUBERNETES_NODE_NAME", "__CNI_MTU__": "CNI_MTU", "__LOG_LEVEL__": "LOG_LEVEL",
	} {
		if !bytes.Contains(raw, []byte(placeholder)) {
			continue
		}
		value := getenv(name)
		if value == "" {
			return fmt.Errorf("%s contains %s, but %s is not set", variable, placeholder, name)
		}
		raw = bytes.ReplaceAll(raw, []byte(placeholder), []byte(value))
	}
	s.config = raw
	if err := checkConflist(raw); err != nil {
		return fmt.Errorf("%s: %w", variable, err)
	}
	return nil
}

// checkConflist refuses what a runtime would refuse, at a time when nothing has
// been replaced by it.
func checkConflist(raw []byte) error {
	var list struct {
		Name       string `json:"name"`
		CNIVersion string `json:"cniVersion"`
		Plugins    []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("not a conflist in JSON: %w", err)
	}
	switch {
	case list.Name == "":
		return errors.New("the conflist has no name")
	case list.CNIVersion == "":
		return errors.New("the conflist has no cniVersion")
	case len(list.Plugins) == 0 || list.Plugins[0].Type != "calico":
		return errors.New("the first plugin of the conflist is not of type calico")
	}
	return nil
}

package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"tortie/internal/filefault"
)

// DefaultConfigPath is where calicoctl.cfg is looked for when no path is given.
// It need not exist.
const DefaultConfigPath = "/etc/calico/calicoctl.cfg"

// TypeEtcd is the only datastore type there is a backend for.
const TypeEtcd = "etcdv3"

// Config says where the datastore is and how to be let in.
type Config struct {
	// Endpoints are URLs, http or https, all of one scheme.
	Endpoints []string
	// CAFile holds the authorities that may sign etcd's certificate; with neither
	// it nor CA, those of the system.
	CAFile string
	// CertFile and KeyFile are the certificate this client shows.
	CertFile string
	KeyFile  string
	// CA, Cert and Key are the same as PEM text and win over the files.
	CA   string
	Cert string
	Key  string
	// Username and Password are for etcd's own users; both or neither.
	Username string
	Password string
}

// String names the endpoints only: a Config can't leak its secrets into a log.
func (c Config) String() string { return strings.Join(c.Endpoints, ",") }

// GoString is String.
func (c Config) GoString() string { return c.String() }

// settings are the raw values of one source. The JSON names are those of
// calicoctl.cfg.
type settings struct {
	DatastoreType string `json:"datastoreType"`
	Endpoints     string `json:"etcdEndpoints"`
	DiscoverySRV  string `json:"etcdDiscoverySrv"`
	Username      string `json:"etcdUsername"`
	Password      string `json:"etcdPassword"`
	KeyFile       string `json:"etcdKeyFile"`
	CertFile      string `json:"etcdCertFile"`
	CAFile        string `json:"etcdCACertFile"`
	Key           string `json:"etcdKey"`
	Cert          string `json:"etcdCert"`
	CA            string `json:"etcdCACert"`

	// setBy has the variables that set something, by their names without CALICO_.
	setBy map[string]string
}

// variables lists the settings with the environment variables that set them.
// Each is also read with the prefix CALICO_, which wins.
func (s *settings) variables() map[string]*string {
	return map[string]*string{
		"DATASTORE_TYPE":     &s.DatastoreType,
		"ETCD_ENDPOINTS":     &s.Endpoints,
		"ETCD_DISCOVERY_SRV": &s.DiscoverySRV,
		"ETCD_USERNAME":      &s.Username,
		"ETCD_PASSWORD":      &s.Password,
		"ETCD_KEY_FILE":      &s.KeyFile,
		"ETCD_CERT_FILE":     &s.CertFile,
		"ETCD_CA_CERT_FILE":  &s.CAFile,
		"ETCD_KEY":           &s.Key,
		"ETCD_CERT":          &s.Cert,
		"ETCD_CA_CERT":       &s.CA,
	}
}

// LoadConfig reads how to reach the datastore from a calicoctl.cfg and from the
// environment, with upstream's names.
//
// A path that was asked for must exist and is used alone, as upstream does. With
// an empty path, or DefaultConfigPath itself, the file may be absent, and each
// variable that is set wins over it. (Upstream ignores the environment as soon
// as the default file exists.)
func LoadConfig(path string, getenv func(string) string) (Config, error) {
	explicit := path != "" && path != DefaultConfigPath
	if !explicit {
		path = DefaultConfigPath
	}
	return loadConfig(path, explicit, getenv)
}

func loadConfig(path string, explicit bool, getenv func(string) string) (Config, error) {
	var s settings
	source := "" // of what the environment doesn't set
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if s, err = parseConfigFile(text); err != nil {
			return Config{}, fmt.Errorf("datastore config %s: %w", path, err)
		}
		source = path
	case explicit || !errors.Is(err, fs.ErrNotExist):
		return Config{}, fmt.Errorf("datastore config: %w", filefault.Explain(err))
	}
	if !explicit {
		s.readEnvironment(getenv)
	}
	return s.config(source)
}

// readEnvironment overrides the settings by the variables that are set.
func (s *settings) readEnvironment(getenv func(string) string) {
	s.setBy = map[string]string{}
	get := func(name string) string {
		for _, variable := range []string{"CALICO_" + name, name} {
			if v := getenv(variable); v != "" {
				s.setBy[name] = variable
				return v
			}
		}
		return ""
	}
	endpointsBefore := s.Endpoints
	s.Endpoints = ""
	for name, field := range s.variables() {
		if v := get(name); v != "" {
			*field = v
		}
	}
	if s.Endpoints != "" {
		return
	}
	if authority := get("ETCD_AUTHORITY"); authority != "" {
		scheme := get("ETCD_SCHEME")
		if scheme == "" {
			scheme = "http"
		}
		s.Endpoints = scheme + "://" + authority
		return
	}
	s.Endpoints = endpointsBefore
}

// config checks the settings as a whole. file is where those come from that no
// variable set; empty when there is none. An error names the source of what is
// wrong: the first to look at, and to correct.
func (s *settings) config(file string) (Config, error) {
	fault := func(err error, variables ...string) (Config, error) {
		return Config{}, fmt.Errorf("datastore config%s: %w", s.origin(file, variables), err)
	}
	switch {
	case s.DatastoreType == "kubernetes":
		return fault(fmt.Errorf("datastore type kubernetes is not supported: set DATASTORE_TYPE=%s and ETCD_ENDPOINTS", TypeEtcd), "DATASTORE_TYPE")
	case s.DatastoreType != "" && s.DatastoreType != TypeEtcd:
		return fault(fmt.Errorf("datastore type %q: want %s", s.DatastoreType, TypeEtcd), "DATASTORE_TYPE")
	case s.DiscoverySRV != "":
		return fault(errors.New("ETCD_DISCOVERY_SRV (etcdDiscoverySrv) is not supported: list the endpoints in ETCD_ENDPOINTS"), "ETCD_DISCOVERY_SRV")
	case (s.Username == "") != (s.Password == ""):
		return fault(errors.New("ETCD_USERNAME and ETCD_PASSWORD belong together: set both or neither"), "ETCD_USERNAME", "ETCD_PASSWORD")
	case (s.CertFile == "" && s.Cert == "") != (s.KeyFile == "" && s.Key == ""):
		return fault(errors.New("ETCD_CERT_FILE and ETCD_KEY_FILE belong together: set both or neither"),
			"ETCD_CERT_FILE", "ETCD_CERT", "ETCD_KEY_FILE", "ETCD_KEY")
	}
	endpoints, err := parseEndpoints(s.Endpoints)
	if err != nil {
		return fault(err, "ETCD_ENDPOINTS", "ETCD_AUTHORITY", "ETCD_SCHEME")
	}
	return Config{
		Endpoints: endpoints,
		CAFile:    s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile,
		CA: s.CA, Cert: s.Cert, Key: s.Key,
		Username: s.Username, Password: s.Password,
	}, nil
}

// origin is " (from …)" for a setting that these variables may set: those that do,
// or else the file.
func (s *settings) origin(file string, variables []string) string {
	var from []string
	for _, name := range variables {
		if by, ok := s.setBy[name]; ok {
			from = append(from, by)
		}
	}
	switch {
	case len(from) > 0:
		return " (environment: " + strings.Join(from, ", ") + ")"
	case file != "":
		return " (" + file + ")"
	}
	return ""
}

// parseEndpoints reads a comma-separated list of URLs.
func parseEndpoints(list string) ([]string, error) {
	var endpoints []string
	scheme := ""
	for ep := range strings.SplitSeq(list, ",") {
		ep = strings.TrimRight(strings.TrimSpace(ep), "/")
		if address, plain := strings.CutPrefix(ep, "tcp://"); plain {
			ep = "http://" + address // as Kubernetes tells pods of a Service: NAME_PORT=tcp://HOST:PORT
		}
		if ep == "" {
			continue
		}
		u, err := url.Parse(ep)
		switch {
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Port() == "":
			return nil, fmt.Errorf("etcd endpoint %q: want http://HOST:PORT or https://HOST:PORT, for example http://127.0.0.1:2379", withoutUser(ep))
		case u.Path != "" || u.RawQuery != "" || u.User != nil:
			return nil, fmt.Errorf("etcd endpoint %q: want only scheme, host and port; user and password are set by ETCD_USERNAME and ETCD_PASSWORD", withoutUser(ep))
		case scheme != "" && u.Scheme != scheme:
			return nil, fmt.Errorf("etcd endpoints %q: http and https can't be mixed", withoutUser(list))
		}
		scheme = u.Scheme
		endpoints = append(endpoints, ep)
	}
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("no etcd endpoints: set ETCD_ENDPOINTS, for example ETCD_ENDPOINTS=http://127.0.0.1:2379, or etcdEndpoints in %s", DefaultConfigPath)
	}
	return endpoints, nil
}

// withoutUser leaves out what may be a password.
func withoutUser(endpoint string) string {
	if at := strings.LastIndex(endpoint, "@"); at >= 0 {
		return "…" + endpoint[at:]
	}
	return endpoint
}

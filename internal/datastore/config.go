package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
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
	source := "environment"
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if s, err = parseConfigFile(text); err != nil {
			return Config{}, fmt.Errorf("datastore config %s: %w", path, err)
		}
		source = path
	case explicit || !errors.Is(err, fs.ErrNotExist):
		return Config{}, fmt.Errorf("datastore config: %w", err)
	}
	if !explicit {
		s.readEnvironment(getenv)
	}
	cfg, err := s.config()
	if err != nil {
		return Config{}, fmt.Errorf("datastore config (%s): %w", source, err)
	}
	return cfg, nil
}

// readEnvironment overrides the settings by the variables that are set.
func (s *settings) readEnvironment(getenv func(string) string) {
	get := func(name string) string {
		if v := getenv("CALICO_" + name); v != "" {
			return v
		}
		return getenv(name)
	}
	endpointsBefore := s.Endpoints
	s.Endpoints = ""
	for name, field := range s.variables() {
		if v := get(name); v != "" {
			*field = v
		}
	}
	if authority := get("ETCD_AUTHORITY"); s.Endpoints == "" && authority != "" {
		scheme := get("ETCD_SCHEME")
		if scheme == "" {
			scheme = "http"
		}
		s.Endpoints = scheme + "://" + authority
	}
	if s.Endpoints == "" {
		s.Endpoints = endpointsBefore
	}
}

// config checks the settings as a whole.
func (s *settings) config() (Config, error) {
	switch {
	case s.DatastoreType == "kubernetes":
		return Config{}, fmt.Errorf("datastore type kubernetes is not supported: set DATASTORE_TYPE=%s and ETCD_ENDPOINTS", TypeEtcd)
	case s.DatastoreType != "" && s.DatastoreType != TypeEtcd:
		return Config{}, fmt.Errorf("datastore type %q: want %s", s.DatastoreType, TypeEtcd)
	case s.DiscoverySRV != "":
		return Config{}, fmt.Errorf("ETCD_DISCOVERY_SRV (etcdDiscoverySrv) is not supported: list the endpoints in ETCD_ENDPOINTS")
	case (s.Username == "") != (s.Password == ""):
		return Config{}, errors.New("ETCD_USERNAME and ETCD_PASSWORD belong together: set both or neither")
	case (s.CertFile == "" && s.Cert == "") != (s.KeyFile == "" && s.Key == ""):
		return Config{}, errors.New("ETCD_CERT_FILE and ETCD_KEY_FILE belong together: set both or neither")
	}
	endpoints, err := parseEndpoints(s.Endpoints)
	if err != nil {
		return Config{}, err
	}
	return Config{
		Endpoints: endpoints,
		CAFile:    s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile,
		CA: s.CA, Cert: s.Cert, Key: s.Key,
		Username: s.Username, Password: s.Password,
	}, nil
}

// parseEndpoints reads a comma-separated list of URLs.
func parseEndpoints(list string) ([]string, error) {
	var endpoints []string
	scheme := ""
	for ep := range strings.SplitSeq(list, ",") {
		ep = strings.TrimRight(strings.TrimSpace(ep), "/")
		if ep == "" {
			continue
		}
		u, err := url.Parse(ep)
		switch {
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Port() == "":
			return nil, fmt.Errorf("etcd endpoint %q: want http://HOST:PORT or https://HOST:PORT, for example http://127.0.0.1:2379", ep)
		case u.Path != "" || u.RawQuery != "" || u.User != nil:
			return nil, fmt.Errorf("etcd endpoint %q: want only scheme, host and port; user and password are set by ETCD_USERNAME and ETCD_PASSWORD", u.Redacted())
		case scheme != "" && u.Scheme != scheme:
			return nil, fmt.Errorf("etcd endpoints %q: http and https can't be mixed", list)
		}
		scheme = u.Scheme
		endpoints = append(endpoints, ep)
	}
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("no etcd endpoints: set ETCD_ENDPOINTS, for example ETCD_ENDPOINTS=http://127.0.0.1:2379, or etcdEndpoints in %s", DefaultConfigPath)
	}
	return endpoints, nil
}

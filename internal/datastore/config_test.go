package datastore_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/datastore"
)

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "calicoctl.cfg")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const header = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\n"

func TestConfigFromTheEnvironment(t *testing.T) {
	tests := map[string]struct {
		env  map[string]string
		want datastore.Config
	}{
		"Everything": {
			map[string]string{
				"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": "https://a:2379/, https://[fd00::1]:2379",
				"ETCD_CA_CERT_FILE": "/ca", "ETCD_CERT_FILE": "/cert", "ETCD_KEY_FILE": "/key",
				"ETCD_USERNAME": "user", "ETCD_PASSWORD": "pass",
			},
			datastore.Config{
				Endpoints: []string{"https://a:2379", "https://[fd00::1]:2379"},
				CAFile:    "/ca", CertFile: "/cert", KeyFile: "/key", Username: "user", Password: "pass",
			},
		},
		"Inline": {
			map[string]string{"ETCD_ENDPOINTS": "https://a:1", "ETCD_CA_CERT": "ca", "ETCD_CERT": "cert", "ETCD_KEY": "key"},
			datastore.Config{Endpoints: []string{"https://a:1"}, CA: "ca", Cert: "cert", Key: "key"},
		},
		"TheCalicoPrefixWins": {
			map[string]string{"ETCD_ENDPOINTS": "http://a:1", "CALICO_ETCD_ENDPOINTS": "http://b:1"},
			datastore.Config{Endpoints: []string{"http://b:1"}},
		},
		"AuthorityAndScheme": {
			map[string]string{"ETCD_AUTHORITY": "a:1", "ETCD_SCHEME": "https"},
			datastore.Config{Endpoints: []string{"https://a:1"}},
		},
		"AuthorityAlone": {
			map[string]string{"ETCD_AUTHORITY": "a:1"},
			datastore.Config{Endpoints: []string{"http://a:1"}},
		},
		"AsKubernetesTellsOfAService": {
			map[string]string{"ETCD_ENDPOINTS": "tcp://[fd00::1]:6666"},
			datastore.Config{Endpoints: []string{"http://[fd00::1]:6666"}},
		},
		"EndpointsWinOverAuthority": {
			map[string]string{"ETCD_AUTHORITY": "a:1", "ETCD_ENDPOINTS": "http://b:1"},
			datastore.Config{Endpoints: []string{"http://b:1"}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := datastore.LoadConfigAt(filepath.Join(t.TempDir(), "absent"), env(tc.env))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const fullFile = header + `spec:
  datastoreType: "etcdv3"
  etcdEndpoints: "https://file:2379"
  etcdKeyFile: /file/key
  etcdCertFile: /file/cert
  etcdCACertFile: /file/ca
  etcdUsername: file
  etcdPassword: secret
  kubeconfig: /ignored
`

func TestConfigFromAFile(t *testing.T) {
	want := datastore.Config{
		Endpoints: []string{"https://file:2379"}, CAFile: "/file/ca", CertFile: "/file/cert", KeyFile: "/file/key",
		Username: "file", Password: "secret",
	}
	vars := env(map[string]string{"ETCD_ENDPOINTS": "http://env:1", "ETCD_CA_CERT_FILE": "/env/ca"})

	t.Run("AskedForByName", func(t *testing.T) {
		got, err := datastore.LoadConfig(configFile(t, fullFile), vars)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("TheDefaultOneYieldsToTheEnvironment", func(t *testing.T) {
		got, err := datastore.LoadConfigAt(configFile(t, fullFile), vars)
		if err != nil {
			t.Fatal(err)
		}
		want := want
		want.Endpoints, want.CAFile = []string{"http://env:1"}, "/env/ca"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("JSON", func(t *testing.T) {
		text := `{"apiVersion":"projectcalico.org/v3","kind":"CalicoAPIConfig","spec":{"etcdEndpoints":"http://a:1"}}`
		got, err := datastore.LoadConfig(configFile(t, text), env(nil))
		if err != nil || got.Endpoints[0] != "http://a:1" {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestConfigErrorsSayWhatToDo(t *testing.T) {
	endpoint := map[string]string{"ETCD_ENDPOINTS": "http://a:1"}
	with := func(more ...string) map[string]string {
		m := maps.Clone(endpoint)
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	tests := map[string]struct {
		file string // none when empty
		env  map[string]string
		want []string
	}{
		"NoEndpoints":          {"", nil, []string{"ETCD_ENDPOINTS", "etcdEndpoints", "http://127.0.0.1:2379"}},
		"OnlyCommas":           {"", with("ETCD_ENDPOINTS", " , "), []string{"ETCD_ENDPOINTS"}},
		"Kubernetes":           {"", with("DATASTORE_TYPE", "kubernetes"), []string{"kubernetes is not supported", "etcdv3"}},
		"UnknownType":          {"", with("DATASTORE_TYPE", "etcdv2"), []string{`"etcdv2"`, "etcdv3"}},
		"DiscoverySRV":         {"", with("ETCD_DISCOVERY_SRV", "example.com"), []string{"ETCD_DISCOVERY_SRV", "ETCD_ENDPOINTS"}},
		"UserWithoutPassword":  {"", with("ETCD_USERNAME", "u"), []string{"ETCD_PASSWORD"}},
		"CertWithoutKey":       {"", with("ETCD_CERT_FILE", "/c"), []string{"ETCD_KEY_FILE"}},
		"NoScheme":             {"", with("ETCD_ENDPOINTS", "a:2379"), []string{`"a:2379"`, "http://HOST:PORT"}},
		"NoPort":               {"", with("ETCD_ENDPOINTS", "http://a"), []string{`"http://a"`, "HOST:PORT"}},
		"Path":                 {"", with("ETCD_ENDPOINTS", "http://a:1/v2"), []string{"only scheme, host and port"}},
		"PasswordInTheURL":     {"", with("ETCD_ENDPOINTS", "http://u:secret@a:1"), []string{"ETCD_USERNAME"}},
		"MixedSchemes":         {"", with("ETCD_ENDPOINTS", "http://a:1,https://b:1"), []string{"mixed"}},
		"UnknownKeyInFile":     {header + "spec:\n  etcdEndpoint: http://a:1\n", nil, []string{`unknown key "etcdEndpoint"`, "calicoctl.cfg"}},
		"KeyTwice":             {header + "spec:\n  etcdEndpoints: a\n  etcdEndpoints: b\n", nil, []string{"etcdEndpoints", "line 6"}},
		"BrokenYAML":           {header + "spec: [\n", nil, []string{"line"}},
		"WrongTypeInFile":      {header + "spec:\n  etcdEndpoints: [http://a:1]\n", nil, []string{"etcdEndpoints", "string"}},
		"NumberForSpec":        {header + "spec: 5\n", nil, []string{"spec: want a mapping, not a number"}},
		"MappingForText":       {header + "spec: {etcdUsername: {}}\n", nil, []string{"spec.etcdUsername: want a string (in quotes), not a mapping"}},
		"TextForBool":          {header + "spec: {usePodCIDR: maybe}\n", nil, []string{"spec.usePodCIDR: want true or false, not a string"}},
		"NoMapping":            {"5\n", nil, []string{"calicoctl.cfg: want a mapping with apiVersion, kind and spec"}},
		"PasswordAndNoPort":    {"", with("ETCD_ENDPOINTS", "http://u:secret@a"), []string{`"…@a"`}},
		"VariableBesideAFile":  {fullFile, with("ETCD_ENDPOINTS", "x"), []string{`datastore config (environment: ETCD_ENDPOINTS): etcd endpoint "x": want`}},
		"PrefixedVariable":     {fullFile, with("CALICO_ETCD_ENDPOINTS", "x"), []string{`datastore config (environment: CALICO_ETCD_ENDPOINTS): `}},
		"Authority":            {fullFile, map[string]string{"ETCD_AUTHORITY": "x"}, []string{`datastore config (environment: ETCD_AUTHORITY): etcd endpoint "http://x"`}},
		"FileBesideAVariable":  {header + "spec: {etcdUsername: u}\n", endpoint, []string{"calicoctl.cfg): ETCD_USERNAME and"}},
		"WrongKind":            {"apiVersion: projectcalico.org/v3\nkind: IPPool\n", nil, []string{`"IPPool"`, "CalicoAPIConfig"}},
		"WrongVersion":         {"apiVersion: v1\nkind: CalicoAPIConfig\n", nil, []string{`"v1"`, "projectcalico.org/v3"}},
		"NoEndpointsInTheFile": {header + "spec: {}\n", nil, []string{"ETCD_ENDPOINTS", "calicoctl.cfg"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "absent")
			if tc.file != "" {
				path = configFile(t, tc.file)
			}
			_, err := datastore.LoadConfigAt(path, env(tc.env))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("shows a password or takes several lines: %v", err)
			}
		})
	}
}

func TestAConfigFileThatWasAskedForMustExist(t *testing.T) {
	_, err := datastore.LoadConfig("/nowhere/calicoctl.cfg", env(map[string]string{"ETCD_ENDPOINTS": "http://a:1"}))
	if err == nil || !strings.Contains(err.Error(), "/nowhere/calicoctl.cfg") {
		t.Errorf("got %v", err)
	}
}

func TestConfigDoesNotPrintSecrets(t *testing.T) {
	c := datastore.Config{Endpoints: []string{"http://a:1"}, Username: "u", Password: "secret", Key: "secret"}
	for _, text := range []string{c.String(), c.GoString()} {
		if text != "http://a:1" {
			t.Errorf("got %s", text)
		}
	}
}

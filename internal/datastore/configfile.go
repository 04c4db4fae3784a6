package datastore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"

	"tortie/internal/api"
)

// configFile is the form of calicoctl.cfg.
type configFile struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   json.RawMessage `json:"metadata"`
	Spec       configSpec      `json:"spec"`
}

// configSpec adds the keys that upstream's file may have and that mean nothing
// without the Kubernetes backend: they are accepted so that one file serves both
// programs.
type configSpec struct {
	settings
	Kubeconfig               string  `json:"kubeconfig"`
	KubeconfigInline         string  `json:"kubeconfigInline"`
	K8sAPIEndpoint           string  `json:"k8sAPIEndpoint"`
	K8sKeyFile               string  `json:"k8sKeyFile"`
	K8sCertFile              string  `json:"k8sCertFile"`
	K8sCAFile                string  `json:"k8sCAFile"`
	K8sAPIToken              string  `json:"k8sAPIToken"`
	K8sInsecureSkipTLSVerify bool    `json:"k8sInsecureSkipTLSVerify"`
	K8sDisableNodePoll       bool    `json:"k8sDisableNodePoll"`
	K8sUsePodCIDR            bool    `json:"usePodCIDR"`
	K8sClientQPS             float32 `json:"k8sClientQPS"`
	K8sCurrentContext        string  `json:"k8sCurrentContext"`
	CalicoAPIGroup           string  `json:"calicoAPIGroup"`
}

// parseConfigFile reads a calicoctl.cfg, YAML or JSON. A key it doesn't know is
// an error: a misspelt one would silently be a missing one.
func parseConfigFile(text []byte) (settings, error) {
	doc, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		// The YAML parser lists several problems on lines of their own.
		problem := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
		return settings{}, fmt.Errorf("parse: %s", problem)
	}
	var f configFile
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return settings{}, configFileError(err)
	}
	switch {
	case f.APIVersion != api.GroupVersion:
		return settings{}, fmt.Errorf("apiVersion is %q: want %s", f.APIVersion, api.GroupVersion)
	case f.Kind != "CalicoAPIConfig":
		return settings{}, fmt.Errorf("kind is %q: want CalicoAPIConfig", f.Kind)
	}
	return f.Spec.settings, nil
}

// configFileError words a decoding error in terms of the file.
func configFileError(err error) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		if wrongType.Field == "" {
			return errors.New("want a mapping with apiVersion, kind and spec")
		}
		field := strings.Replace(wrongType.Field, ".settings.", ".", 1) // json names what is embedded
		return fmt.Errorf("%s: want %s, not %s", field, typeName(wrongType.Type), valueName(wrongType.Value))
	}
	if key, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("unknown key %s", key)
	}
	return fmt.Errorf("parse: %w", err)
}

// typeName is what a key of the file takes.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		return "a mapping"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32:
		return "a number"
	default:
		return "a string (in quotes)"
	}
}

// valueName is what package json calls the kind of a value, in the words of YAML.
func valueName(json string) string {
	switch kind, _, _ := strings.Cut(json, " "); kind {
	case "object":
		return "a mapping"
	case "array":
		return "a list"
	case "bool":
		return "true or false"
	default:
		return "a " + kind
	}
}

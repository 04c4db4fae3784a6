package config

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/suggest"
)

// Layer is what one source says.
type Layer struct {
	Source string
	values map[string]value // by name in lower case
	// resource: names are fields of FelixConfiguration.
	resource bool
}

// Get is what the layer says of a parameter, unchecked.
func (l Layer) Get(name string) (string, bool) {
	v, ok := l.values[strings.ToLower(name)]
	return v.text, ok
}

// value is one setting as it is written.
type value struct{ written, text string }

// envPrefix starts the environment variables that are parameters.
const envPrefix = "FELIX_"

// FromEnv reads FELIX_<NAME> variables; upstream takes them in any case.
func FromEnv(environ []string) Layer {
	l := Layer{Source: "environment", values: map[string]value{}}
	for _, pair := range environ {
		name, text, ok := strings.Cut(pair, "=")
		if rest, has := strings.CutPrefix(strings.ToUpper(name), envPrefix); ok && has && rest != "" {
			l.values[strings.ToLower(rest)] = value{name, text}
		}
	}
	return l
}

// FromFile reads felix.cfg: "Name = value" lines, with sections and comments (#
// and ;) as in an INI file. No file is an empty layer.
func FromFile(path string) (Layer, error) {
	l := Layer{Source: path, values: map[string]value{}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read configuration: %w", err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(raw)))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' || line[0] == '[' {
			continue
		}
		name, text, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return l, fmt.Errorf("read configuration %s, line %d: want Name = value", path, n)
		}
		l.values[strings.ToLower(name)] = value{name, strings.TrimSpace(text)}
	}
	return l, lines.Err()
}

// FromResource reads a FelixConfiguration; nil is an empty layer.
func FromResource(r *v3.FelixConfiguration) (Layer, error) {
	if r == nil {
		return Layer{}, nil
	}
	raw, err := json.Marshal(r.Spec)
	if err != nil {
		return Layer{}, fmt.Errorf("read FelixConfiguration %s: %w", r.Name, err)
	}
	return fromSpec(r.Name, raw)
}

// FromStored reads a FelixConfiguration from what is stored, which can't be read as a
// whole: a field that can't be used does not take the others with it.
func FromStored(name string, value []byte) (Layer, error) {
	var stored struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(value, &stored); err != nil {
		return Layer{}, fmt.Errorf("read FelixConfiguration %s: %w", name, err)
	}
	return fromSpec(name, stored.Spec)
}

func fromSpec(name string, spec []byte) (Layer, error) {
	l := Layer{Source: "FelixConfiguration " + name, values: map[string]value{}, resource: true}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(spec, &fields); err != nil {
		return l, fmt.Errorf("read %s: %w", l.Source, err)
	}
	names := fieldNames()
	for field, raw := range fields {
		text := string(raw)
		if quoted := ""; json.Unmarshal(raw, &quoted) == nil {
			text = quoted
		}
		if text == "" || text == "null" {
			continue
		}
		name, known := names[field]
		if !known {
			name = field
		}
		l.values[strings.ToLower(name)] = value{"spec." + field, text}
	}
	return l, nil
}

// fieldNames maps the fields of FelixConfiguration to parameters.
func fieldNames() map[string]string {
	names := map[string]string{}
	for name, p := range known() {
		if p.field != "-" {
			names[p.field] = name
		}
	}
	return names
}

// upstreamParameter is one that upstream knows.
type upstreamParameter struct{ name, field, byDefault string }

// known are upstream's parameters by name in lower case.
func known() map[string]upstreamParameter {
	all := map[string]upstreamParameter{}
	for line := range strings.Lines(strings.TrimSpace(upstreamParameters)) {
		parts := strings.SplitN(strings.TrimSpace(line), " ", 3)
		p := upstreamParameter{name: parts[0], field: parts[1]}
		if len(parts) == 3 {
			p.byDefault = parts[2]
		}
		all[strings.ToLower(p.name)] = p
	}
	return all
}

// elsewhere are the parameters another part of the program reads.
func elsewhere() []string {
	return []string{"felixhostname", "etcdendpoints", "etcdcafile", "etcdcertfile", "etcdkeyfile"}
}

// unserved are the settings of a layer that are not served here: upstream's
// others when they differ from the default, and names that nobody knows.
func (l Layer) unserved(served map[string]bool) []Problem {
	var problems []Problem
	upstream, here := known(), map[string]bool{}
	for name := range served {
		here[strings.ToLower(name)] = true
	}
	for _, key := range slices.Sorted(maps.Keys(l.values)) {
		v := l.values[key]
		if here[key] || slices.Contains(elsewhere(), key) {
			continue
		}
		p, isUpstream := upstream[key]
		switch {
		case isUpstream && strings.EqualFold(v.text, p.byDefault):
		case isUpstream:
			problems = append(problems, Problem{l.Source, v.written, "is known but has no effect in this version", false, ""})
		case l.resource:
			// The resource was validated when it was written: a field of a newer upstream.
			problems = append(problems, Problem{l.Source, v.written, "is not known to this version and has no effect", false, ""})
		default:
			reason := "is no parameter of felix"
			if near := suggest.Nearest(key, names(served, upstream)); near != "" {
				reason += "; did you mean " + near + "?"
			}
			problems = append(problems, Problem{l.Source, v.written, reason, true, ""})
		}
	}
	return problems
}

// names are all parameters as they are written.
func names(served map[string]bool, upstream map[string]upstreamParameter) []string {
	all := slices.Collect(maps.Keys(served))
	for _, p := range upstream {
		all = append(all, p.name)
	}
	return all
}

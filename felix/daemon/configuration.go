package daemon

import (
	"log/slog"
	"reflect"
	"slices"
	"sync"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/config"
	"tortie/felix/problems"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// configFollower keeps the configuration up to date with the FelixConfiguration
// resources. It is the one place where the configuration is kept: whoever acts on it
// is handed the whole of it, or asks for it, each time.
type configFollower struct {
	node  string
	local []config.Layer // stronger than the datastore
	log   *slog.Logger

	mu     sync.Mutex
	now    config.Config
	stored map[string]config.Layer // by the resource's name
	// broken are the resources of which nothing can be read; what they said before
	// holds on.
	broken map[string]error
	due    bool // the layers have changed
	bad    []string
	// unusable are the lines about fields of FelixConfiguration that can't be used, by field.
	unusable map[string]string
	warned   map[string]bool
}

func newConfigFollower(node string, local []config.Layer, start config.Config, log *slog.Logger) *configFollower {
	return &configFollower{
		node: node, local: local, now: start, log: log, due: true,
		stored: map[string]config.Layer{}, broken: map[string]error{}, warned: map[string]bool{},
	}
}

// Now is the configuration at present.
func (f *configFollower) Now() config.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// resources are the names of those that count, the strongest first.
func resources(node string) []string { return []string{"node." + node, "default"} }

// Ranges are the parts of the datastore a configFollower wants to see.
func (*configFollower) Ranges() []datastore.Range {
	return []datastore.Range{{Kind: api.KindFelixConfiguration}}
}

// Apply implements follower. Nothing comes of it before resolve.
func (f *configFollower) Apply(updates []datastore.SyncUpdate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range updates {
		if u.Key.Kind != api.KindFelixConfiguration || !slices.Contains(resources(f.node), u.Key.Name) {
			continue
		}
		f.due = true
		delete(f.broken, u.Key.Name)
		layer, err := layerOf(u)
		if err != nil {
			f.broken[u.Key.Name] = err
			continue
		}
		f.stored[u.Key.Name] = layer
	}
}

// layerOf is what a resource says; nothing when it is gone.
func layerOf(u datastore.SyncUpdate) (config.Layer, error) {
	switch {
	case u.Invalid != nil:
		return config.FromStored(u.Key.Name, u.Invalid.Value)
	case u.Entry != nil:
		r, _ := u.Entry.Object.(*v3.FelixConfiguration)
		return config.FromResource(r)
	}
	return config.Layer{}, nil
}

// resolve makes a configuration of what was applied, and reports whether it is another.
func (f *configFollower) resolve() (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.due {
		return false
	}
	f.due, f.bad, f.unusable = false, nil, map[string]string{}
	layers := slices.Clone(f.local)
	for _, name := range resources(f.node) {
		layers = append(layers, f.stored[name])
		if err := f.broken[name]; err != nil {
			f.bad = append(f.bad, err.Error()+": what it said before holds on; write it anew with calicoctl")
		}
	}
	wanted, found := config.Resolve(layers...)
	for _, p := range found {
		if p.Bad {
			line := p.String() + "; what is configured elsewhere, or the default, holds instead"
			f.bad, f.unusable[p.Field] = append(f.bad, line), line
			continue
		}
		f.once(p.String())
	}
	changed = !reflect.DeepEqual(f.now, wanted)
	f.now = wanted
	return changed
}

// problems are what can't be used of the configuration.
func (f *configFollower) problems() []problems.Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []problems.Problem
	for _, line := range f.bad {
		out = append(out, problems.Problem{Reason: reasonConfiguration, Topic: line, Line: line})
	}
	return out
}

// wrong is the line about a field that can't be used; empty for nothing.
func (f *configFollower) wrong(field string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unusable[field]
}

// once logs a warning the first time it is due.
func (f *configFollower) once(warning string) {
	if !f.warned[warning] {
		f.warned[warning] = true
		f.log.Warn("configuration", "problem", warning)
	}
}

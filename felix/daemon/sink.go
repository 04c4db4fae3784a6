package daemon

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// follower is a part of felix that follows the datastore.
type follower interface{ Apply([]datastore.SyncUpdate) }

// sink hands the Syncer's updates to everyone who follows the datastore. The
// order matters at InSync alone: whoever serves CNI calls learns of it last.
type sink struct {
	graph    *calc.Graph
	follow   []follower
	program  func(calc.State) // the desired state has changed
	complete func()           // and it is the whole one from now on
	more     func([]datastore.Range)
	asked    []datastore.Range // of more
	onStatus func(datastore.Status)
	inSync   bool
}

// OnUpdates implements datastore.Sink.
func (s *sink) OnUpdates(updates []datastore.SyncUpdate) {
	changed := s.graph.Update(updates)
	for _, f := range s.follow {
		f.Apply(updates)
	}
	if wanted := s.graph.Follow(); !slices.Equal(wanted, s.asked) {
		s.asked = wanted
		s.more(wanted)
	}
	if s.inSync && changed { // before, the state is not the whole one and nobody may act on it
		s.program(s.graph.State())
	}
}

// OnStatus implements datastore.Sink.
func (s *sink) OnStatus(status datastore.Status) {
	if status == datastore.InSync && !s.inSync {
		s.inSync = true
		s.program(s.graph.State())
		s.complete()
	}
	s.onStatus(status)
}

// problemLog reports what could not be honoured: each problem once when it comes
// and once when it is gone.
type problemLog struct {
	log  *slog.Logger
	told map[calc.Problem]bool
}

func (p *problemLog) report(problems []calc.Problem) {
	now := make(map[calc.Problem]bool, len(problems))
	for _, problem := range problems {
		now[problem] = true
		if !p.told[problem] {
			p.log.Warn("an object is not fully honoured", "object", problem.Key.String(), "problem", problem.Reason)
		}
	}
	for problem := range p.told {
		if !now[problem] {
			p.log.Info("a problem with an object is gone", "object", problem.Key.String(), "was", problem.Reason)
		}
	}
	p.told = now
}

// endpointDelay is how much later than it could felix hears of endpoints. Those of
// this node it has written itself: the echo of a burst of pods comes in one piece, and
// not while the ADD at its origin is still being answered.
const endpointDelay = 5 * time.Millisecond

// ranges joins what the followers want to see. The Syncer wants no overlaps, so a
// range within another is left out.
func ranges(wanted ...[]datastore.Range) []datastore.Range {
	var all []datastore.Range
	for _, list := range wanted {
		for _, r := range list {
			if r.Kind == api.KindWorkloadEndpoint {
				r.Delay = endpointDelay
			}
			all = addRange(all, r)
		}
	}
	return all
}

func addRange(all []datastore.Range, r datastore.Range) []datastore.Range {
	kept := all[:0:0]
	for _, have := range all {
		if covers(have, r) {
			return all
		}
		if !covers(r, have) {
			kept = append(kept, have)
		}
	}
	return append(kept, r)
}

// covers reports whether everything in b is in a.
func covers(a, b datastore.Range) bool {
	if a.Kind != b.Kind || a.Namespace != "" && a.Namespace != b.Namespace {
		return false
	}
	return strings.HasPrefix(b.NamePrefix, a.NamePrefix)
}

// configFollower keeps the configuration up to date with the FelixConfiguration
// resources, as far as a running felix can follow.
type configFollower struct {
	node    string
	local   []config.Layer // stronger than the datastore
	running config.Config
	level   *slog.LevelVar
	log     *slog.Logger

	mu     sync.Mutex
	stored map[string]*v3.FelixConfiguration
	warned map[string]bool
}

// Ranges are the parts of the datastore a configFollower wants to see.
func (*configFollower) Ranges() []datastore.Range {
	return []datastore.Range{{Kind: api.KindFelixConfiguration}}
}

// Apply implements follower.
func (f *configFollower) Apply(updates []datastore.SyncUpdate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := false
	for _, u := range updates {
		if u.Key.Kind != api.KindFelixConfiguration || u.Key.Name != "default" && u.Key.Name != "node."+f.node {
			continue
		}
		changed = true
		delete(f.stored, u.Key.Name)
		if u.Entry != nil {
			f.stored[u.Key.Name], _ = u.Entry.Object.(*v3.FelixConfiguration)
		}
	}
	if changed {
		f.resolve()
	}
}

func (f *configFollower) resolve() {
	layers := append([]config.Layer(nil), f.local...)
	for _, name := range []string{"node." + f.node, "default"} {
		layer, err := config.FromResource(f.stored[name])
		if err != nil {
			f.once(err.Error())
			continue
		}
		layers = append(layers, layer)
	}
	wanted, problems := config.Resolve(layers...)
	for _, p := range problems {
		f.once(p.String())
	}
	f.level.Set(wanted.LogLevel)
	for _, name := range config.NeedsRestart(f.running, wanted) {
		f.once("FelixConfiguration: " + name + ": the change takes effect when felix is restarted")
	}
}

// once logs a warning the first time it is due.
func (f *configFollower) once(warning string) {
	if !f.warned[warning] {
		f.warned[warning] = true
		f.log.Warn("configuration", "problem", warning)
	}
}

package daemon

import (
	"log/slog"
	"slices"
	"strings"
	"time"

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
	graph     *calc.Graph
	follow    []follower
	config    *configFollower
	configure func(config.Config) // it has changed; program comes next
	program   func(calc.State)    // the desired state, or the configuration, has changed
	complete  func()              // and it is the whole one from now on
	more      func([]datastore.Range)
	asked     []datastore.Range // of more
	onStatus  func(datastore.Status)
	inSync    bool
}

// OnUpdates implements datastore.Sink.
func (s *sink) OnUpdates(updates []datastore.SyncUpdate) {
	changed := s.graph.Update(updates)
	for _, f := range s.follow {
		f.Apply(updates)
	}
	s.config.Apply(updates)
	if wanted := s.graph.Follow(); !slices.Equal(wanted, s.asked) {
		s.asked = wanted
		s.more(wanted)
	}
	if s.inSync { // before, neither is the whole one and nobody may act on it
		s.act(changed)
	}
}

func (s *sink) act(changed bool) {
	if s.config.resolve() {
		s.configure(s.config.Now())
		changed = true
	}
	if changed {
		s.program(s.graph.State())
	}
}

// OnStatus implements datastore.Sink.
func (s *sink) OnStatus(status datastore.Status) {
	if status == datastore.InSync && !s.inSync {
		s.inSync = true
		s.act(true)
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
		if !p.told[problem] && !problem.Unread {
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

// Package secrets follows the Secrets that passwords of BGP peers are in: in
// Kubernetes, or as folders of files where there is none.
package secrets

import (
	"context"
	"maps"
	"sync"
	"time"

	"tortie/bgpd/topology"
)

// answerWithin bounds how long a Source may say nothing: until then no peers are
// configured at all, so that those with a password come back from a restart together
// with the others.
const answerWithin = 3 * time.Second

// Source is where Secrets are.
type Source interface {
	// Follow calls tell with the Secret of that name, at once or within answerWithin,
	// and again when it has changed, until ctx ends.
	Follow(ctx context.Context, name string, tell func(topology.Secret))
}

// Follower follows the Secrets that are wanted and no others.
type Follower struct {
	ctx    context.Context
	source Source
	told   func(name string, s topology.Secret)

	mu        sync.Mutex
	following map[string]context.CancelFunc
	running   sync.WaitGroup
}

// NewFollower makes one that tells of Secrets until ctx ends. Wait for it then.
func NewFollower(ctx context.Context, source Source, told func(name string, s topology.Secret)) *Follower {
	return &Follower{ctx: ctx, source: source, told: told, following: map[string]context.CancelFunc{}}
}

// Want says which Secrets are wanted from now on. It returns at once.
func (f *Follower) Want(names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := maps.Clone(f.following)
	for _, name := range names {
		delete(rest, name)
		if f.following[name] != nil || f.ctx.Err() != nil {
			continue
		}
		ctx, cancel := context.WithCancel(f.ctx)
		f.following[name] = cancel
		f.running.Go(func() {
			f.source.Follow(ctx, name, func(s topology.Secret) {
				if ctx.Err() == nil {
					f.told(name, s)
				}
			})
		})
	}
	for name, cancel := range rest {
		cancel()
		delete(f.following, name)
	}
}

// Wait returns when ctx has ended and nothing is told any more.
func (f *Follower) Wait() { f.running.Wait() }

// Package mirror keeps objects of the datastore equal to what Kubernetes says they
// should be: made, changed and, when their counterpart is gone, removed.
package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

// Environment is what every mirror works in.
type Environment struct {
	Client   datastore.Client
	Registry *api.Registry
	Cache    *state.Cache
	Log      *slog.Logger
	Metrics  *queue.Metrics
}

// source is the Kubernetes side of a mirror.
type source struct {
	name    string // of the controller
	kind    api.Kind
	workers int
	// owns tells the objects of this mirror from others of the kind.
	owns func(api.Key) bool
	// want is what should stand under a key; nil for nothing.
	want func(api.Key) api.Object
	// gone asks the API server whether the counterpart of a key is gone.
	gone func(context.Context, api.Key) (bool, error)
	// spec is the part of an object that a mirror is in charge of.
	spec func(api.Object) any
	// adopt gives a copy of the stored object the spec of the wanted one.
	adopt func(stored, want api.Object) api.Object
}

// Mirror keeps the objects of one source.
type Mirror struct {
	env       Environment
	src       source
	resources *datastore.Resources
	queue     *queue.Queue[api.Key]
}

func newMirror(env Environment, src source) *Mirror {
	m := &Mirror{env: env, src: src, resources: datastore.NewResources(env.Client, env.Registry, time.Now)}
	m.queue = queue.New(queue.Config[api.Key]{
		Name: src.name, Workers: src.workers, Reconcile: m.reconcile, Log: env.Log, Metrics: env.Metrics,
	})
	env.Cache.Watch(src.kind, func(_, _ *datastore.Entry, key api.Key) {
		if src.owns(key) {
			m.queue.Add(key)
		}
	})
	return m
}

// Run works until ctx ends. Both sides must have been read by then: what isn't
// known of Kubernetes would be removed.
func (m *Mirror) Run(ctx context.Context) { m.queue.Run(ctx) }

// Close ends it for good.
func (m *Mirror) Close() { m.queue.Close() }

// Health is nil unless a worker is stuck.
func (m *Mirror) Health() error { return m.queue.Health() }

func (m *Mirror) reconcile(ctx context.Context, key api.Key) error {
	want := m.src.want(key)
	stored, exists := m.env.Cache.Get(key)
	switch {
	case want == nil && (exists || m.env.Cache.Unreadable(key)):
		return m.remove(ctx, key, stored.Revision)
	case want == nil:
		return nil
	case exists:
		return m.update(ctx, stored, want)
	case m.env.Cache.Unreadable(key):
		return m.repair(ctx, key, want)
	}
	if _, err := m.resources.Create(ctx, want); err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	m.env.Log.Info("created", "controller", m.src.name, "key", key)
	return nil
}

func (m *Mirror) update(ctx context.Context, stored datastore.Entry, want api.Object) error {
	m.env.Registry.Default(want)
	if equality.Semantic.DeepEqual(m.src.spec(stored.Object), m.src.spec(want)) {
		return nil
	}
	stored.Object = m.src.adopt(stored.Object, want)
	if _, err := m.resources.Update(ctx, stored); err != nil {
		return fmt.Errorf("update %s: %w", stored.Key, err)
	}
	m.env.Log.Info("updated", "controller", m.src.name, "key", stored.Key)
	return nil
}

// repair puts an object in the place of one that can't be read. By its name it is
// ours, so that nobody else's words are lost.
func (m *Mirror) repair(ctx context.Context, key api.Key, want api.Object) error {
	if _, err := m.env.Client.Txn(ctx, datastore.DeleteAny(key)); err != nil {
		return fmt.Errorf("replace %s, which can't be read: %w", key, err)
	}
	if _, err := m.resources.Create(ctx, want); err != nil {
		return fmt.Errorf("replace %s, which can't be read: %w", key, err)
	}
	m.env.Log.Warn("replaced what couldn't be read", "controller", m.src.name, "key", key)
	return nil
}

// remove deletes an object whose counterpart the cache doesn't have, if the API
// server says so too: a cache may be behind.
func (m *Mirror) remove(ctx context.Context, key api.Key, rev datastore.Revision) error {
	gone, err := m.src.gone(ctx, key)
	if err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	if !gone {
		return nil // the cache will hear of it, and then we of that
	}
	op := datastore.DeleteAny(key)
	if rev != 0 {
		op = datastore.Delete(key, rev)
	}
	if _, err := m.env.Client.Txn(ctx, op); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	m.env.Log.Info("removed", "controller", m.src.name, "key", key)
	return nil
}

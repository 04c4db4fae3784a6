package resource

import (
	"context"
	"errors"
	"fmt"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Patch changes an object that must exist by what apply makes of its manifest, in
// JSON, and returns what it wrote. The result is what a manifest must be; it names the
// same object.
func (s *Store) Patch(ctx context.Context, key api.Key, manifest func(api.Object) ([]byte, error), apply func(manifest []byte) ([]byte, error)) (api.Object, error) {
	for range maxAttempts {
		old, err := s.Get(ctx, key)
		if err != nil {
			return nil, named(key, err, "")
		}
		before, err := manifest(old)
		if err != nil {
			return nil, err
		}
		after, err := apply(before)
		if err != nil {
			return nil, err
		}
		patched, err := s.patched(ctx, key, after)
		if err != nil {
			return nil, err
		}
		patched.SetResourceVersion(old.GetResourceVersion())
		err = s.Replace(ctx, patched)
		if !errors.Is(err, datastore.ErrConflict) || errors.Is(err, datastore.ErrNotFound) {
			return patched, err
		}
	}
	return nil, refuse("try again", "update conflict: %s: changed by others %d times in a row", key, maxAttempts)
}

func (s *Store) patched(ctx context.Context, key api.Key, manifest []byte) (api.Object, error) {
	obj, err := s.Registry.DecodeStrict(manifest)
	if err != nil {
		return nil, err
	}
	if err := Complete(s.Registry, obj); err != nil {
		return nil, err
	}
	now, err := s.Registry.KeyOf(obj)
	if err != nil {
		return nil, err
	}
	if now != key {
		return nil, refuse("create the other and delete this one", "%s: a patch can't change kind, name or namespace: it makes it %s", key, now)
	}
	pools, err := s.CheckPools(ctx, []api.Object{obj}, true)
	if err != nil {
		return nil, err
	}
	for _, r := range pools {
		return nil, fmt.Errorf("%s: %w", r.Field, r.Err)
	}
	nodes, err := s.CheckNodes(ctx, []api.Object{obj})
	if err != nil {
		return nil, err
	}
	for _, r := range nodes {
		return nil, r.Err
	}
	return obj, nil
}

package resource

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// maxAttempts bounds the retries of a change that others get in the way of. A
// conflict needs somebody else's success, so that a few attempts only fail on an
// object written many times a second.
const maxAttempts = 10

// Complete fills in defaults and validates: what must hold before a store is
// even opened. The error is an *api.ValidationError.
func (s *Store) Complete(obj api.Object) error {
	return Complete(s.Registry, obj)
}

// Complete is Store.Complete without a store.
func Complete(reg *api.Registry, obj api.Object) error {
	reg.Default(obj)
	if err := reg.Validate(obj); err != nil {
		return err
	}
	key, err := reg.KeyOf(obj)
	if err != nil {
		return err
	}
	return writable(key)
}

// writable refuses the objects that only the system itself writes.
func writable(key api.Key) error {
	switch {
	case key.Kind == api.KindClusterInformation:
		return refuse("to stop the cluster use: calicoctl datastore migrate lock",
			"%s: is kept by the system and can't be written", key)
	case isDefaultAllow(key):
		return refuse("write a profile of another name", "%s: is built in and can't be written", key)
	}
	return nil
}

// Create writes an object that must not exist yet. Metadata that a manifest may
// have kept from another cluster is made anew.
func (s *Store) Create(ctx context.Context, obj api.Object) error {
	key, err := s.Registry.KeyOf(obj)
	if err != nil {
		return err
	}
	obj = obj.DeepCopyObject().(api.Object)
	forgetIdentity(obj)
	_, err = s.resources().Create(ctx, obj)
	return named(key, err, "use apply to change it, or --skip-exists to leave it as it is")
}

func forgetIdentity(obj api.Object) {
	obj.SetUID("")
	obj.SetResourceVersion("")
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetGeneration(0)
	obj.SetSelfLink("")
	obj.SetManagedFields(nil)
}

// Replace changes an object that must exist, be it one that can't be read. A
// resourceVersion in obj must be the present one.
func (s *Store) Replace(ctx context.Context, obj api.Object) error {
	key, err := s.Registry.KeyOf(obj)
	if err != nil {
		return err
	}
	return named(key, s.replace(ctx, key, obj), "use create or apply to make it")
}

// Apply creates an object or changes the one that exists. A resourceVersion in
// obj must be the present one if it exists.
func (s *Store) Apply(ctx context.Context, obj api.Object) error {
	key, err := s.Registry.KeyOf(obj)
	if err != nil {
		return err
	}
	for range maxAttempts {
		err = s.replace(ctx, key, obj)
		if !errors.Is(err, datastore.ErrNotFound) {
			return err
		}
		err = s.Create(ctx, obj)
		if !errors.Is(err, datastore.ErrAlreadyExists) {
			return err
		}
	}
	return fmt.Errorf("%s: created and deleted by others again and again: %w", key, err)
}

func (s *Store) replace(ctx context.Context, key api.Key, obj api.Object) error {
	return s.change(ctx, key, obj.GetResourceVersion(), true, func(old api.Object) (api.Object, error) {
		if err := s.allowUpdate(ctx, key, old, obj); err != nil {
			return nil, err
		}
		updated := obj.DeepCopyObject().(api.Object)
		keepIdentity(old, updated)
		return updated, nil
	})
}

// Modify changes an object that must exist: change gets the stored object and
// returns what it shall be, or an error to give up.
func (s *Store) Modify(ctx context.Context, key api.Key, change func(obj api.Object) error) error {
	if err := writable(key); err != nil {
		return err
	}
	return named(key, s.modify(ctx, key, "", func(old api.Object) (api.Object, error) {
		updated := old.DeepCopyObject().(api.Object)
		if err := change(updated); err != nil {
			return nil, err
		}
		if err := Complete(s.Registry, updated); err != nil {
			return nil, err
		}
		return updated, s.allowUpdate(ctx, key, old, updated)
	}), "")
}

// modify changes an object that can be read.
func (s *Store) modify(ctx context.Context, key api.Key, version string, change func(old api.Object) (api.Object, error)) error {
	return s.change(ctx, key, version, false, change)
}

// change is the read, change, compare-and-swap loop. With a resource version
// given nothing is retried: the operator looked at that version. With anew, what can't be
// read is written over; change gets what can be read of it.
func (s *Store) change(ctx context.Context, key api.Key, version string, anew bool, change func(old api.Object) (api.Object, error)) error {
	for range maxAttempts {
		entry, unread, err := s.readAny(ctx, key)
		switch {
		case err != nil:
			return err
		case unread != nil && !anew:
			return named(key, unread, "")
		}
		current := strconv.FormatInt(int64(entry.Revision), 10)
		if version != "" && version != current {
			return updateConflict(key, version, current)
		}
		if entry.Object, err = change(entry.Object); err != nil {
			return err
		}
		if unread != nil {
			_, err = s.resources().Overwrite(ctx, unread, entry.Object)
		} else {
			_, err = s.resources().Update(ctx, entry)
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, datastore.ErrConflict):
			return err
		case version != "":
			return updateConflict(key, version, "a later one")
		}
	}
	return refuse("try again", "update conflict: %s: changed by others %d times in a row", key, maxAttempts)
}

func updateConflict(key api.Key, version, current string) error {
	return &Error{
		Err: &classError{
			text:  fmt.Sprintf("update conflict: %s: resourceVersion %s is out of date, the store has %s", key, version, current),
			cause: datastore.ErrConflict,
		},
		Advice: "get it again and repeat the change, or leave out resourceVersion to write over it",
	}
}

// keepIdentity carries over what belongs to the stored object and not to its
// manifest.
func keepIdentity(old, updated api.Object) {
	updated.SetUID(old.GetUID())
	updated.SetCreationTimestamp(old.GetCreationTimestamp())
	updated.SetDeletionTimestamp(old.GetDeletionTimestamp())
	updated.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	updated.SetGeneration(old.GetGeneration())
	updated.SetSelfLink(old.GetSelfLink())
	updated.SetManagedFields(old.GetManagedFields())
	if updated.GetFinalizers() == nil {
		updated.SetFinalizers(old.GetFinalizers())
	}
	if updated.GetOwnerReferences() == nil {
		updated.SetOwnerReferences(old.GetOwnerReferences())
	}
	keepStatus(old, updated)
}

// keepStatus leaves a status that the system reported where the manifest has
// none.
func keepStatus(old, updated api.Object) {
	switch u := updated.(type) {
	case *api.Node:
		keepIfZero(&u.Status, old.(*api.Node).Status)
	case *v3.KubeControllersConfiguration:
		keepIfZero(&u.Status, old.(*v3.KubeControllersConfiguration).Status)
	case *v3.CalicoNodeStatus:
		keepIfZero(&u.Status, old.(*v3.CalicoNodeStatus).Status)
	}
}

func keepIfZero[T any](status *T, old T) {
	if reflect.ValueOf(status).Elem().IsZero() {
		*status = old
	}
}

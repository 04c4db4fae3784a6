// Package resource carries out what an operator asks for on the resources of
// one datastore: create, apply, replace, delete, get and list, with the rules
// that hold for each kind.
//
// Every write is a compare-and-swap. Changing an object keeps what its author
// did not write: UID, creation time, and fields that our types don't know.
package resource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// DefaultAllowProfile is the name of the profile that allows everything. It
// exists without being stored and can't be changed.
const DefaultAllowProfile = "projectcalico-default-allow"

// Store is the datastore as an operator sees it.
type Store struct {
	Client   datastore.Client
	Registry *api.Registry
	Now      func() time.Time
	// Settle is how long to wait between disabling an IP pool and deleting it, so
	// that allocators see it before its blocks go.
	Settle time.Duration
	// Warn receives what an operator should know but need not act on.
	Warn func(text string)
	Log  *slog.Logger
}

func (s *Store) resources() *datastore.Resources {
	return datastore.NewResources(s.Client, s.Registry, s.Now)
}

// EnsureInitialized makes the objects that every cluster has.
func (s *Store) EnsureInitialized(ctx context.Context) error {
	return datastore.EnsureInitialized(ctx, s.Client, s.Registry, s.Now)
}

// SetReady opens or closes the datastore for those who make pods: while it is
// closed nobody adds or removes any.
func (s *Store) SetReady(ctx context.Context, ready bool) error {
	key := api.Key{Kind: api.KindClusterInformation, Name: datastore.ClusterInformationName}
	return named(key, s.modify(ctx, key, "", func(old api.Object) (api.Object, error) {
		info := old.DeepCopyObject().(*v3.ClusterInformation)
		info.Spec.DatastoreReady = &ready
		return info, nil
	}), "")
}

// Listing is the answer to a List.
type Listing struct {
	Objects  []api.Object
	Revision string
	// Invalid are the stored values that can't be read; they are not in Objects.
	Invalid []datastore.Invalid
}

// Get reads one object: datastore.ErrNotFound when there is none.
func (s *Store) Get(ctx context.Context, key api.Key) (api.Object, error) {
	if isDefaultAllow(key) {
		return defaultAllow(), nil
	}
	entry, err := s.read(ctx, key)
	if err != nil {
		return nil, err
	}
	return entry.Object, nil
}

// read gets an entry. Calico before 3.29 stored a policy of the default tier as
// "default.<name>": such a policy is found by its name.
func (s *Store) read(ctx context.Context, key api.Key) (datastore.Entry, error) {
	entry, err := s.Client.Get(ctx, key)
	if !errors.Is(err, datastore.ErrNotFound) || !isTiered(key.Kind) || strings.HasPrefix(key.Name, api.DefaultTier+".") {
		return entry, err
	}
	legacy := key
	legacy.Name = api.DefaultTier + "." + key.Name
	if old, oldErr := s.Client.Get(ctx, legacy); oldErr == nil && old.Object.GetName() == key.Name {
		return old, nil
	}
	return entry, err
}

// readAny gets an entry, whether it can be read or not: of one that can't, it has what can be
// read of it, and unread says what is wrong.
func (s *Store) readAny(ctx context.Context, key api.Key) (entry datastore.Entry, unread *datastore.Invalid, err error) {
	entry, err = s.read(ctx, key)
	unread, ok := errors.AsType[*datastore.Invalid](err)
	if !ok || unread.Key != key {
		return entry, nil, err
	}
	obj, ok := s.Registry.Salvage(key, unread.Value)
	if !ok {
		if obj, err = s.Registry.New(key.Kind); err != nil {
			return entry, nil, err
		}
		obj.SetNamespace(key.Namespace)
		obj.SetName(key.Name)
	}
	return datastore.Entry{Key: key, Object: obj, Revision: unread.Revision}, unread, nil
}

func isTiered(kind api.Kind) bool { return slices.Contains(tieredKinds(), kind) }

func tieredKinds() []api.Kind {
	return []api.Kind{
		api.KindGlobalNetworkPolicy, api.KindNetworkPolicy,
		api.KindStagedGlobalNetworkPolicy, api.KindStagedNetworkPolicy,
	}
}

// List reads all objects of a kind, of one namespace or, with an empty one, of
// all.
func (s *Store) List(ctx context.Context, kind api.Kind, namespace string) (Listing, error) {
	snap, err := s.Client.List(ctx, datastore.Range{Kind: kind, Namespace: namespace})
	if err != nil {
		return Listing{}, err
	}
	objects := make([]api.Object, 0, len(snap.Entries)+1)
	if kind == api.KindProfile {
		objects = append(objects, defaultAllow())
	}
	for _, entry := range snap.Entries {
		objects = append(objects, entry.Object)
	}
	sortListing(kind, objects)
	return Listing{Objects: objects, Revision: strconv.FormatInt(int64(snap.Revision), 10), Invalid: snap.Invalid}, nil
}

// sortListing puts tiers into the order in which they apply; everything else
// keeps the order of its keys.
func sortListing(kind api.Kind, objects []api.Object) {
	if kind != api.KindTier {
		return
	}
	slices.SortStableFunc(objects, func(a, b api.Object) int {
		x, y := a.(*v3.Tier).Spec.Order, b.(*v3.Tier).Spec.Order
		switch {
		case x == nil && y == nil:
			return 0
		case x == nil:
			return 1
		case y == nil:
			return -1
		case *x < *y:
			return -1
		case *x > *y:
			return 1
		}
		return 0
	})
}

func isDefaultAllow(key api.Key) bool {
	return key.Kind == api.KindProfile && key.Name == DefaultAllowProfile
}

func defaultAllow() *v3.Profile {
	return &v3.Profile{
		TypeMeta:   metav1.TypeMeta{Kind: string(api.KindProfile), APIVersion: api.GroupVersion},
		ObjectMeta: metav1.ObjectMeta{Name: DefaultAllowProfile},
		Spec: v3.ProfileSpec{
			Ingress: []v3.Rule{{Action: v3.Allow}},
			Egress:  []v3.Rule{{Action: v3.Allow}},
		},
	}
}

// Error is why an operation on an object was not carried out, with what to do
// about it.
type Error struct {
	// Err is what is wrong; it names the object.
	Err error
	// Advice says what the operator can do; empty when that is plain.
	Advice string
}

// Error is "what; what to do".
func (e *Error) Error() string {
	if e.Advice == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + "; " + e.Advice
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func refuse(advice, format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Advice: advice}
}

// named gives the errors of a store the words upstream's users know.
func named(key api.Key, err error, advice string) error {
	switch {
	case errors.Is(err, datastore.ErrAlreadyExists):
		return &Error{Err: &classError{"resource already exists: " + key.String(), err}, Advice: advice}
	case errors.Is(err, datastore.ErrNotFound):
		return &Error{Err: &classError{"resource does not exist: " + key.String(), err}, Advice: advice}
	}
	if unread, ok := errors.AsType[*datastore.Invalid](err); ok && unread.Key == key {
		return &Error{Err: &classError{key.String() + ": can't be read: " + unread.Cause(), err}, Advice: unread.Remedy()}
	}
	return err
}

// Unread is the error for an object that is there and can't be read; any other error stays
// as it is.
func Unread(key api.Key, err error) error { return named(key, err, "") }

// classError has its own text but keeps the class of its cause.
type classError struct {
	text  string
	cause error
}

func (e *classError) Error() string { return e.text }

func (e *classError) Unwrap() error { return e.cause }

// NotFound is the error for an object that is not there.
func NotFound(key api.Key) error {
	return named(key, datastore.ErrNotFound, "")
}

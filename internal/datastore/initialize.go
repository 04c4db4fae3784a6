package datastore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// ClusterInformationName is the name of the one ClusterInformation.
const ClusterInformationName = "default"

// EnsureInitialized creates what every Calico datastore has, where it is
// missing: the ClusterInformation with a new cluster GUID and the ready flag,
// and the tiers default, kube-admin and kube-baseline. What exists is left as it
// is. Several programs may call it at the same time.
//
// Call it before the first write of a program that acts for an operator. now
// gives the creation time; nil means time.Now.
func EnsureInitialized(ctx context.Context, client Client, reg *api.Registry, now func() time.Time) error {
	r := NewResources(client, reg, now)
	info, err := newClusterInformation()
	if err != nil {
		return fmt.Errorf("initialize datastore: %w", err)
	}
	objects := []api.Object{
		info,
		newTier("default", 1_000_000, v3.Deny),
		newTier("kube-admin", 1_000, v3.Pass),
		newTier("kube-baseline", 10_000_000, v3.Pass),
	}
	for _, obj := range objects {
		// Reading first: a user who may only read can still use an initialized store.
		key, err := reg.KeyOf(obj)
		if err == nil {
			_, err = client.Get(ctx, key)
		}
		if errors.Is(err, ErrNotFound) {
			_, err = r.Create(ctx, obj)
		}
		if err != nil && !errors.Is(err, ErrAlreadyExists) && !errors.Is(err, ErrInvalid) {
			return fmt.Errorf("initialize datastore: %w", err)
		}
	}
	return nil
}

func newClusterInformation() (*v3.ClusterInformation, error) {
	var guid [16]byte
	if _, err := rand.Read(guid[:]); err != nil {
		return nil, fmt.Errorf("make a cluster GUID: %w", err)
	}
	ready := true
	return &v3.ClusterInformation{
		ObjectMeta: metav1.ObjectMeta{Name: ClusterInformationName},
		Spec: v3.ClusterInformationSpec{
			ClusterGUID:    hex.EncodeToString(guid[:]),
			DatastoreReady: &ready,
		},
	}, nil
}

func newTier(name string, order float64, action v3.Action) *v3.Tier {
	return &v3.Tier{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v3.TierSpec{Order: &order, DefaultAction: &action},
	}
}

// Ready reports whether the datastore is open for changes: its ClusterInformation
// exists and isn't locked, as it is during a migration.
func Ready(ctx context.Context, client Client) (bool, error) {
	e, err := client.Get(ctx, api.Key{Kind: api.KindClusterInformation, Name: ClusterInformationName})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, ok := e.Object.(*v3.ClusterInformation)
	return ok && info.Spec.DatastoreReady != nil && *info.Spec.DatastoreReady, nil
}

func newUID() string { return uuid.NewString() }

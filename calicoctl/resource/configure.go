package resource

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// ConfigureIPAM changes how addresses are given out. Without a stored configuration
// what holds by default is changed and stored.
func (s *Store) ConfigureIPAM(ctx context.Context, change func(*api.IPAMConfigSpec)) error {
	key := api.IPAMConfigKey()
	for range maxAttempts {
		err := s.modify(ctx, key, "", func(old api.Object) (api.Object, error) {
			config := old.DeepCopyObject().(*api.IPAMConfig)
			change(&config.Spec)
			return config, Complete(s.Registry, config)
		})
		if !errors.Is(err, datastore.ErrNotFound) {
			return err
		}
		spec, err := s.IPAMConfig(ctx)
		if err != nil {
			return err
		}
		change(&spec)
		config := &api.IPAMConfig{
			TypeMeta:   metav1.TypeMeta{Kind: string(key.Kind), APIVersion: api.GroupVersion},
			ObjectMeta: metav1.ObjectMeta{Name: key.Name}, Spec: spec,
		}
		if err := Complete(s.Registry, config); err != nil {
			return err
		}
		if err = s.Create(ctx, config); !errors.Is(err, datastore.ErrAlreadyExists) {
			return err
		}
	}
	return refuse("try again", "update conflict: %s: changed by others %d times in a row", key, maxAttempts)
}

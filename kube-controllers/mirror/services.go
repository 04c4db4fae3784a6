package mirror

import (
	"context"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tortie/internal/advertise"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/kube-controllers/convert"
	"tortie/kube-controllers/kube"
)

// byService finds endpoint slices by "<namespace>/<name>" of their service.
const byService = "service"

// serviceWorkers is how many services are looked at at the same time: all of them
// are when the ranges of service addresses change.
const serviceWorkers = 4

// services is what Services works with.
type services struct {
	env       Environment
	services  *kube.Resource[*corev1.Service]
	endpoints *kube.Resource[*discoveryv1.EndpointSlice]
}

// Services keeps an AdvertisedService for each Service of which nodes announce
// addresses by themselves. A cluster that advertises no service has none.
func Services(env Environment, svcs *kube.Resource[*corev1.Service], endpoints *kube.Resource[*discoveryv1.EndpointSlice]) (*Mirror, error) {
	s := &services{env, svcs, endpoints}
	m := newMirror(env, source{
		name: "service", kind: api.KindAdvertisedService, workers: serviceWorkers,
		owns: func(api.Key) bool { return true }, want: s.want, gone: s.gone,
		spec: func(obj api.Object) any { return obj.(*api.AdvertisedService).Spec },
		adopt: func(stored, want api.Object) api.Object {
			out := stored.DeepCopyObject().(*api.AdvertisedService)
			out.Spec = want.(*api.AdvertisedService).Spec
			return out
		},
	})
	env.Cache.Watch(api.KindBGPConfiguration, func(_, _ *datastore.Entry, key api.Key) {
		if key == configKey() {
			svcs.Each(func(svc *corev1.Service) { m.queue.Add(api.AdvertisedServiceKey(svc.Namespace, svc.Name)) })
		}
	})
	err := endpoints.Index(byService, func(e *discoveryv1.EndpointSlice) []string {
		if key, ok := serviceOf(e); ok {
			return []string{key.Namespace + "/" + key.Name}
		}
		return nil
	})
	if err != nil {
		return m, err
	}
	err = endpoints.WatchVersions(func(e *discoveryv1.EndpointSlice) {
		if key, ok := serviceOf(e); ok {
			m.queue.Add(key)
		}
	})
	if err != nil {
		return m, err
	}
	return m, svcs.Watch(func(namespace, name string) { m.queue.Add(api.AdvertisedServiceKey(namespace, name)) })
}

func configKey() api.Key {
	return api.Key{Kind: api.KindBGPConfiguration, Name: advertise.ConfigName}
}

// serviceOf is the key of the service whose endpoints are in a slice.
func serviceOf(e *discoveryv1.EndpointSlice) (api.Key, bool) {
	name := e.Labels[discoveryv1.LabelServiceName]
	return api.AdvertisedServiceKey(e.Namespace, name), name != ""
}

func (s *services) want(key api.Key) api.Object {
	svc, ok := s.services.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	if record, ok := s.record(svc); ok {
		return record
	}
	return nil
}

// gone asks whether the Service is gone, or is one to be announced no more. While
// the BGPConfiguration can't be read that can't be told.
func (s *services) gone(ctx context.Context, key api.Key) (bool, error) {
	svc, exists, err := s.services.Live(ctx, key.Namespace, key.Name)
	if err != nil || !exists {
		return !exists, err
	}
	if s.env.Cache.Unreadable(configKey()) {
		return false, nil
	}
	_, announced := s.record(svc)
	return !announced, nil
}

// record is what should be stored of a Service; ok is false for nothing.
func (s *services) record(svc *corev1.Service) (record *api.AdvertisedService, ok bool) {
	entry, known := s.env.Cache.Get(configKey())
	if !known {
		return nil, false
	}
	config, ok := entry.Object.(*v3.BGPConfiguration)
	if !ok {
		return nil, false
	}
	record, ok = convert.Service(svc, s.endpoints.Find(byService, svc.Namespace+"/"+svc.Name))
	if !ok || len(advertise.RangesOf(&config.Spec).Addresses(&record.Spec)) == 0 {
		return nil, false
	}
	return record, true
}

// Package kube is Kubernetes as the controllers see it: caches kept by watches,
// and the API server itself for what must be certain.
package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// Object is any object of Kubernetes.
type Object interface {
	metav1.Object
	runtime.Object
}

// Resource is one kind of Kubernetes objects. What it gives is shared and must not
// be changed.
type Resource[T Object] struct {
	name     string // plural, as RBAC has it
	informer cache.SharedIndexInformer
	live     func(ctx context.Context, namespace, name string) (T, error)
}

// Get is an object as the cache has it, which may be older than the API server's.
// The namespace is empty for cluster-wide kinds.
func (r *Resource[T]) Get(namespace, name string) (obj T, ok bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	item, ok, err := r.informer.GetStore().GetByKey(key)
	if err != nil || !ok {
		return obj, false
	}
	obj, ok = item.(T)
	return obj, ok
}

// Live asks the API server for an object; ok is false when there is none.
func (r *Resource[T]) Live(ctx context.Context, namespace, name string) (obj T, ok bool, err error) {
	obj, err = r.live(ctx, namespace, name)
	switch {
	case apierrors.IsNotFound(err):
		return obj, false, nil
	case err != nil:
		return obj, false, fmt.Errorf("get %s %s: %w", r.name, name, explain(r.name, err))
	}
	return obj, true, nil
}

// HasSynced reports whether the cache has been filled once.
func (r *Resource[T]) HasSynced() bool { return r.informer.HasSynced() }

// Empty reports whether the cache holds no object at all.
func (r *Resource[T]) Empty() bool { return len(r.informer.GetStore().ListKeys()) == 0 }

// Index lets objects be found by something they say, under a name. It must be
// called before the Cluster runs.
func (r *Resource[T]) Index(name string, values func(T) []string) error {
	err := r.informer.AddIndexers(cache.Indexers{name: func(item any) ([]string, error) {
		if obj, ok := item.(T); ok {
			return values(obj), nil
		}
		return nil, nil
	}})
	if err != nil {
		return fmt.Errorf("index %s: %w", r.name, err)
	}
	return nil
}

// Find lists the objects that an index has for a value, in no order.
func (r *Resource[T]) Find(index, value string) []T {
	items, err := r.informer.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil // there is no such index
	}
	var out []T
	for _, item := range items {
		if obj, ok := item.(T); ok {
			out = append(out, obj)
		}
	}
	return out
}

// Each calls f for each object of the cache, in no order.
func (r *Resource[T]) Each(f func(T)) {
	for _, item := range r.informer.GetStore().List() {
		if obj, ok := item.(T); ok {
			f(obj)
		}
	}
}

// Watch has f called whenever the cache's view of an object has changed. It must
// be called before the Cluster runs; f must be quick.
func (r *Resource[T]) Watch(f func(namespace, name string)) error {
	call := func(obj T) { f(obj.GetNamespace(), obj.GetName()) }
	return r.handle(call, func(_, after T) { call(after) })
}

// WatchVersions is Watch for those to whom it matters what an object said before:
// f is called with both versions after a change, with the last after a deletion.
func (r *Resource[T]) WatchVersions(f func(T)) error {
	return r.handle(f, func(before, after T) { f(before); f(after) })
}

func (r *Resource[T]) handle(changed func(T), updated func(before, after T)) error {
	call := func(item any) {
		if gone, ok := item.(cache.DeletedFinalStateUnknown); ok {
			item = gone.Obj
		}
		if obj, ok := item.(T); ok {
			changed(obj)
		}
	}
	_, err := r.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: call, DeleteFunc: call, UpdateFunc: func(old, item any) {
			before, ok := old.(T)
			if after, also := item.(T); ok && also {
				updated(before, after)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", r.name, err)
	}
	return nil
}

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

// Empty reports whether the cache holds no object at all.
func (r *Resource[T]) Empty() bool { return len(r.informer.GetStore().ListKeys()) == 0 }

// Watch has f called whenever the cache's view of an object has changed. It must
// be called before the Cluster runs; f must be quick.
func (r *Resource[T]) Watch(f func(namespace, name string)) error {
	call := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if o, ok := obj.(metav1.Object); ok {
			f(o.GetNamespace(), o.GetName())
		}
	}
	_, err := r.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: call, DeleteFunc: call, UpdateFunc: func(_, obj any) { call(obj) },
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", r.name, err)
	}
	return nil
}

package kubeapi

import (
	"context"
	"math"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Object is any object of Kubernetes.
type Object interface {
	metav1.Object
	runtime.Object
}

// Store takes in what is followed. Its methods are called from one goroutine.
type Store[T Object] interface {
	// Trim is the object with no more than is to be kept. It may change its argument.
	Trim(obj T) T
	// Put and Delete tell of one object; Replace of all there are.
	Put(obj T)
	Delete(obj T)
	Replace(all []T)
}

// Selection is what of a resource is followed. The API server does the selecting:
// nothing else reaches this node.
type Selection struct {
	Namespace string // empty for all, and for what has none
	Resource  string // "pods"
	Fields    string // "spec.nodeName=node-1"
}

// Follow keeps a store up to date with what is selected until ctx ends. While it
// can't, Problems says why and it tries again.
func Follow[T Object](ctx context.Context, c *Client, s Selection, store Store[T]) {
	var example T
	lw := &source{client: c, selection: s}
	r := cache.NewReflectorWithOptions(lw.listWatch(), example, &accumulator[T]{store}, cache.ReflectorOptions{Name: s.Resource, Backoff: pace()})
	pause := pace()
	for ctx.Err() == nil {
		began := time.Now()
		_ = r.ListAndWatchWithContext(ctx) // the client has noted why it ended
		if time.Since(began) > pause.Cap {
			pause = pace()
		}
		timer := time.NewTimer(pause.Step())
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pace is how a watch that failed is tried again. client-go's own waits up to a
// minute, for which a node would know nothing of new pods after a short outage.
func pace() *wait.Backoff {
	return &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Steps: math.MaxInt, Cap: 8 * time.Second}
}

// source lists and watches, and has the client note how that fares: a reflector
// keeps some of the errors to itself.
type source struct {
	client    *Client
	selection Selection
}

func (s *source) listWatch() *cache.ListWatch {
	return &cache.ListWatch{ListWithContextFunc: s.list, WatchFuncWithContext: s.watch}
}

func (s *source) note(ctx context.Context, verb string, err error) error {
	access := Access{Role: s.client.role, Verbs: "list and watch", Resource: s.selection.Resource}
	return s.client.note(ctx, request{s.selection.Resource, verb}, access, err)
}

func (s *source) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	options.FieldSelector = s.selection.Fields
	list, err := s.client.rest.Get().Namespace(s.selection.Namespace).Resource(s.selection.Resource).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Get()
	if err := s.note(ctx, "list", err); err != nil {
		return nil, err
	}
	return list, nil
}

func (s *source) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.FieldSelector, options.Watch = s.selection.Fields, true
	w, err := s.client.rest.Get().Namespace(s.selection.Namespace).Resource(s.selection.Resource).VersionedParams(&options, metav1.ParameterCodec).Watch(ctx)
	if options.SendInitialEvents != nil && apierrors.IsInvalid(err) {
		return nil, err // an API server that doesn't stream lists: it is asked for one
	}
	if err := s.note(ctx, "watch", err); err != nil {
		return nil, err
	}
	return w, nil
}

// accumulator hands what a reflector finds to a Store.
type accumulator[T Object] struct{ store Store[T] }

// Add implements cache.ReflectorStore.
func (a *accumulator[T]) Add(obj any) error {
	if o, ok := obj.(T); ok {
		a.store.Put(a.store.Trim(o))
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (a *accumulator[T]) Update(obj any) error { return a.Add(obj) }

// Delete implements cache.ReflectorStore.
func (a *accumulator[T]) Delete(obj any) error {
	if o, ok := obj.(T); ok {
		a.store.Delete(o)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (a *accumulator[T]) Replace(list []any, _ string) error {
	all := make([]T, 0, len(list))
	for _, obj := range list {
		if o, ok := obj.(T); ok {
			all = append(all, a.store.Trim(o))
		}
	}
	a.store.Replace(all)
	return nil
}

// Resync implements cache.ReflectorStore: there is nothing to do, for a Store has
// no more than it was given.
func (*accumulator[T]) Resync() error { return nil }

// Transformer implements cache.TransformingStore: what is collected of a first list
// that comes as a stream is trimmed one by one.
func (a *accumulator[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if o, ok := obj.(T); ok {
			return a.store.Trim(o), nil
		}
		return obj, nil
	}
}

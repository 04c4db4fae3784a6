// Package apitest is an API server for tests: pods, nodes and secrets with watches, field
// selectors and patches of a node's status, and Events. It speaks HTTP, so that what
// a client asks for is what it gets.
package apitest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/rest"

	"tortie/internal/kubeevent/eventtest"
)

// Server is an API server. Make it with New.
type Server struct {
	Events eventtest.Server

	mu       sync.Mutex
	revision int64
	objects  map[string]object // by "pods/namespace/name"
	watches  map[*watcher]bool
	requests []string // "list pods spec.nodeName=n", "watch …", "patch nodes/status n"
	// deny is asked for each request; a status other than 0 is the answer.
	deny func(verb, resource string) int
	// streams: the first list may come by a watch.
	streams bool

	connections chan net.Conn
	closed      chan struct{}
	http        *http.Server
}

type object interface {
	metav1.Object
	runtime.Object
}

type watcher struct {
	namespace, resource, fields string

	events chan metav1.WatchEvent
	ended  chan struct{}
}

// New makes a Server that is reached through Config. streams says whether it serves a
// list by a watch, as new API servers do.
func New(streams bool) *Server {
	s := &Server{
		objects: map[string]object{}, watches: map[*watcher]bool{}, streams: streams, revision: 100,
		connections: make(chan net.Conn), closed: make(chan struct{}),
	}
	s.http = &http.Server{Handler: s}
	go func() { _ = s.http.Serve(listener{s}) }()
	return s
}

// Close ends the server and its connections.
func (s *Server) Close() { close(s.closed); _ = s.http.Close(); s.Cut() }

// Config is how a client reaches it: without a network, so that it works where time is
// simulated.
func (s *Server) Config() *rest.Config {
	return &rest.Config{Host: "http://kubernetes.invalid", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		client, server := net.Pipe()
		select {
		case s.connections <- server:
			return client, nil
		case <-s.closed:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
}

// listener hands the Server its connections.
type listener struct{ s *Server }

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.s.connections:
		return c, nil
	case <-l.s.closed:
		return nil, net.ErrClosed
	}
}
func (listener) Close() error   { return nil }
func (listener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// Deny has requests answered with a status; 0 for an answer in order.
func (s *Server) Deny(deny func(verb, resource string) int) {
	s.mu.Lock()
	s.deny = deny
	s.mu.Unlock()
	s.Cut()
}

// Cut ends all watches.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		close(w.ended)
		delete(s.watches, w)
	}
}

// Requests are those since the last call.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.requests
	s.requests = nil
	return out
}

// Put makes or changes a *corev1.Pod, *corev1.Node, *corev1.Namespace, *corev1.Secret or
// *corev1.Service.
func (s *Server) Put(obj object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(obj)
}

func (s *Server) put(obj object) {
	obj = obj.DeepCopyObject().(object)
	s.revision++
	obj.SetResourceVersion(strconv.FormatInt(s.revision, 10))
	obj.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kindOf(obj)))
	key := keyOf(obj)
	before, known := s.objects[key]
	s.objects[key] = obj
	for w := range s.watches {
		was, is := known && w.selects(before), w.selects(obj)
		switch {
		case was && is:
			w.tell("MODIFIED", obj)
		case is:
			w.tell("ADDED", obj)
		case was:
			w.tell("DELETED", obj)
		}
	}
}

// Delete removes an object.
func (s *Server) Delete(obj object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	before, known := s.objects[keyOf(obj)]
	delete(s.objects, keyOf(obj))
	for w := range s.watches {
		if known && w.selects(before) {
			w.tell("DELETED", before)
		}
	}
}

// Node is a node as it is stored; nil when there is none.
func (s *Server) Node(name string) *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.objects["nodes//"+name].(*corev1.Node); ok {
		return n.DeepCopy()
	}
	return nil
}

func kindOf(obj object) string {
	switch obj.(type) {
	case *corev1.Node:
		return "Node"
	case *corev1.Secret:
		return "Secret"
	case *corev1.Service:
		return "Service"
	case *corev1.Namespace:
		return "Namespace"
	}
	return "Pod"
}

// kindOfResource is the kind of "pods".
func kindOfResource(resource string) string {
	return map[string]string{"pods": "Pod", "nodes": "Node", "secrets": "Secret", "services": "Service", "namespaces": "Namespace"}[resource]
}

func resourceOf(obj object) string { return strings.ToLower(kindOf(obj)) + "s" }

func keyOf(obj object) string {
	return resourceOf(obj) + "/" + obj.GetNamespace() + "/" + obj.GetName()
}

func (w *watcher) selects(obj object) bool {
	if resourceOf(obj) != w.resource || w.namespace != "" && obj.GetNamespace() != w.namespace {
		return false
	}
	field, value, ok := strings.Cut(w.fields, "=")
	if !ok {
		return true
	}
	pod, isPod := obj.(*corev1.Pod)
	switch {
	case field == "metadata.name":
		return obj.GetName() == value
	case field == "spec.nodeName" && isPod:
		return pod.Spec.NodeName == value
	}
	return false
}

func (w *watcher) tell(kind string, obj runtime.Object) {
	raw, _ := json.Marshal(obj)
	w.events <- metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: raw}}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	path := strings.Split(strings.TrimPrefix(req.URL.Path, "/api/v1/"), "/")
	query := req.URL.Query()
	namespace := ""
	if len(path) >= 3 && path[0] == "namespaces" && kindOfResource(path[2]) != "" {
		namespace, path = path[1], path[2:]
	}
	verb, resource := "list", strings.Join(path, "/")
	switch {
	case path[0] == "namespaces" && len(path) > 1:
		s.Events.ServeHTTP(rw, req)
		return
	case req.Method == http.MethodPatch && len(path) == 3:
		verb, resource = "patch", path[0]+"/"+path[2]
	case query.Get("watch") == "true":
		verb = "watch"
	case len(path) == 2:
		verb, resource = "get", path[0]
	}
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(verb+" "+resource+" "+query.Get("fieldSelector")))
	selects := watcher{namespace: namespace, resource: resource, fields: query.Get("fieldSelector")}
	deny := s.deny
	s.mu.Unlock()
	if deny != nil {
		if status := deny(verb, resource); status != 0 {
			refuse(rw, status, verb, resource)
			return
		}
	}
	switch {
	case verb == "patch" && resource == "nodes/status":
		s.patchStatus(rw, req, path[1])
	case verb == "watch" && query.Get("sendInitialEvents") == "true" && !s.streams:
		refuse(rw, http.StatusUnprocessableEntity, verb, resource)
	case verb == "watch":
		s.watch(rw, req, &selects)
	case verb == "get":
		s.get(rw, resource, namespace, path[1])
	default:
		s.list(rw, &selects)
	}
}

func (s *Server) get(rw http.ResponseWriter, resource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, ok := s.objects[resource+"/"+namespace+"/"+name]
	if !ok {
		refuse(rw, http.StatusNotFound, "get", resource)
		return
	}
	answer(rw, http.StatusOK, obj)
}

func (s *Server) list(rw http.ResponseWriter, pick *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var items []object
	for _, obj := range s.objects {
		if pick.selects(obj) {
			items = append(items, obj)
		}
	}
	answer(rw, http.StatusOK, map[string]any{
		"kind": kindOfResource(pick.resource) + "List", "apiVersion": "v1",
		"metadata": map[string]any{"resourceVersion": strconv.FormatInt(s.revision, 10)}, "items": items,
	})
}

// watch tells of what changes from now on. What changed since the caller's list is
// told as well: everything is, at the beginning, unless nothing has changed.
func (s *Server) watch(rw http.ResponseWriter, req *http.Request, w *watcher) {
	w.events, w.ended = make(chan metav1.WatchEvent, 1000), make(chan struct{})
	initial := req.URL.Query().Get("sendInitialEvents") == "true"
	s.mu.Lock()
	since, _ := strconv.ParseInt(req.URL.Query().Get("resourceVersion"), 10, 64)
	for _, obj := range s.objects {
		if revision, _ := strconv.ParseInt(obj.GetResourceVersion(), 10, 64); w.selects(obj) && (initial || revision > since) {
			w.tell("ADDED", obj)
		}
	}
	if initial {
		mark := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: kindOfResource(w.resource), APIVersion: "v1"}}
		mark.ResourceVersion = strconv.FormatInt(s.revision, 10)
		mark.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		w.tell("BOOKMARK", mark)
	}
	s.watches[w] = true
	s.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(http.StatusOK)
	flush := rw.(http.Flusher).Flush
	flush()
	for {
		select {
		case e := <-w.events:
			_ = json.NewEncoder(rw).Encode(e)
			flush()
		case <-w.ended:
			return
		case <-req.Context().Done():
			s.mu.Lock()
			delete(s.watches, w)
			s.mu.Unlock()
			return
		}
	}
}

func (s *Server) patchStatus(rw http.ResponseWriter, req *http.Request, name string) {
	patch, _ := io.ReadAll(req.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	node, ok := s.objects["nodes//"+name].(*corev1.Node)
	if !ok || req.Header.Get("Content-Type") != "application/strategic-merge-patch+json" {
		refuse(rw, http.StatusNotFound, "patch", "nodes")
		return
	}
	raw, _ := json.Marshal(node)
	merged, err := strategicpatch.StrategicMergePatch(raw, patch, corev1.Node{})
	changed := &corev1.Node{}
	if err != nil || json.Unmarshal(merged, changed) != nil {
		refuse(rw, http.StatusBadRequest, "patch", "nodes")
		return
	}
	s.put(changed)
	answer(rw, http.StatusOK, changed)
}

func answer(rw http.ResponseWriter, status int, body any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(body)
}

func refuse(rw http.ResponseWriter, status int, verb, resource string) {
	reasons := map[int]metav1.StatusReason{
		http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusUnauthorized: metav1.StatusReasonUnauthorized,
		http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusUnprocessableEntity: metav1.StatusReasonInvalid,
		http.StatusGone: metav1.StatusReasonExpired, http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable,
	}
	answer(rw, status, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(status), Reason: reasons[status], //nolint:gosec // a status
		Message: "cannot " + verb + " resource \"" + resource + "\"",
	})
}

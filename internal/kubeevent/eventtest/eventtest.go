// Package eventtest is the part of an API server that keeps Events, for tests. It is
// used without a network: as an http.RoundTripper, or as an http.Handler behind one.
package eventtest

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"tortie/internal/kubeevent"
)

// Event is what is stored of an Event.
type Event struct {
	Name, Namespace string
	About           kubeevent.Object
	Reason, Message string
	Type, Component string
	Count           int
	First, Last     string
}

// Server keeps Events. The zero value is ready.
type Server struct {
	mu       sync.Mutex
	events   []map[string]any
	requests int
	// fail is asked for each request; a status other than 0 is the answer.
	fail func(method, path string) int
	err  error
}

// Fail has requests answered with a status; 0 for an answer in order.
func (s *Server) Fail(fail func(method, path string) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// Unreachable has every request fail with err; nil ends that.
func (s *Server) Unreachable(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Expire forgets all Events.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = nil
}

// Requests is how many there were.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// API is the server as a program sees it.
func (s *Server) API() kubeevent.API {
	return kubeevent.API{
		Client: &http.Client{Transport: s}, Base: &url.URL{Scheme: "https", Host: "kubernetes.invalid"},
		Component: "felix", Host: "worker-1",
	}
}

// ServePods serves over TLS, as a pod sees it: with the environment that Kubernetes
// gives, and credentials in a folder. Other tokens than that are refused.
func (s *Server) ServePods(t testing.TB) (env map[string]string, credentials string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t1" {
			refuse(w, http.StatusUnauthorized)
			return
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	credentials = t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	err := errors.Join(os.WriteFile(filepath.Join(credentials, "ca.crt"), ca, 0o600), os.WriteFile(filepath.Join(credentials, "token"), []byte("t1\n"), 0o600))
	host, port, splitErr := net.SplitHostPort(server.Listener.Addr().String())
	if err := errors.Join(err, splitErr); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}, credentials
}

// RoundTrip implements http.RoundTripper.
func (s *Server) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	err := s.err
	if err != nil {
		s.requests++
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w.Result(), nil
}

// ServeHTTP implements http.Handler: POST and PATCH of core/v1 Events, as an API
// server does them.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.fail != nil {
		if status := s.fail(req.Method, req.URL.Path); status != 0 {
			refuse(w, status)
			return
		}
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/api/v1/namespaces/")
	parts := strings.Split(path, "/")
	if !ok || len(parts) < 2 || parts[1] != "events" {
		refuse(w, http.StatusNotFound)
		return
	}
	raw, _ := io.ReadAll(req.Body)
	var body map[string]any
	if json.Unmarshal(raw, &body) != nil {
		refuse(w, http.StatusBadRequest)
		return
	}
	switch {
	case req.Method == http.MethodPost && len(parts) == 2:
		s.create(w, parts[0], body)
	case req.Method == http.MethodPatch && len(parts) == 3 && req.Header.Get("Content-Type") == "application/merge-patch+json":
		s.patch(w, parts[0], parts[2], body)
	default:
		refuse(w, http.StatusMethodNotAllowed)
	}
}

func (s *Server) create(w http.ResponseWriter, namespace string, event map[string]any) {
	meta, _ := event["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	switch {
	case meta["namespace"] != namespace || event["kind"] != "Event" || event["apiVersion"] != "v1" || name == "":
		refuse(w, http.StatusUnprocessableEntity)
	case s.find(namespace, name) >= 0:
		refuse(w, http.StatusConflict)
	default:
		s.events = append(s.events, event)
		answer(w, http.StatusCreated, event)
	}
}

func (s *Server) patch(w http.ResponseWriter, namespace, name string, change map[string]any) {
	i := s.find(namespace, name)
	if i < 0 {
		refuse(w, http.StatusNotFound)
		return
	}
	maps.Copy(s.events[i], change)
	answer(w, http.StatusOK, s.events[i])
}

func (s *Server) find(namespace, name string) int {
	return slices.IndexFunc(s.events, func(e map[string]any) bool {
		meta, _ := e["metadata"].(map[string]any)
		return meta["namespace"] == namespace && meta["name"] == name
	})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int) {
	answer(w, status, map[string]any{"kind": "Status", "message": "events: " + http.StatusText(status), "code": status})
}

// Events are all that is stored, in the order of their making.
func (s *Server) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Event, 0, len(s.events))
	for _, e := range s.events {
		raw, _ := json.Marshal(e)
		var stored struct {
			Metadata struct {
				Name, Namespace string
			}
			InvolvedObject                kubeevent.Object
			Reason, Message, Type         string
			Source                        struct{ Component string }
			Count                         int
			FirstTimestamp, LastTimestamp string
		}
		_ = json.Unmarshal(raw, &stored)
		out = append(out, Event{
			Name: stored.Metadata.Name, Namespace: stored.Metadata.Namespace, About: stored.InvolvedObject,
			Reason: stored.Reason, Message: stored.Message, Type: stored.Type, Component: stored.Source.Component,
			Count: stored.Count, First: stored.FirstTimestamp, Last: stored.LastTimestamp,
		})
	}
	return out
}

// Package kubeevent says in Events of Kubernetes what is wrong on a node, so that
// kubectl describe shows it. It needs nothing but an HTTP client, for the smallest
// of the programs say so too.
package kubeevent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Object is what an Event is about.
type Object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`
}

// Node is a node of the cluster. The kubelet gives nodes their names as UIDs in its
// Events, and kubectl describe looks for them there.
func Node(name string) Object {
	return Object{APIVersion: "v1", Kind: "Node", Name: name, UID: name}
}

// Pod is a pod; kubectl describe finds its Events by the UID.
func Pod(namespace, name, uid string) Object {
	return Object{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: uid}
}

// About is what the Events of a process are about: its node, and itself where the
// environment (POD_NAMESPACE, POD_NAME, POD_UID, by the downward API) tells which pod
// it is. The node outlives the pod; the pod is what one looks at when it fails.
func About(node string, getenv func(string) string) []Object {
	var out []Object
	if node != "" {
		out = append(out, Node(node))
	}
	if ns, name, uid := getenv("POD_NAMESPACE"), getenv("POD_NAME"), getenv("POD_UID"); ns != "" && name != "" && uid != "" {
		out = append(out, Pod(ns, name, uid))
	}
	return out
}

// Warning is one thing that is wrong. Its Reason and Topic are what makes it the same
// thing as before; the Message may change.
type Warning struct {
	Reason  string // for machines: "DatastoreUnavailable"
	Topic   string // which of several with one Reason
	Message string // one line: what, where, why, what to do
}

// API is where Events go.
type API struct {
	Client *http.Client
	Base   *url.URL
	// Component and Host say whose Events they are: "felix", and the node.
	Component, Host string
}

// event is a core/v1 Event, as far as one is written here.
type event struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	InvolvedObject Object `json:"involvedObject"`
	Reason         string `json:"reason"`
	Message        string `json:"message"`
	Source         struct {
		Component string `json:"component"`
		Host      string `json:"host,omitempty"`
	} `json:"source"`
	FirstTimestamp string `json:"firstTimestamp"`
	LastTimestamp  string `json:"lastTimestamp"`
	Count          int    `json:"count"`
	Type           string `json:"type"`
}

// change is what of an Event is new when it happened again.
type change struct {
	Message       string `json:"message"`
	LastTimestamp string `json:"lastTimestamp"`
	Count         int    `json:"count,omitempty"`
}

// maxMessage is Kubernetes' limit for what an Event says.
const maxMessage = 1024

// name is that of the Event: the same one for the same thing, also after a restart,
// so that a program that starts again and again doesn't leave an Event each time.
func (a API) name(about Object, w Warning) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{a.Component, a.Host, about.Kind, about.UID, w.Reason, w.Topic}, "\x00")))
	return about.Name + "." + hex.EncodeToString(sum[:8])
}

// namespace is where an Event about an object stands.
func namespace(about Object) string {
	if about.Namespace == "" {
		return "default"
	}
	return about.Namespace
}

// say writes that a Warning holds, as for the count-th time; 0 when that isn't
// known. It returns how often it has been written by now.
func (a API) say(ctx context.Context, about Object, w Warning, count int, now time.Time) (int, error) {
	if count > 0 {
		written, err := a.again(ctx, about, w, count+1, now)
		if !isStatus(err, http.StatusNotFound) {
			return written, err
		} // it has expired
	}
	err := a.create(ctx, about, w, now)
	if !isStatus(err, http.StatusConflict) {
		return 1, err
	}
	// An earlier life of this program has written it. What it answers to a change
	// tells how often.
	written, err := a.again(ctx, about, w, 0, now)
	if err != nil {
		return 0, err
	}
	return a.again(ctx, about, w, written+1, now)
}

func (a API) create(ctx context.Context, about Object, w Warning, now time.Time) error {
	e := event{
		APIVersion: "v1", Kind: "Event", InvolvedObject: about, Reason: w.Reason, Message: shortened(w.Message),
		FirstTimestamp: timestamp(now), LastTimestamp: timestamp(now), Count: 1, Type: "Warning",
	}
	e.Metadata.Name, e.Metadata.Namespace = a.name(about, w), namespace(about)
	e.Source.Component, e.Source.Host = a.Component, a.Host
	_, err := a.send(ctx, request{"create", http.MethodPost, "application/json", "namespaces/" + namespace(about) + "/events"}, e)
	return err
}

func (a API) again(ctx context.Context, about Object, w Warning, count int, now time.Time) (int, error) {
	c := change{Message: shortened(w.Message), LastTimestamp: timestamp(now), Count: count}
	path := "namespaces/" + namespace(about) + "/events/" + a.name(about, w)
	answer, err := a.send(ctx, request{"patch", http.MethodPatch, "application/merge-patch+json", path}, c)
	if err != nil {
		return 0, err
	}
	var stored struct {
		Count int `json:"count"`
	}
	if err := json.Unmarshal(answer, &stored); err != nil {
		return 0, fmt.Errorf("write an Event: the API server's answer: %w", err)
	}
	return stored.Count, nil
}

// requestTimeout bounds one request, maxAnswer what is read of its answer.
const (
	requestTimeout = 5 * time.Second
	maxAnswer      = 64 << 10
)

// request says what is to be done with an Event.
type request struct {
	verb, method, contentType string
	path                      string // below /api/v1
}

func (a API) send(ctx context.Context, r request, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.method, a.Base.JoinPath("api/v1", r.path).String(), bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", r.contentType)
	req.Header.Set("Accept", "application/json")
	resp, err := a.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("write an Event: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, fmt.Errorf("write an Event: %w", err)
	case resp.StatusCode >= http.StatusBadRequest:
		return nil, &StatusError{Code: resp.StatusCode, Verb: r.verb, Message: statusMessage(answer)}
	}
	return answer, nil
}

// StatusError is a refusal of the API server.
type StatusError struct {
	Code    int
	Verb    string // what was to be done with an Event
	Message string
}

// Error names the request and what the API server says of it.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s an Event: %d %s: %s", e.Verb, e.Code, http.StatusText(e.Code), e.Message)
}

func isStatus(err error, code int) bool {
	refusal, ok := errors.AsType[*StatusError](err)
	return ok && refusal.Code == code
}

// statusMessage is that of a metav1.Status, else the answer itself.
func statusMessage(answer []byte) string {
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(answer, &status) == nil && status.Message != "" {
		return status.Message
	}
	return shortened(string(answer))
}

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// shortened is a message as long as an Event may have it, on one line.
func shortened(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= maxMessage {
		return s
	}
	const more = " …"
	return strings.ToValidUTF8(s[:maxMessage-len(more)], "") + more
}

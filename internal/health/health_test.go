package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProbesSayWhyNot(t *testing.T) {
	var live, ready error
	server := httptest.NewServer(Probes{Live: func() error { return live }, Ready: func() error { return ready }}.Handler())
	defer server.Close()
	for _, tc := range []struct {
		name, path  string
		live, ready error
		status      int
		says        string
	}{
		{"lives", "/liveness", nil, errors.New("not yet"), http.StatusOK, "live"},
		{"is ready", "/readiness", nil, nil, http.StatusOK, "ready"},
		{"is not ready", "/readiness", nil, errors.New("the datastore is away"), http.StatusServiceUnavailable, "the datastore is away"},
		{"hangs", "/liveness", errors.New("the loop hangs"), nil, http.StatusServiceUnavailable, "the loop hangs"},
		{"no other path", "/metrics", nil, nil, http.StatusNotFound, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			live, ready = tc.live, tc.ready
			resp, err := http.Get(server.URL + tc.path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(body), tc.says) {
				t.Errorf("%d %q %v", resp.StatusCode, body, err)
			}
		})
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Serve(ctx, l, http.NotFoundHandler()); err != nil {
		t.Error(err)
	}
}

package etcd_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
)

// webServer answers every request with a status, in HTTP/1 and, if wanted, in
// HTTP/2 without TLS.
func webServer(t *testing.T, http2 bool, code int) (url string) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "who are you?", code)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(http2)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

func emptyGRPCServer(t *testing.T) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return "http://" + l.Addr().String()
}

func TestAServerThatIsNotEtcdIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ url, want string }{
		"HTTP/1":                {webServer(t, false, http.StatusNotFound), "a web server answers there, not etcd"},
		"HTTP/2, not found":     {webServer(t, true, http.StatusNotFound), "a web server answers there (404 Not Found), not etcd"},
		"HTTP/2, forbidden":     {webServer(t, true, http.StatusForbidden), "a web server answers there (403 Forbidden), not etcd"},
		"HTTP/2, who are you":   {webServer(t, true, http.StatusUnauthorized), "a web server answers there (401 Unauthorized), not etcd"},
		"HTTP/2, a page":        {webServer(t, true, http.StatusOK), "a web server answers there (200 OK), not etcd"},
		"gRPC, another service": {emptyGRPCServer(t), "a gRPC server answers there that is not etcd"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := etcd.Config{}
			cfg.Endpoints = []string{c.url}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := newClient(t, cfg).Get(ctx, poolKey("a"))
			if !errors.Is(err, datastore.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("error %v, want an ErrUnavailable", err)
			}
			if want := "etcd " + c.url + ": " + c.want + ": correct ETCD_ENDPOINTS"; !strings.HasSuffix(err.Error(), want) {
				t.Errorf("error %q, want it to end in %q", err, want)
			}
			if strings.Contains(err.Error(), "rpc error") {
				t.Errorf("error %q has gRPC's words", err)
			}
		})
	}
}

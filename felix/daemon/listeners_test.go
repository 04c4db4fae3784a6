package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// served is what is answered at an address; "" for nothing.
func served(address string) string {
	answer, err := http.Get("http://" + address)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return string(text)
}

// freePort is one of the loopback that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func saying(what, address string) endpoint {
	return endpoint{what, address, "ThePort", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, what) }), nil}
}

func TestServicesFollowTheConfiguration(t *testing.T) {
	l := newListeners(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, second := freePort(t), freePort(t)
	for _, step := range []struct {
		what          string
		wanted        []endpoint
		first, second string
	}{
		{"switched on", []endpoint{saying("health", first)}, "health", ""},
		{"the same", []endpoint{saying("health", first)}, "health", ""},
		{"moved", []endpoint{saying("health", second)}, "", "health"},
		{"another one", []endpoint{saying("health", second), saying("metrics", first)}, "metrics", "health"},
		{"one of them off", []endpoint{saying("metrics", first)}, "metrics", ""},
		{"to another host with the same port", []endpoint{saying("metrics", strings.Replace(first, "127.0.0.1", "", 1))}, "metrics", ""},
		{"all off", nil, "", ""},
	} {
		l.set(step.wanted)
		if !l.look(ctx) {
			t.Errorf("%s: %v", step.what, l.problems())
		}
		if a, b := served(first), served(second); a != step.first || b != step.second {
			t.Errorf("%s: %q and %q, want %q and %q", step.what, a, b, step.first, step.second)
		}
	}
}

// TestPortThatIsTakenIsSaidAndTriedAgain: felix works on without.
func TestPortThatIsTakenIsSaidAndTriedAgain(t *testing.T) {
	l := newListeners(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer l.stopAll()
	taken := httptest.NewServer(http.NotFoundHandler())
	other, before := taken.Listener.Addr().String(), freePort(t)
	l.set([]endpoint{saying("metrics", before)})
	l.look(ctx)
	l.set([]endpoint{saying("metrics", other)})
	if l.look(ctx) {
		t.Error("a port that is taken could be had")
	}
	if found := l.problems(); len(found) != 1 || !strings.Contains(found[0].Line, "serve metrics: listen tcp 127.0.0.1:") || !strings.Contains(found[0].Line, "(ThePort chooses the port)") {
		t.Errorf("problems %v", found)
	}
	if got := served(before); got != "metrics" {
		t.Errorf("what was served before is not any more: %q", got)
	}
	taken.Close()
	if !l.look(ctx) || served(other) != "metrics" || served(before) != "" || len(l.problems()) != 0 {
		t.Errorf("the port is free: %q there, %q before, problems %v", served(other), served(before), l.problems())
	}
}

func TestServicesEndWithFelix(t *testing.T) {
	l := newListeners(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	address := freePort(t)
	l.set([]endpoint{saying("health", address)})
	l.look(ctx)
	cancel()
	if err := l.run(ctx); err != nil || served(address) != "" {
		t.Errorf("%v, served %q", err, served(address))
	}
}

// Package health serves what a kubelet asks of a daemon: whether it lives, and
// whether it is ready. The answer to "no" is the reason, in one line.
package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Probes are the checks; nil is yes. Each must answer in seconds.
type Probes struct {
	// Live fails when nothing but a restart helps.
	Live func() error
	// Ready fails while the daemon can't do its work.
	Ready func() error
}

// Register adds /liveness and /readiness, upstream's paths.
func (p Probes) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /liveness", answer("live", p.Live))
	mux.HandleFunc("GET /readiness", answer("ready", p.Ready))
}

// Handler serves the probes and nothing else.
func (p Probes) Handler() http.Handler {
	mux := http.NewServeMux()
	p.Register(mux)
	return mux
}

func answer(yes string, check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, yes)
	}
}

// Serve serves h until ctx ends.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve probes: %w", err)
	}
	return nil
}

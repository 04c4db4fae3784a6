package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// TestWireGuardsMetrics have upstream's names, and one of each for every peer.
func TestWireGuardsMetrics(t *testing.T) {
	own, near, far := wgtypes.Key{1}, wgtypes.Key{2}, wgtypes.Key{3}
	devices := []*wgtypes.Device{{Name: "wireguard.cali", PublicKey: own, ListenPort: 51820, Peers: []wgtypes.Peer{
		{PublicKey: near, Endpoint: &net.UDPAddr{IP: net.IP{192, 0, 2, 2}, Port: 51820}, LastHandshakeTime: time.Unix(1700000000, 0), ReceiveBytes: 7, TransmitBytes: 9},
		{PublicKey: far},
	}}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(wireguardCollector{"node1", func() []*wgtypes.Device { return devices }})
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	peer := `{hostname="node1",peer_endpoint="192.0.2.2:51820",peer_key="` + near.String() + `",public_key="` + own.String() + `"} `
	for _, want := range []string{
		`wireguard_meta{hostname="node1",iface="wireguard.cali",listen_port="51820",public_key="` + own.String() + `"} 1` + "\n",
		"# TYPE wireguard_bytes_rcvd counter\n", "wireguard_bytes_rcvd" + peer + "7\n",
		"# TYPE wireguard_bytes_sent counter\n", "wireguard_bytes_sent" + peer + "9\n",
		"# TYPE wireguard_latest_handshake_seconds gauge\n", "wireguard_latest_handshake_seconds" + peer + "1.7e+09\n",
		`wireguard_latest_handshake_seconds{hostname="node1",peer_endpoint="",peer_key="` + far.String() + `",public_key="` + own.String() + `"} 0` + "\n",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q is missing in\n%s", want, w.Body)
		}
	}
}

// TestAnOutageOfTheDatastoreIsToldWhenItLasts, again and again, and its end once.
func TestAnOutageOfTheDatastoreIsToldWhenItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var health error
		lost, found := 0, 0
		done := make(chan error)
		c := contact{func() error { return health }, func(context.Context) error { lost++; return nil }, func() { found++ }, slog.New(slog.DiscardHandler)}
		go func() { done <- c.run(ctx) }()
		for _, step := range []struct {
			name        string
			health      error
			wait        time.Duration
			lost, found int
		}{
			{"all is well", nil, time.Minute, 0, 0},
			{"a short outage", errors.New("away"), 20 * time.Second, 0, 0},
			{"over", nil, time.Minute, 0, 1},
			{"a long one", errors.New("away"), 51 * time.Second, 4, 1},
			{"over, too", nil, time.Minute, 4, 2},
		} {
			health = step.health
			time.Sleep(step.wait)
			synctest.Wait()
			if lost != step.lost || found != step.found {
				t.Errorf("%s: told %d times of the outage and %d of an end, want %d and %d", step.name, lost, found, step.lost, step.found)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

package daemon

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// wireguardCollector shows this node's WireGuard under upstream's names, but for a peer's
// endpoint, which stands where it is known. There is one peer for each other node.
type wireguardCollector struct {
	node    string
	devices func() []*wgtypes.Device
}

// Describe sends nothing: without a device there is no metric.
func (wireguardCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c wireguardCollector) Collect(metrics chan<- prometheus.Metric) {
	device := []string{"hostname", "public_key", "iface", "listen_port"}
	peer := []string{"hostname", "public_key", "peer_key", "peer_endpoint"}
	meta := prometheus.NewDesc("wireguard_meta", "A WireGuard device of this node: its labels say all.", device, nil)
	received := prometheus.NewDesc("wireguard_bytes_rcvd", "What has come from a peer by WireGuard.", peer, nil)
	sent := prometheus.NewDesc("wireguard_bytes_sent", "What was sent to a peer by WireGuard.", peer, nil)
	handshake := prometheus.NewDesc("wireguard_latest_handshake_seconds", "When a peer last agreed on keys with this node, in Unix time; 0 for never.", peer, nil)
	for _, d := range c.devices() {
		key := d.PublicKey.String()
		metrics <- prometheus.MustNewConstMetric(meta, prometheus.GaugeValue, 1, c.node, key, d.Name, strconv.Itoa(d.ListenPort))
		for _, p := range d.Peers {
			endpoint, at := "", 0.0
			if p.Endpoint != nil {
				endpoint = p.Endpoint.String()
			}
			if !p.LastHandshakeTime.IsZero() {
				at = float64(p.LastHandshakeTime.Unix())
			}
			labels := []string{c.node, key, p.PublicKey.String(), endpoint}
			metrics <- prometheus.MustNewConstMetric(received, prometheus.CounterValue, float64(p.ReceiveBytes), labels...)
			metrics <- prometheus.MustNewConstMetric(sent, prometheus.CounterValue, float64(p.TransmitBytes), labels...)
			metrics <- prometheus.MustNewConstMetric(handshake, prometheus.GaugeValue, at, labels...)
		}
	}
}

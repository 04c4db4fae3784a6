package etcdtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	childVariable = "ETCDTEST_CHILD"
	childReady    = "ready"
)

// childConfig is what the parent tells the child.
type childConfig struct {
	Dir       string
	ClientURL string
	PeerURL   string
	TLS       *TLS
}

// Main is for TestMain: it runs the tests, or the etcd that one of them wants.
func Main(m *testing.M) int {
	text := os.Getenv(childVariable)
	if text == "" {
		return m.Run()
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, "etcdtest:", err)
		return 1
	}
	return 0
}

// serve runs etcd until the parent closes our standard input, which it does even
// if it crashes.
func serve(text string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	cfg, err := c.embedConfig()
	if err != nil {
		return err
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		fmt.Fprintln(os.Stdout, childReady)
	case err := <-etcd.Err():
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func (c childConfig) embedConfig() (*embed.Config, error) {
	client, err := url.Parse(c.ClientURL)
	if err != nil {
		return nil, err
	}
	peer, err := url.Parse(c.PeerURL)
	if err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Dir = c.Dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.LogLevel = "fatal"
	// A killed process loses nothing that the kernel has; only speed matters here.
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.BcryptCost = 4 // the least that bcrypt allows
	if c.TLS != nil {
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile:       c.TLS.CertFile,
			KeyFile:        c.TLS.KeyFile,
			TrustedCAFile:  c.TLS.ClientCAFile,
			ClientCertAuth: c.TLS.ClientCAFile != "",
		}
	}
	return cfg, nil
}

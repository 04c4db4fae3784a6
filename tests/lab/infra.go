package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// EtcdConfig is what the etcd process of a lab is told.
type EtcdConfig struct {
	Dir    string `json:"dir"`
	Client string `json:"client"`
	Peer   string `json:"peer"`
}

// RunEtcd runs an etcd in this process until ctx ends; it is the body of the
// hidden command `lab etcd`.
func RunEtcd(ctx context.Context, c EtcdConfig) error {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel = "lab", c.Dir, "warn"
	cfg.UnsafeNoFsync = false
	client, err := url.Parse(c.Client)
	if err != nil {
		return err
	}
	peer, err := url.Parse(c.Peer)
	if err != nil {
		return err
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return err
	}
}

// startEtcd gives the nodes a datastore: the lab's own etcd, or a way to the one
// of the Spec.
func (l *Lab) startEtcd(ctx context.Context) error {
	if err := l.change(func(st *state) { st.Etcd = "http://" + l.etcdAt(2379) }); err != nil {
		return err
	}
	return l.StartEtcd(ctx)
}

// etcdAt is a port of the etcd's.
func (l *Lab) etcdAt(port uint16) string {
	return netip.AddrPortFrom(l.st.Topology.Etcd.Addresses()[0].Addr(), port).String()
}

// StartEtcd starts the lab's etcd on its data, and returns when it answers.
func (l *Lab) StartEtcd(ctx context.Context) error {
	holder := l.st.Holders[etcdName]
	c := command{name: "etcd", path: l.bin("lab"), log: filepath.Join(l.hostDir(etcdName), "etcd.log")}
	if l.st.Spec.Etcd != "" {
		c.args = []string{"proxy", holder.Netns(), l.etcdAt(2379), l.st.Spec.Etcd}
	} else {
		cfg, err := json.Marshal(EtcdConfig{
			Dir:    filepath.Join(l.hostDir(etcdName), "data"),
			Client: "http://" + l.etcdAt(2379),
			Peer:   "http://" + l.etcdAt(2380),
		})
		if err != nil {
			return err
		}
		c.args, c.net = []string{"etcd", string(cfg)}, holder.Netns()
	}
	p, err := start(c)
	if err != nil {
		return err
	}
	if err := l.change(func(st *state) { st.Daemons["etcd/"+etcdName] = p }); err != nil {
		return err
	}
	return waitFor(ctx, 20*time.Second, "etcd", func() error {
		return inNetns(holder.Netns(), func() error {
			c, err := net.DialTimeout("tcp", l.etcdAt(2379), time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		})
	})
}

// StopEtcd ends the lab's etcd; its data stays.
func (l *Lab) StopEtcd() error {
	var p Process
	l.read(func(st *state) { p = st.Daemons["etcd/"+etcdName] })
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return p.Wait(10 * time.Second)
}

// applyResources writes the cluster's resources with calicoctl, as an operator
// would, and gives every node its configuration files.
func (l *Lab) applyResources(context.Context) error {
	for _, n := range l.st.Topology.Nodes {
		if err := l.writeNodeFiles(n); err != nil {
			return err
		}
	}
	var out strings.Builder
	first := l.st.Topology.Nodes[0].Name
	err := l.onNode(first, []string{l.bin("calicoctl"), "apply", "-f", "-"},
		Stdio{In: strings.NewReader(resources(l.st.Spec, l.st.Topology)), Out: &out, Err: &out})
	if err != nil {
		return fmt.Errorf("calicoctl apply: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// writeNodeFiles puts the files of an installed node into its own /etc and /var.
func (l *Lab) writeNodeFiles(n Host) error {
	files := map[string]string{
		"var/lib/calico/nodename":          n.Name,
		"etc/calico/calicoctl.cfg":         calicoctlConfig(l.st.Etcd),
		"etc/cni/net.d/10-calico.conflist": conflist(l.st.Spec),
	}
	root := fmt.Sprintf("/proc/%d/root", l.st.Holders[n.Name].PID)
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// logTails is the end of every log, for the message of a lab that didn't come up.
func (l *Lab) logTails() string {
	var b strings.Builder
	logs, _ := filepath.Glob(filepath.Join(l.dir, "nodes", "*", "*.log"))
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil || len(content) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		fmt.Fprintf(&b, "\n--- %s/%s\n%s", filepath.Base(filepath.Dir(path)), filepath.Base(path),
			strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return b.String()
}

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tortie/tests/e2e/machine"
)

// Config says what a cluster is made of.
type Config struct {
	// Dir is its folder, on a real disk.
	Dir string `json:"dir"`
	// Source is the root of the repository, after `make build images`.
	Source string `json:"source"`
	// Kubernetes is the folder of its programs.
	Kubernetes string `json:"kubernetes"`
	// Nodes is how many nodes there are.
	Nodes int `json:"nodes"`
	// ProxyMode is kube-proxy's: nftables or iptables.
	ProxyMode string `json:"proxyMode"`
	// Families are the IP versions.
	Families Families `json:"families"`
}

// Dir is the folder of a cluster by its name. It is on a disk: containerd's layers
// can't lie on an overlay, nor well in memory.
func Dir(name string) string { return filepath.Join("/var/tmp/tortie-clusters", name) }

// Cluster is one that runs.
type Cluster struct {
	cfg      Config
	layout   layout
	machines map[string]*machine.Machine
	say      func(format string, args ...any)
}

func open(cfg Config, say func(string, ...any)) *Cluster {
	return &Cluster{cfg: cfg, layout: layout{cfg.Dir}, machines: map[string]*machine.Machine{}, say: say}
}

// Up starts a cluster without a pod network; what it printed on the way is said.
func Up(ctx context.Context, cfg Config, say func(format string, args ...any)) (*Cluster, error) {
	if err := cfg.Families.Check(); err != nil {
		return nil, err
	}
	c := open(cfg, say)
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, "cluster.json"), text, 0o600); err != nil {
		return nil, err
	}
	if err := c.up(ctx); err != nil {
		return c, err
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context) error {
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"make certificates", func(context.Context) error { return c.makePKI() }},
		{"make images", c.makeImages},
		{"start the router", c.startRouter},
		{"start the control plane", c.startControlPlane},
		{"start the outside host", c.startOutside},
		{"start the nodes", c.startNodes},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		c.say("%-26s %5.1f s", step.what, time.Since(began).Seconds())
	}
	return nil
}

// Find opens the cluster of a folder.
func Find(dir string, say func(format string, args ...any)) (*Cluster, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if err != nil {
		return nil, err
	}
	var cfg Config
	if err := json.Unmarshal(text, &cfg); err != nil {
		return nil, err
	}
	c := open(cfg, say)
	entries, err := os.ReadDir(filepath.Join(dir, "machines"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		m, err := machine.Find(c.layout.machine(e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it never came up
		}
		if err != nil {
			return nil, err
		}
		c.machines[e.Name()] = m
	}
	return c, nil
}

// Down ends all of it and removes its folder.
func (c *Cluster) Down() error {
	var g errgroup.Group
	for _, m := range c.machines {
		g.Go(m.Down)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return os.RemoveAll(c.cfg.Dir)
}

// Config is what the cluster was made of.
func (c *Cluster) Config() Config { return c.cfg }

// Machine is one by its name; nil when there is none.
func (c *Cluster) Machine(name string) *machine.Machine { return c.machines[name] }

// Nodes are the machines that are nodes of Kubernetes, in order.
func (c *Cluster) Nodes() []*machine.Machine {
	var nodes []*machine.Machine
	for n := 1; n <= maxNodes; n++ {
		if m := c.machines[NodeHost(n).Name]; m != nil {
			nodes = append(nodes, m)
		}
	}
	return nodes
}

// program is the one that is the first process of machines.
func (c *Cluster) program() string { return filepath.Join(c.cfg.Source, "bin", "e2e") }

// Where machines see the programs of Kubernetes and ours.
const (
	kubernetesOnMachine = "/opt/kubernetes/bin"
	productOnMachine    = "/opt/tortie/bin"
)

// start starts a machine and plugs it in.
func (c *Cluster) start(ctx context.Context, h Host, s machine.Spec) (*machine.Machine, error) {
	s.Name, s.Dir = h.Name, c.layout.machine(h.Name)
	s.Path = kubernetesOnMachine + ":" + productOnMachine
	if s.Binds == nil {
		s.Binds = map[string]string{}
	}
	s.Binds[kubernetesOnMachine] = c.cfg.Kubernetes
	s.Binds[productOnMachine] = filepath.Join(c.cfg.Source, "bin")
	m, err := machine.Up(ctx, c.program(), s)
	if err != nil {
		return nil, err
	}
	c.machines[h.Name] = m
	if h.Name == Router {
		err = setUpRouter(ctx, m)
	} else {
		err = plug(ctx, c.machines[Router], m, h, c.cfg.Families)
	}
	if err != nil {
		return nil, err
	}
	return m, m.StartServices(ctx)
}

func (c *Cluster) startRouter(ctx context.Context) error {
	_, err := c.start(ctx, gateway("a"), machine.Spec{
		Files: map[string]string{"/etc/bird/bird.conf": birdConfig(), "/run/bird/.keep": ""},
		Services: []machine.Service{
			{Name: "bird", Args: []string{"bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl", "-P", "/run/bird/bird.pid"}},
		},
	})
	return err
}

func (c *Cluster) startControlPlane(ctx context.Context) error {
	files, err := c.pkiFiles()
	if err != nil {
		return err
	}
	m, err := c.start(ctx, controlPlaneHost(), machine.Spec{Files: files, Services: controlPlaneServices(c.cfg.Families)})
	if err != nil {
		return err
	}
	return Until(ctx, time.Minute, func() error {
		out, err := c.Kubectl(ctx, "get", "--raw", "/readyz")
		if err == nil && out != "ok" {
			err = errors.New(out)
		}
		if err != nil {
			return fmt.Errorf("the API server isn't ready: %w; see %s", err, m.Spec.Log(ServiceAPI))
		}
		return nil
	})
}

func (c *Cluster) startOutside(ctx context.Context) error {
	_, err := c.start(ctx, OutsideHost(), machine.Spec{Services: []machine.Service{hostAgent(Outside)}})
	return err
}

func (c *Cluster) startNodes(ctx context.Context) error {
	for n := 1; n <= c.cfg.Nodes; n++ {
		if _, err := c.StartNode(ctx, n); err != nil {
			return err
		}
	}
	return c.awaitImages(ctx, c.Nodes())
}

// StartNode starts the n-th node.
func (c *Cluster) StartNode(ctx context.Context, n int) (*machine.Machine, error) {
	h := NodeHost(n)
	cgroup := "tortie-" + filepath.Base(c.cfg.Dir) + "-" + h.Name
	files, err := c.nodeFiles(h, cgroup)
	if err != nil {
		return nil, err
	}
	return c.start(ctx, h, machine.Spec{
		Cgroup: cgroup, Files: files,
		Binds:    map[string]string{"/var/lib/containerd": "containerd", "/var/lib/kubelet": "kubelet"},
		Hidden:   []string{"/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni", "/var/lib/calico", "/etc/kubernetes/manifests"},
		Services: append(nodeServices(h, c.cfg.Families), hostAgent(h.Name)),
	})
}

// awaitImages waits for containerd and loads the images.
func (c *Cluster) awaitImages(ctx context.Context, nodes []*machine.Machine) error {
	for _, node := range nodes {
		if err := Until(ctx, time.Minute, func() error {
			_, err := node.Run(ctx, "ctr", "version")
			return err
		}); err != nil {
			return err
		}
	}
	return c.LoadImages(ctx, nodes...)
}

// Kubectl runs kubectl as the administrator and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := c.KubectlCommand(ctx, args...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return string(out), fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// Command is a program of this machine in the control plane's network, with
// kubectl in its path.
func (c *Cluster) Command(ctx context.Context, args ...string) *exec.Cmd {
	cp := c.machines[ControlPlane]
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/proc/" + strconv.Itoa(cp.PID) + "/ns/net", "--"}, args...)...)
	cmd.Dir = c.cfg.Source
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "PATH="+c.cfg.Kubernetes+":"+os.Getenv("PATH"))
	return cmd
}

// KubectlCommand is kubectl as the administrator, in the root of the repository.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return c.Command(ctx, append([]string{filepath.Join(c.cfg.Kubernetes, "kubectl")}, args...)...)
}

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.layout.pki(), "admin.kubeconfig") }

// Until tries again and again until it works or time is up.
func Until(ctx context.Context, limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

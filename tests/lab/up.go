package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tortie/tests/lab/agentwire"
	"tortie/tests/lab/progress"
	"tortie/tests/vm"
)

// Names of namespaces that are not nodes.
const (
	routerName  = "router"
	etcdName    = "etcd"
	outsideName = "outside"
)

// Up builds a lab: namespaces, underlay, etcd, router, resources, and felix and
// bgpd on every node; it returns when all sessions are established and every
// node is ready for pods. bin is the directory of the programs. On failure
// everything is taken down again, unless keep is set.
func Up(ctx context.Context, spec Spec, bin string, say progress.Steps) (*Lab, error) {
	topo, err := Plan(spec)
	if err != nil {
		return nil, err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if err := preflight(spec, bin); err != nil {
		return nil, err
	}
	l := newLab(spec, topo, bin)
	if err := l.makeDir(); err != nil {
		return nil, err
	}
	steps := []struct {
		say string
		do  func(context.Context) error
	}{
		{"network namespaces for %d nodes, router, etcd and an outside host", l.startHolders},
		{"etcd and router", l.startInfra},
		{"cluster resources", l.applyResources},
		{"felix and bgpd on every node", l.startNodes},
		{"waiting for BGP sessions", l.WaitReady},
	}
	for _, s := range steps {
		if s.say == steps[0].say {
			say.Say(s.say, spec.Nodes)
		} else {
			say.Say("%s", s.say)
		}
		if err := s.do(ctx); err != nil {
			err = fmt.Errorf("%w%s", err, l.logTails())
			return nil, errors.Join(err, l.Down())
		}
	}
	return l, nil
}

// preflight refuses what can't work, before anything is made.
func preflight(spec Spec, bin string) error {
	if err := checkLabName(spec.Name); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces: run it as root")
	}
	if spec.Etcd != "" {
		target, err := etcdHostPort(spec.Etcd)
		if err != nil {
			return err
		}
		conn, err := net.DialTimeout("tcp", target, 2*time.Second)
		if err != nil {
			return fmt.Errorf("etcd %s does not answer: %w", spec.Etcd, err)
		}
		conn.Close()
	}
	for tool, of := range map[string]string{"nft": "nftables", "ip": "iproute2"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the command %s is missing: install the package %s, as `make lab` does", tool, of)
		}
	}
	for _, p := range []string{"felix", "bgpd", "calico", "calicoctl", "lab", "lab-agent"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return fmt.Errorf("%s is missing in %s: run `make build` first", p, bin)
		}
	}
	if _, err := os.Stat(filepath.Join(stateRoot, spec.Name, "state.json")); err == nil {
		return fmt.Errorf("lab %q is up already: use it, or take it down with: bin/lab down%s", spec.Name, nameFlag(spec.Name))
	}
	return nil
}

func (l *Lab) bin(program string) string { return filepath.Join(l.st.Bin, program) }

func (l *Lab) hostDir(name string) string { return filepath.Join(l.dir, "nodes", name) }

// startHolders makes every namespace and the wires between them.
func (l *Lab) startHolders(ctx context.Context) error {
	names := []string{routerName, etcdName, outsideName}
	for _, n := range l.st.Topology.Nodes {
		names = append(names, n.Name)
	}
	for _, name := range names {
		if err := l.startHolder(name); err != nil {
			return err
		}
	}
	for _, name := range names {
		ready := fmt.Sprintf("/proc/%d/root/run/ready", l.st.Holders[name].PID)
		if err := waitFor(ctx, 10*time.Second, "namespace of "+name, func() error {
			_, err := os.Stat(ready)
			return err
		}); err != nil {
			return err
		}
	}
	if err := buildUnderlay(l.st.Topology, l.st.Holders[routerName], l.st.Holders); err != nil {
		return err
	}
	for _, h := range append([]Host{l.st.Topology.Outside}, l.st.Topology.Nodes...) {
		if err := l.startAgent(h.Name, l.st.Holders[h.Name].Netns(), "", agentwire.Port); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) startHolder(name string) error {
	dir := l.hostDir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	p, err := start(command{
		name: "namespace " + name, path: l.bin("lab-agent"), args: []string{"node", "-dir", dir, "-name", name},
		log:   filepath.Join(dir, "holder.log"),
		clone: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
	})
	if err != nil {
		return err
	}
	return l.change(func(st *state) { st.Holders[name] = p })
}

// startAgent starts a probe agent in a network namespace.
func (l *Lab) startAgent(name, netns, host string, port int) error {
	dir := filepath.Join(l.dir, "agents")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	p, err := start(command{
		name: "agent " + name, path: l.bin("lab-agent"), net: netns,
		args: []string{"serve", "-name", name, "-control", l.agentSocket(name), "-host", host, "-port", fmt.Sprint(port)},
		log:  filepath.Join(dir, name+".log"),
	})
	if err != nil {
		return err
	}
	return l.change(func(st *state) { st.Agents[name] = p })
}

func (l *Lab) startInfra(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.startEtcd(ctx) })
	g.Go(func() error { return l.startRouter() })
	return g.Wait()
}

// StartDaemon starts felix or bgpd on a node, as its init system would.
func (l *Lab) StartDaemon(program, node string) error {
	var c command
	l.read(func(st *state) {
		c = command{
			name: program + " on " + node, path: l.bin(program),
			net: st.Holders[node].Netns(), mnt: st.Holders[node].PID,
			env: append(l.nodeEnv(node), st.Spec.Env...),
			log: filepath.Join(l.hostDir(node), program+".log"),
		}
	})
	p, err := start(c)
	if err != nil {
		return err
	}
	return l.change(func(st *state) { st.Daemons[program+"/"+node] = p })
}

// Daemon is the process of a program on a node.
func (l *Lab) Daemon(program, node string) (p Process) {
	l.read(func(st *state) { p = st.Daemons[program+"/"+node] })
	return p
}

// KillDaemon ends a program on a node with the given signal and waits until it is
// gone.
func (l *Lab) KillDaemon(program, node string, sig syscall.Signal) error {
	p := l.Daemon(program, node)
	if err := p.Signal(sig); err != nil {
		return err
	}
	return p.Wait(Patience(10 * time.Second))
}

func (l *Lab) startNodes(context.Context) error {
	for _, n := range l.st.Topology.Nodes {
		for _, program := range []string{"felix", "bgpd"} {
			if err := l.StartDaemon(program, n.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// nodeEnv is the environment of everything that runs on a node.
func (l *Lab) nodeEnv(node string) []string {
	return []string{
		"PATH=" + l.st.Bin + ":" + os.Getenv("PATH"),
		"NODENAME=" + node,
		"ETCD_ENDPOINTS=" + l.st.Etcd,
		// The lab is no cluster of Kubernetes, wherever it runs.
		"KUBECONFIG=", "KUBERNETES_SERVICE_HOST=",
	}
}

// Down ends everything the lab started and removes its state.
func (l *Lab) Down() error {
	var early, daemons, holders []Process
	l.read(func(st *state) {
		for _, p := range st.Agents {
			early = append(early, p)
		}
		for _, pod := range st.Pods {
			early = append(early, pod.processes()...)
		}
		for _, p := range st.Daemons {
			daemons = append(daemons, p)
		}
		for _, p := range st.Holders {
			holders = append(holders, p)
		}
	})
	within := pin(append(slices.Clone(holders), early...))
	defer within.release()
	stopAll(append(early, daemons...), 3*time.Second)
	stopAll(within.strangers(holders), 3*time.Second)
	stopAll(holders, 3*time.Second)
	return l.removeDir()
}

// emulatedFactor is how many times longer the programs of a lab take for something at
// most where the processor is emulated, and has other work.
const emulatedFactor = 5

// Patience is how long to wait for what takes d at most on a processor of its own, before
// it counts as never coming about. It says nothing of how soon anything must be there.
func Patience(d time.Duration) time.Duration {
	if os.Getenv(vm.Emulated) != "" {
		return emulatedFactor * d
	}
	return d
}

// waitFor tries until it succeeds; the error names what was waited for and why it
// was not there. Between two tries it pauses for longer than one takes: they must not keep
// the processor from those that are waited for, whose start is slow work where it is emulated.
func waitFor(ctx context.Context, patience time.Duration, what string, try func() error) error {
	patience = Patience(patience)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		began := time.Now()
		last := try()
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not there after %v: %w", what, patience, last)
		case <-time.After(min(max(20*time.Millisecond, 2*time.Since(began)), 2*time.Second)):
		}
	}
}

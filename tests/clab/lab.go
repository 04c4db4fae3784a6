package clab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"tortie/tests/clab/docker"
	"tortie/tests/lab/agentwire"
	"tortie/tests/lab/matrix"
)

// Lab is one lab that is deployed.
type Lab struct {
	*Topology
	docker docker.Docker
	// nodes and pods are those that are there still.
	nodes []Machine
	pods  []matrix.Pod
	// pids has the first process of every machine.
	pids map[string]int
	// agents has the socket of every agent, as a path of this machine.
	agents map[string]string
}

const (
	// containersPerPod share a pod's network namespace.
	containersPerPod = 2
	// agentDir is where the agents of a machine have their sockets.
	agentDir = "/run/lab"
	// patience is how long a part of a lab may take to be ready.
	patience = 60 * time.Second
)

// container is the name that containerlab gives a node's container.
func (t *Topology) container(node string) string { return "clab-" + t.Name + "-" + node }

// Deployed reports whether anything of a lab is there.
func (c Containerlab) Deployed(ctx context.Context, t *Topology) (bool, error) {
	out, err := c.Docker.Run(ctx, "ps", "--all", "--quiet", "--filter", "label=containerlab="+t.Name)
	return out != "", err
}

// Deploy has containerlab deploy a lab and applies the cluster's resources, as an
// operator would.
func (c Containerlab) Deploy(ctx context.Context, t *Topology) error {
	log, err := c.run(ctx, "deploy", "--topo", t.File)
	if err != nil {
		return err
	}
	// It goes on after a command that failed.
	if strings.Contains(log, " ERRO ") {
		return fmt.Errorf("containerlab deploy: %s", complaints(log))
	}
	cluster, err := os.ReadFile(t.Cluster)
	if err != nil {
		return err
	}
	return await(ctx, "calicoctl apply", func() error {
		_, err := c.Docker.Pipe(ctx, strings.NewReader(string(cluster)), "exec", "-i", t.container(t.Programs["felix"][0]), "calicoctl", "apply", "-f", "-")
		return err
	})
}

// Destroy has containerlab destroy a lab, and removes what it may have left: of a
// lab that is half deployed, or not at all.
func (c Containerlab) Destroy(ctx context.Context, t *Topology) error {
	_, err := c.run(ctx, "destroy", "--topo", t.File, "--cleanup")
	out, listErr := c.Docker.Run(ctx, "ps", "--all", "--quiet", "--filter", "label=containerlab="+t.Name)
	if ids := strings.Fields(out); listErr == nil && len(ids) > 0 {
		_, rmErr := c.Docker.Run(ctx, append([]string{"rm", "--force", "--volumes"}, ids...)...)
		err = errors.Join(err, rmErr)
	}
	return errors.Join(err, listErr, c.awaitGone(ctx, t.Name), removeLinks(t.Name), os.RemoveAll(filepath.Join(c.Dir, "clab-"+t.Name)))
}

// awaitGone waits until Docker knows no container of a lab any more, for it may
// still be removing some.
func (c Containerlab) awaitGone(ctx context.Context, lab string) error {
	return await(ctx, "docker ps", func() error {
		out, err := c.Docker.Run(ctx, "ps", "--all", "--quiet", "--filter", "label=containerlab="+lab)
		if err == nil && out != "" {
			err = fmt.Errorf("containers %s of lab %s are still there", strings.Join(strings.Fields(out), " "), lab)
		}
		return err
	})
}

// removeLinks removes containerlab's links to network namespaces that are gone.
func removeLinks(lab string) error {
	links, err := filepath.Glob("/run/netns/clab-" + lab + "-*")
	for _, link := range links {
		if _, gone := os.Stat(link); errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, os.Remove(link))
		}
	}
	return err
}

// Open is the lab of a topology that is deployed, with the pods it has. Machines that
// have no agent yet, as in a lab that was deployed by hand, get one.
func Open(ctx context.Context, d docker.Docker, t *Topology) (*Lab, error) {
	l := &Lab{Topology: t, docker: d, nodes: slices.Clone(t.Nodes), pids: map[string]int{}, agents: map[string]string{}}
	machines := append([]Machine{t.Outside}, t.Nodes...)
	for _, m := range machines {
		pid, err := d.PID(ctx, t.container(m.Name))
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
			return nil, fmt.Errorf("container %s has no process %d here: Docker must run on this machine, and this as root", t.container(m.Name), pid)
		}
		l.pids[m.Name] = pid
		l.agents[m.Name] = l.socket(m.Name, m.Name)
		if err := l.startAgent(ctx, m.Name); err != nil {
			return nil, err
		}
	}
	for _, n := range t.Nodes {
		if err := l.readPods(ctx, n.Name); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// socket is the path, from here, of an agent's socket on a machine.
func (l *Lab) socket(machine, agent string) string {
	return fmt.Sprintf("/proc/%d/root%s/%s.sock", l.pids[machine], agentDir, agent)
}

// startAgent starts a machine's own agent where none answers.
func (l *Lab) startAgent(ctx context.Context, machine string) error {
	answers := func() error {
		_, err := l.Ask(ctx, machine, agentwire.Request{})
		return err
	}
	if answers() == nil {
		return nil
	}
	serve := fmt.Sprintf("mkdir -p %s && exec lab-agent serve -name %s -control %s/%s.sock -port %d", agentDir, machine, agentDir, machine, agentwire.Port)
	if _, err := l.docker.Run(ctx, "exec", "--detach", l.container(machine), "sh", "-c", serve); err != nil {
		return err
	}
	return await(ctx, "agent of "+machine, answers)
}

// readPods asks a node for its pods.
func (l *Lab) readPods(ctx context.Context, node string) error {
	out, err := l.docker.Exec(ctx, l.container(node), "pod", "list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		p, err := readPod(node, line)
		if err != nil {
			return err
		}
		for _, a := range p.Agents {
			l.agents[a] = l.socket(node, a)
		}
		l.pods = append(l.pods, p)
	}
	return nil
}

// readPod reads a line of `pod list`: name, number of containers, addresses.
func readPod(node, line string) (matrix.Pod, error) {
	var name string
	var containers int
	p := matrix.Pod{Node: node}
	fields := strings.Fields(line)
	if len(fields) < 3 {
		return p, fmt.Errorf("pod list on %s: %q: want a name, the number of containers and addresses", node, line)
	}
	name = fields[0]
	if _, err := fmt.Sscan(fields[1], &containers); err != nil {
		return p, fmt.Errorf("pod list on %s: %q: %w", node, line, err)
	}
	p.Name = name
	for i := range containers {
		p.Agents = append(p.Agents, fmt.Sprintf("%s.%d", name, i))
	}
	for _, field := range fields[2:] {
		a, err := netip.ParsePrefix(field)
		if err != nil {
			return p, fmt.Errorf("pod list on %s: %q: %w", node, line, err)
		}
		*pick(a.Addr(), &p.V4, &p.V6) = a.Addr()
	}
	return p, nil
}

// AddPods starts as many pods on every node. One that is not ready yet is asked again,
// as a kubelet does.
func AddPods(ctx context.Context, d docker.Docker, t *Topology, each int) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range t.Nodes {
		g.Go(func() error {
			for i := range each {
				name := fmt.Sprintf("pod-%c-%s", 'a'+i%26, n.Name)
				if err := await(ctx, "pod "+name, func() error {
					_, err := d.Exec(ctx, t.container(n.Name), "pod", "add", name, fmt.Sprint(containersPerPod))
					return err
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// await tries until it succeeds; the error is the last one.
func await(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not in %v: %w", what, patience, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Ask implements matrix.Lab.
func (l *Lab) Ask(ctx context.Context, agent string, req agentwire.Request) (agentwire.Response, error) {
	socket, ok := l.agents[agent]
	if !ok {
		return agentwire.Response{}, fmt.Errorf("no agent %s in the lab", agent)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return agentwire.Response{}, fmt.Errorf("agent %s: %w", agent, err)
	}
	resp, err := agentwire.Ask(conn, req)
	if err != nil {
		return resp, fmt.Errorf("agent %s: %w", agent, err)
	}
	return resp, nil
}

// NextHop implements matrix.Lab.
func (l *Lab) NextHop(_ context.Context, node string, dst netip.Addr) (netip.Addr, error) {
	return matrix.NextHopIn(fmt.Sprintf("/proc/%d/ns/net", l.pids[node]), dst)
}

// Check probes every path and judges the answers.
func (l *Lab) Check(ctx context.Context) ([]matrix.Check, error) {
	pools, err := l.docker.Exec(ctx, l.container(l.Programs["felix"][0]), "calicoctl", "get", "ippools", "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("read the IP pools: %w", err)
	}
	s := matrix.Setup{Outside: l.Outside.probed(), Pods: l.pods, Hop: l.hop}
	if s.Pools, err = matrix.ReadPools([]byte(pools)); err != nil {
		return nil, err
	}
	for _, n := range l.nodes {
		s.Nodes = append(s.Nodes, n.probed())
	}
	checks := matrix.Plan(s)
	return checks, matrix.Run(ctx, l, checks)
}

// Converge waits until every BGP session is up and every check passes. The sessions
// count, too: paths also work by routes that are only kept for a peer that restarts.
func (l *Lab) Converge(ctx context.Context) error {
	return await(ctx, "every session is up and every path works", func() error {
		if err := l.sessions(ctx); err != nil {
			return err
		}
		checks, err := l.Check(ctx)
		if err != nil {
			return err
		}
		for _, c := range checks {
			if c.Failure != "" {
				return errors.New(c.String())
			}
		}
		return nil
	})
}

// sessions says which sessions of the nodes are down, if any, but those with nodes
// that are gone.
func (l *Lab) sessions(ctx context.Context) error {
	for _, n := range l.nodes {
		out, err := l.docker.Exec(ctx, l.container(n.Name+"-felix"), "calicoctl", "bgp", "peers", "-o", "json")
		if err != nil {
			return err
		}
		if err := down(out, l.gone); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return nil
}

// gone: the address is that of a node that is not there any more.
func (l *Lab) gone(a netip.Addr) bool {
	has := func(m Machine) bool { return m.V4.Addr() == a || m.V6.Addr() == a }
	return slices.ContainsFunc(l.Nodes, has) && !slices.ContainsFunc(l.nodes, has)
}

// down reads what `calicoctl bgp peers -o json` prints; the error names a session that
// is not up.
func down(out string, gone func(netip.Addr) bool) error {
	var peers []struct {
		Name    string     `json:"name"`
		Address netip.Addr `json:"address"`
		State   string     `json:"state"`
	}
	if err := json.Unmarshal([]byte(out), &peers); err != nil {
		return fmt.Errorf("calicoctl bgp peers: %w", err)
	}
	if len(peers) == 0 {
		return errors.New("it has no BGP peers")
	}
	for _, p := range peers {
		if p.State != "Established" && !gone(p.Address) {
			return fmt.Errorf("the session with %s (%s) is %s", p.Address, p.Name, p.State)
		}
	}
	return nil
}

// crash kills the first process of a container, as a crash does: Docker starts it
// again, which it would not do after `docker kill`.
func (l *Lab) crash(ctx context.Context, node string) error {
	pid, err := l.docker.PID(ctx, l.container(node))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

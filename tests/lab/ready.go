package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tortie/internal/control/nodestatus"
)

// readyPatience bounds the wait for a whole lab to be ready.
const readyPatience = 40 * time.Second

// WaitReady waits until every node takes pods and has all its BGP sessions.
func (l *Lab) WaitReady(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, n := range l.st.Topology.Nodes {
		g.Go(func() error {
			return waitFor(ctx, readyPatience, n.Name+" ready", func() error {
				if err := l.FelixReady(ctx, n.Name); err != nil {
					return err
				}
				return l.PeersEstablished(ctx, n.Name)
			})
		})
	}
	return g.Wait()
}

// FelixReady asks the CNI plugin of a node whether an ADD would be served.
func (l *Lab) FelixReady(ctx context.Context, node string) error {
	if _, err := os.Stat(l.CNISocket(node)); err != nil {
		return fmt.Errorf("felix: %w", err)
	}
	_, err := l.CNI(ctx, "STATUS", &Pod{Node: node})
	return err
}

// CNISocket is felix's socket on a node, as a path outside of the node.
func (l *Lab) CNISocket(node string) string {
	return fmt.Sprintf("/proc/%d/root/run/calico/felix-cni.sock", l.st.Holders[node].PID)
}

// PeersEstablished says which sessions of a node are not up, if any.
func (l *Lab) PeersEstablished(ctx context.Context, node string) error {
	client, conn, err := l.Status(node)
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := client.Peers(ctx, &nodestatus.PeersRequest{})
	if err != nil {
		return fmt.Errorf("bgpd: %w", err)
	}
	var down []string
	for _, p := range resp.GetPeers() {
		if p.GetState() != "Established" {
			down = append(down, fmt.Sprintf("%s is %s (%s)", p.GetAddress(), p.GetState(), p.GetInfo()))
		}
	}
	if len(down) > 0 {
		return fmt.Errorf("bgpd: %s", strings.Join(down, "; "))
	}
	if want := l.peersOf(node); len(resp.GetPeers()) < want {
		return fmt.Errorf("bgpd: %d of %d peers configured", len(resp.GetPeers()), want)
	}
	return nil
}

// peersOf is how many sessions a node has: to every other node and to the router,
// one for each family.
func (l *Lab) peersOf(node string) int {
	n, err := l.st.Topology.Node(node)
	if err != nil {
		return 0
	}
	return len(n.Addresses()) * len(l.st.Topology.Nodes)
}

// resolve finds a program: the project's own first, then by PATH.
func (l *Lab) resolve(program string) string {
	if strings.ContainsRune(program, '/') {
		return program
	}
	own := l.bin(program)
	if _, err := os.Stat(own); err == nil {
		return own
	}
	if found, err := exec.LookPath(program); err == nil {
		return found
	}
	return filepath.Join("/usr/sbin", program)
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tortie/internal/control/nodestatus"
	"tortie/tests/lab/agentwire"
)

// Stdio is where a command's input comes from and its output goes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs a command on a node, in its network and mount namespaces.
func (l *Lab) Exec(node string, args []string, io Stdio) error {
	if _, err := l.st.Topology.Node(node); err != nil && node != routerName && node != outsideName && node != etcdName {
		return err
	}
	return l.onNode(node, args, io)
}

func (l *Lab) onNode(node string, args []string, io Stdio) error {
	_, err := l.run(node, args, l.nodeEnv(node), io)
	return err
}

func (l *Lab) run(node string, args, env []string, io Stdio) (time.Duration, error) {
	holder := l.st.Holders[node]
	if !holder.Alive() {
		return 0, fmt.Errorf("%s is gone: the lab is broken; take it down with: %s", node, l.DownCommand())
	}
	if len(args) == 0 {
		return 0, errors.New("no command given")
	}
	return run(command{
		name: args[0], path: l.resolve(args[0]), args: args[1:], env: env,
		net: holder.Netns(), mnt: holder.PID, stdin: io.In, stdout: io.Out, stderr: io.Err,
	})
}

// PodExec runs a command in a container of a pod: in the pod's network namespace.
func (l *Lab) PodExec(pod *Pod, container int, args []string, io Stdio) error {
	if container < 0 || container >= len(pod.Containers) {
		return fmt.Errorf("pod %s has containers 0 to %d", pod.Name, len(pod.Containers)-1)
	}
	if len(args) == 0 {
		return errors.New("no command given")
	}
	_, err := run(command{
		name: args[0], path: l.resolve(args[0]), args: args[1:], net: pod.Containers[container].Netns(),
		stdin: io.In, stdout: io.Out, stderr: io.Err,
	})
	return err
}

func (l *Lab) agentSocket(name string) string {
	return filepath.Join(l.dir, "agents", name+".sock")
}

// Ask sends one request to an agent: a node's or the outside's by its name, a
// container's by Pod.Agent.
func (l *Lab) Ask(ctx context.Context, agent string, req agentwire.Request) (agentwire.Response, error) {
	var conn net.Conn
	err := waitFor(ctx, 5*time.Second, "agent "+agent, func() (err error) {
		conn, err = net.Dial("unix", l.agentSocket(agent))
		return err
	})
	if err != nil {
		return agentwire.Response{}, err
	}
	resp, err := agentwire.Ask(conn, req)
	if err != nil {
		return resp, fmt.Errorf("agent %s: %w", agent, err)
	}
	return resp, nil
}

// Status connects to a node's bgpd. Close the connection when done.
func (l *Lab) Status(node string) (nodestatus.NodeStatusClient, io.Closer, error) {
	socket := fmt.Sprintf("unix:///proc/%d/root%s", l.st.Holders[node].PID, "/run/calico/bgpd.sock")
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return nodestatus.NewNodeStatusClient(conn), conn, nil
}

// In calls fn on a thread in a node's network namespace.
func (l *Lab) In(node string, fn func() error) error {
	return inNetns(l.st.Holders[node].Netns(), fn)
}

// Dial connects from a node's network namespace.
func (l *Lab) Dial(ctx context.Context, node, network, addr string) (conn net.Conn, err error) {
	err = l.In(node, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// EtcdEndpoint is the client URL of the lab's etcd, as its nodes reach it.
func (l *Lab) EtcdEndpoint() string { return l.st.Etcd }

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"tortie/tests/e2e/machine"
	"tortie/tests/lab/agentwire"
)

// AgentDir is where agents on a machine, pods' included, have their control
// sockets.
const AgentDir = "/run/e2e"

// hostAgent answers for a machine itself.
func hostAgent(name string) machine.Service {
	return machine.Service{Name: "agent", Args: []string{
		productOnMachine + "/lab-agent", "serve", "-name", name, "-control", "/run/agent-" + name, "-port", strconv.Itoa(agentwire.Port),
	}}
}

// AskHost has a machine itself do something.
func AskHost(ctx context.Context, m *machine.Machine, req agentwire.Request) (agentwire.Response, error) {
	return ask(ctx, m.Path("/run"), "agent-"+m.Spec.Name, req)
}

// AskPod has the agent of a pod do something, by a way that needs no network.
func AskPod(ctx context.Context, node *machine.Machine, agent string, req agentwire.Request) (agentwire.Response, error) {
	return ask(ctx, node.Path(AgentDir), agent, req)
}

func ask(ctx context.Context, dir, socket string, req agentwire.Request) (agentwire.Response, error) {
	var resp agentwire.Response
	// By way of a descriptor: the path is too long for a socket's name.
	d, err := os.Open(dir)
	if err != nil {
		return resp, err
	}
	defer d.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), socket))
	if err != nil {
		return resp, fmt.Errorf("ask the agent %s: %w", socket, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return resp, err
		}
	}
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return resp, err
	}
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return resp, fmt.Errorf("ask the agent %s: %w", socket, err)
	}
	if resp.Err != "" {
		return resp, fmt.Errorf("agent %s: %s", socket, resp.Err)
	}
	return resp, nil
}

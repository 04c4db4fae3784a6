package cmd_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/calicoctl/cmd"
	"tortie/internal/api"
	"tortie/internal/datastore/memory"
)

// lineWatcher calls seen with every text written.
type lineWatcher struct {
	bytes.Buffer
	seen func(text string)
}

func (w *lineWatcher) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	w.seen(string(p))
	return n, err
}

func TestVersionPollShowsChangesOnly(t *testing.T) {
	reg := api.NewRegistry()
	w := &world{reg: reg, store: memory.New(reg)}
	const path = "/calico/resources/v3/projectcalico.org/clusterinformations/default"
	put := func(version string) {
		w.store.RawPut(path, []byte(`{"kind":"ClusterInformation","metadata":{"name":"default"},"spec":{"calicoVersion":"`+version+`","datastoreReady":true}}`))
	}
	put("v1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lineWatcher{seen: func(text string) {
		switch {
		case strings.Contains(text, "v1\n"):
			put("v2")
		case strings.Contains(text, "v2\n"):
			cancel()
		}
	}}
	var stderr bytes.Buffer
	if code := cmd.Run(ctx, w.deps(strings.NewReader(""), out, &stderr), []string{"version", "--poll", "1ms"}); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr.String())
	}
	for _, version := range []string{"v1", "v2"} {
		if n := strings.Count(out.String(), "Cluster Version:   "+version); n != 1 {
			t.Errorf("%s was shown %d times, want once:\n%s", version, n, out.String())
		}
	}
}

// fullDisk takes a few bytes and then no more.
type fullDisk struct{ room int }

func (d *fullDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func TestResultThatCantBeWrittenFailsTheCommand(t *testing.T) {
	reg := api.NewRegistry()
	w := &world{reg: reg, store: memory.New(reg), bgpd: sampleNode(), felix: true}
	for _, args := range [][]string{
		{"get", "nodes"},
		{"get", "nodes", "-o", "yaml"},
		{"get", "nodes", "-o", "json"},
		{"get", "nodes", "-o", "go-template={{range .}}{{.Kind}}{{end}}"},
		{"node", "status"},
		{"bgp", "routes"},
		{"ipam", "show"},
		{"version", "--client"},
	} {
		var stderr bytes.Buffer
		code := cmd.Run(t.Context(), w.deps(strings.NewReader(""), &fullDisk{room: 3}, &stderr), args)
		if code != 1 || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%v: exit status %d, stderr %q", args, code, stderr.String())
		}
	}
}

func TestInterruptedCommandFails(t *testing.T) {
	reg := api.NewRegistry()
	w := &world{reg: reg, store: memory.New(reg)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := cmd.Run(ctx, w.deps(strings.NewReader(""), &stdout, &stderr), []string{"get", "nodes"}); code == 0 || stdout.Len() > 0 ||
		!strings.Contains(stderr.String(), "interrupted") || strings.Contains(stderr.String(), "context") {
		t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
	}
}

func TestBgpdsFailuresAreToldWithoutGRPCsWords(t *testing.T) {
	reg := api.NewRegistry()
	const socket = "/var/run/calico/bgpd.sock"
	for err, want := range map[error]string{
		status.Error(codes.Unavailable, "error reading server preface: EOF"): "bgpd on " + socket + " hung up; look whether it runs and at its log\n",
		status.Error(codes.Unimplemented, "unknown method Peers"):            socket + " is not a bgpd's socket, or one of another version; name the right one with --socket\n",
		status.Error(codes.DeadlineExceeded, "context deadline exceeded"):    "bgpd on " + socket + " does not answer; look at its log\n",
		status.Error(codes.Internal, "peers: the speaker is stopping"):       "bgpd on " + socket + ": peers: the speaker is stopping\n",
		status.Error(codes.Canceled, "context canceled"):                     "bgpd on " + socket + ": interrupted\n",
		&net.OpError{Op: "dial", Net: "unix", Err: syscall.EPROTOTYPE}:       "connect to bgpd on " + socket + ": protocol wrong type for socket\n",
	} {
		node := sampleNode()
		node.peersErr = err
		w := &world{reg: reg, store: memory.New(reg), bgpd: node, felix: true}
		var stdout, stderr bytes.Buffer
		code := cmd.Run(t.Context(), w.deps(strings.NewReader(""), &stdout, &stderr), []string{"node", "status"})
		if code != 1 || stderr.String() != want {
			t.Errorf("%v: exit status %d, stderr %q, want %q", err, code, stderr.String(), want)
		}
		// What was answered before is shown.
		if !strings.HasPrefix(stdout.String(), "Calico process is running.\nfelix is running.\nNode node1, ") ||
			strings.Contains(stdout.String(), "BGP status") {
			t.Errorf("%v: stdout %q", err, stdout.String())
		}
	}
}

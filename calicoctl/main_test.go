package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

func TestBuildVersionPrefersTheLinkersWord(t *testing.T) {
	info := func() (*debug.BuildInfo, bool) {
		return &debug.BuildInfo{
			Main:     debug.Module{Version: "v0.0.0-dev"},
			Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123abcd"}},
		}, true
	}
	changed := func() (*debug.BuildInfo, bool) {
		return &debug.BuildInfo{Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123abcd"}, {Key: "vcs.modified", Value: "true"},
		}}, true
	}
	none := func() (*debug.BuildInfo, bool) { return nil, false }
	cases := []struct {
		name, linked    string
		read            func() (*debug.BuildInfo, bool)
		version, commit string
	}{
		{"linked", "v1.2.3", info, "v1.2.3", "0123abcd"},
		{"recorded", "", info, "v0.0.0-dev", "0123abcd"},
		{"neither", "", none, "unknown", notRecorded},
		{"a tag", "v1.2.3", none, "v1.2.3", notRecorded},
		{"a commit", "3f252af", none, "3f252af", "3f252af"},
		{"a changed tree", "3f252af-dirty", none, "3f252af-dirty", "3f252af-dirty"},
		{"after a tag", "v1.2.3-14-g3f252af-dirty", none, "v1.2.3-14-g3f252af-dirty", "3f252af-dirty"},
		{"pseudo-version", "v0.0.0-20261122120000-0123456789ab+dirty", none, "v0.0.0-20261122120000-0123456789ab+dirty", "0123456789ab-dirty"},
		{"pseudo-version after a tag", "v1.2.4-0.20261122120000-0123456789ab", none, "v1.2.4-0.20261122120000-0123456789ab", "0123456789ab"},
		{"changed and recorded", "v1.2.3", changed, "v1.2.3", "0123abcd-dirty"},
	}
	for _, c := range cases {
		if version, commit := buildVersion(c.linked, c.read); version != c.version || commit != c.commit {
			t.Errorf("%s: %s, %s, want %s, %s", c.name, version, commit, c.version, c.commit)
		}
	}
}

type statusServer struct {
	nodestatus.NodeStatusServer // nothing else is asked
}

func (statusServer) Status(context.Context, *nodestatus.StatusRequest) (*nodestatus.StatusResponse, error) {
	return &nodestatus.StatusResponse{Node: "node1"}, nil
}

func TestDialNodeTalksToASocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "bgpd.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	nodestatus.RegisterNodeStatusServer(server, statusServer{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	client, conn, err := dialNode(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	state, err := client.Status(t.Context(), &nodestatus.StatusRequest{})
	if err != nil || state.GetNode() != "node1" {
		t.Errorf("status %v, %v", state, err)
	}
}

func TestConnectTellsWhetherSomebodyListens(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "felix-cni.sock")
	if err := connect(t.Context(), socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a socket: %v", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := connect(t.Context(), socket); err != nil {
		t.Errorf("with a listener: %v", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := connect(t.Context(), socket); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with a socket left behind: %v", err)
	}
}

func TestDialNodeKeepsTheKernelsError(t *testing.T) {
	if _, _, err := dialNode(t.Context(), filepath.Join(t.TempDir(), "absent.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want one that says the socket is absent", err)
	}
}

func TestOpenStoreNamesTheFileThatCantBeUsed(t *testing.T) {
	dir := t.TempDir()
	cfg := filepath.Join(dir, "calicoctl.cfg")
	text := "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec:\n" +
		"  etcdEndpoints: https://127.0.0.1:2379\n  etcdCACertFile: " + dir + "/ca.crt\n"
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(api.NewRegistry())(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), dir+"/ca.crt") {
		t.Errorf("error %v, want one that names the CA file", err)
	}
}

// BenchmarkStart is the whole process doing nothing: what every command costs at
// least. BenchmarkStartFloor is the same for an empty program.
func BenchmarkStart(b *testing.B) {
	benchmarkProgram(b, ".", "version", "--client")
}

func BenchmarkStartFloor(b *testing.B) {
	dir := b.TempDir()
	for name, text := range map[string]string{"go.mod": "module empty\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	benchmarkProgram(b, dir)
}

func benchmarkProgram(b *testing.B, dir string, args ...string) {
	b.Helper()
	program := filepath.Join(b.TempDir(), "program")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for b.Loop() {
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}

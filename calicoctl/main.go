// Command calicoctl manages the resources of a Calico network and shows the
// state of this node.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tortie/calicoctl/cmd"
	"tortie/calicoctl/kube"
	"tortie/internal/api"
	"tortie/internal/control/felixstatus"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
)

// opTimeout is how long an operator waits for one answer of the datastore or of
// bgpd before being told that there is none.
const opTimeout = 5 * time.Second

// poolSettle is how long upstream leaves a pool disabled before deleting it.
const poolSettle = 500 * time.Millisecond

// version is set by the linker.
var version string

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	reg := api.NewRegistry()
	client, commit := buildVersion(version, debug.ReadBuildInfo)
	return cmd.Run(ctx, cmd.Deps{
		Registry:  reg,
		OpenStore: openStore(reg),
		DialNode:  dialNode,
		OpenKube:  func(kubeconfig string) (cmd.Kube, error) { return kube.Connect(kubeconfig) },
		Connect:   connect,
		FelixStatus: func(socket string) (felixstatus.Status, error) {
			return felixstatus.Read(felixstatus.Path(socket))
		},
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		Terminal:  isTerminal(os.Stdout),
		Getenv:    os.Getenv,
		Now:       time.Now, // the clock enters here
		Settle:    poolSettle,
		OpTimeout: opTimeout,
		Version:   client,
		Commit:    commit,
	}, os.Args[1:])
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func openStore(reg *api.Registry) func(context.Context, string, *slog.Logger) (datastore.Client, error) {
	return func(ctx context.Context, path string, log *slog.Logger) (datastore.Client, error) {
		cfg, err := datastore.LoadConfig(path, os.Getenv)
		if err != nil {
			return nil, err
		}
		return etcd.New(ctx, etcd.Config{Config: cfg, RequestTimeout: opTimeout}, reg, log)
	}
}

// dialNode connects to a Unix socket. It connects once by hand first: the error
// of the kernel says more than that of gRPC.
func dialNode(ctx context.Context, socket string) (nodestatus.NodeStatusClient, io.Closer, error) {
	if err := connect(ctx, socket); err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	return nodestatus.NewNodeStatusClient(conn), conn, nil
}

// connect connects to a Unix socket and closes the connection again.
func connect(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// notRecorded is the commit of a program built from a release without git's data.
const notRecorded = "not recorded in this build"

// buildVersion is the version and the git commit of this program: what the linker
// was told, else what the Go toolchain recorded. A commit that only the version
// names is shorter than git's own.
func buildVersion(linked string, read func() (*debug.BuildInfo, bool)) (version, commit string) {
	version = linked
	settings := map[string]string{}
	if info, ok := read(); ok {
		if version == "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
	}
	commit = settings["vcs.revision"]
	switch {
	case commit == "":
		commit = commitOf(version)
	case settings["vcs.modified"] == "true":
		commit += "-dirty"
	}
	if version == "" {
		version = "unknown"
	}
	return version, commit
}

// commitOf is the commit that a version names: git describe ends in one, or is
// one, and so does a pseudo-version of Go.
func commitOf(version string) string {
	described := regexp.MustCompile(`^(?:.*-g|.*[.-][0-9]{14}-)?([0-9a-f]{7,40})(?:(?:-|\+)(dirty))?$`)
	match := described.FindStringSubmatch(version)
	switch {
	case match == nil:
		return notRecorded
	case match[2] != "":
		return match[1] + "-" + match[2]
	}
	return match[1]
}

package cmd_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/report"
	"tortie/calicoctl/cmd"
	"tortie/calicoctl/kube"
	"tortie/internal/api"
	"tortie/internal/control/felixstatus"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/datastore/etcd/etcdtest"
	"tortie/internal/datastore/memory"
	"tortie/internal/kubeapi"
	"tortie/internal/kubeapi/apitest"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// now is the clock of all scripts.
func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// world is what one script works on: a datastore that lives as long as the
// script and a bgpd that says what the script told it to say.
type world struct {
	reg   *api.Registry
	store *memory.Store
	bgpd  *fakeNode
	felix bool // whether it runs
	// etcd is the store instead of the one in memory, when it is there.
	etcd *etcdtest.Server
	raw  *etcdtest.Raw
	// kube is the API server that kube.config names; nil for none.
	kube *apitest.Server
	// patience is how long calls may take; 0 is as in the program.
	patience time.Duration
	// said is what felix has last said of itself.
	said felixstatus.Status
}

// fakeNode is the status service of a bgpd.
type fakeNode struct {
	nodestatus.NodeStatusClient
	status *nodestatus.StatusResponse
	peers  []*nodestatus.Peer
	routes []*nodestatus.Route
	why    *nodestatus.WhyResponse
	// peersErr is what a question for the peers fails with.
	peersErr error
}

func (n *fakeNode) Status(context.Context, *nodestatus.StatusRequest, ...grpc.CallOption) (*nodestatus.StatusResponse, error) {
	return n.status, nil
}

func (n *fakeNode) Peers(context.Context, *nodestatus.PeersRequest, ...grpc.CallOption) (*nodestatus.PeersResponse, error) {
	if n.peersErr != nil {
		return nil, n.peersErr
	}
	return &nodestatus.PeersResponse{Peers: n.peers}, nil
}

func (n *fakeNode) Routes(_ context.Context, req *nodestatus.RoutesRequest, _ ...grpc.CallOption) (*nodestatus.RoutesResponse, error) {
	answer := &nodestatus.RoutesResponse{}
	for _, r := range n.routes {
		// The sample has one route of each other table.
		if table := nodestatus.Table_value[r.GetReason()]; req.GetTable() != nodestatus.Table(table) {
			continue
		}
		if req.GetPrefix() == "" || req.GetPrefix() == r.GetPrefix() {
			answer.Routes = append(answer.Routes, r)
		}
	}
	return answer, nil
}

func (n *fakeNode) Why(_ context.Context, req *nodestatus.WhyRequest, _ ...grpc.CallOption) (*nodestatus.WhyResponse, error) {
	if req.GetPrefix() != n.why.GetPrefix() {
		return &nodestatus.WhyResponse{Prefix: req.GetPrefix(), What: "no accepted path: it is outside every IP pool and block, and no peer announces it"}, nil
	}
	return n.why, nil
}

// server makes it one for bgpd's reporter.
type server struct {
	node *fakeNode
}

func (s server) Status(ctx context.Context, req *nodestatus.StatusRequest) (*nodestatus.StatusResponse, error) {
	return s.node.Status(ctx, req)
}

func (s server) Routes(ctx context.Context, req *nodestatus.RoutesRequest) (*nodestatus.RoutesResponse, error) {
	return s.node.Routes(ctx, req)
}

func (s server) Peers(ctx context.Context, req *nodestatus.PeersRequest) (*nodestatus.PeersResponse, error) {
	return s.node.Peers(ctx, req)
}

// answer makes bgpd's reporter answer for a node until the script ends.
func (w *world) answer(ts *testscript.TestScript, node string, n *fakeNode) {
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	r := report.New(report.Config{Node: node, Client: w.store.Client(), Server: server{node: n}, Now: now, Log: log})
	syncer := datastore.NewSyncer(datastore.SyncerConfig{Client: w.store.Client(), Ranges: report.Ranges(), Sink: r, Log: log})
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	running.Go(func() { _ = syncer.Run(ctx) })
	ts.Defer(func() { cancel(); running.Wait() })
}

// client is the program's way to the store.
func (w *world) client(ctx context.Context) (datastore.Client, error) {
	if w.etcd == nil {
		return w.store.Client(), nil
	}
	return etcd.New(ctx, etcd.Config{Config: w.etcd.Config(), RequestTimeout: 5 * time.Second}, w.reg, slog.New(slog.DiscardHandler))
}

// The four below are a foreign program's way to the store.
func (w *world) put(path string, value []byte) {
	if w.etcd == nil {
		w.store.RawPut(path, value)
		return
	}
	w.raw.Put(path, value)
}

func (w *world) remove(path string) {
	if w.etcd == nil {
		w.store.RawDelete(path)
		return
	}
	w.raw.Delete(path)
}

func (w *world) value(path string) ([]byte, bool) {
	if w.etcd == nil {
		return w.store.RawGet(path)
	}
	return w.raw.Get(path)
}

func (w *world) paths(prefix string) []string {
	if w.etcd == nil {
		return w.store.Paths(prefix)
	}
	return w.raw.Paths(prefix)
}

func (w *world) deps(stdin io.Reader, stdout, stderr io.Writer) cmd.Deps {
	return cmd.Deps{
		Registry: w.reg,
		OpenStore: func(ctx context.Context, path string, _ *slog.Logger) (datastore.Client, error) {
			if path != datastore.DefaultConfigPath {
				// The connection itself is not what these scripts test.
				if _, err := datastore.LoadConfig(path, func(string) string { return "" }); err != nil {
					return nil, err
				}
			}
			return w.client(ctx)
		},
		OpenKube: func(path string) (cmd.Kube, error) {
			if filepath.Base(path) != "kube.config" || w.kube == nil {
				return nil, fmt.Errorf("read KUBECONFIG %s: no such file or directory", filepath.Base(path))
			}
			client, err := kubeapi.New(w.kube.Config(), kube.Role)
			return kube.New(client), err
		},
		DialNode: func(_ context.Context, socket string) (nodestatus.NodeStatusClient, io.Closer, error) {
			switch {
			case socket == "stale.sock":
				return nil, nil, fmt.Errorf("dial unix %s: %w", socket, syscall.ECONNREFUSED)
			case socket == "locked.sock":
				return nil, nil, fmt.Errorf("dial unix %s: %w", socket, os.ErrPermission)
			case w.bgpd == nil:
				return nil, nil, fmt.Errorf("dial unix %s: %w", socket, os.ErrNotExist)
			}
			return w.bgpd, io.NopCloser(nil), nil
		},
		Connect: func(ctx context.Context, socket string) error {
			switch {
			case socket == "stale.sock":
				return fmt.Errorf("dial unix %s: %w", socket, syscall.ECONNREFUSED)
			case socket == "locked.sock":
				return fmt.Errorf("dial unix %s: %w", socket, os.ErrPermission)
			case socket == "file.sock":
				return fmt.Errorf("dial unix %s: %w", socket, syscall.EPROTOTYPE)
			case !w.felix:
				return fmt.Errorf("dial unix %s: %w", socket, os.ErrNotExist)
			}
			return ctx.Err()
		},
		FelixStatus: func(string) (felixstatus.Status, error) { return w.said, nil },
		Stdin:       stdin, Stdout: stdout, Stderr: stderr,
		Getenv:    func(string) string { return "" },
		Now:       now,
		OpTimeout: cmp.Or(w.patience, 5*time.Second),
		Version:   "v0.1.0",
		Commit:    "0123abcd",
	}
}

type worldKey struct{}

// samplesFile has keys and values that upstream's programs wrote.
var samplesFile = filepath.Join("..", "..", "internal", "api", "testdata", "samples.txt")

// TestScripts runs testdata/script. Besides testscript's own commands there are:
//
//	calicoctl ARGS…        run the program; stdin from the stdin command
//	exitcode N ARGS…       run the program, which must exit with N
//	put PATH FILE          write raw bytes into the store, as a foreign program may
//	samples                load a store as upstream's programs wrote it
//	raw PATH               the raw bytes of a path on stdout
//	paths [PREFIX]         the paths of the store on stdout, or "none"
//	etcd up|down           make the store answer or not
//	bgpd                   start a bgpd with two peers and three routes
//	answers NODE [none]    the same bgpd, or one without peers, on a node asked through the store
//	patience TIME          how long calls may take
//	felix [PROBLEM…]       start a felix with these problems
//	felix ended WHY        a felix that could not go on
//	healthy                load a store of two nodes and three pods in which all is right
//	load FILE              write the lines of a file, each a path and a value
//	remove PATH            remove a path
//	dump [PREFIX]          paths and values on stdout
//	kube …                 make an API server, which kube.config names, and its objects
//	masked                 the last stdout again, with UIDs, GUIDs and revisions masked
func TestScripts(t *testing.T) {
	params := scripts(nil)
	params.Dir = filepath.Join("..", "testdata", "script")
	testscript.Run(t, params)
}

// TestIPAMScriptsOnEtcd runs the scripts about addresses once more, each on an etcd of
// its own.
func TestIPAMScriptsOnEtcd(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "script", "ipam*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	params := scripts(func() *etcdtest.Server { return etcdtest.Start(t, etcdtest.Options{}) })
	params.Files = files
	params.UpdateScripts = false
	testscript.Run(t, params)
}

// scripts are the commands of scripts, on a store in memory unless there is start.
func scripts(start func() *etcdtest.Server) testscript.Params {
	return testscript.Params{
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			reg := api.NewRegistry()
			w := &world{reg: reg, store: memory.New(reg)}
			if start != nil {
				w.etcd = start()
				w.raw = w.etcd.Raw()
			}
			env.Values[worldKey{}] = w
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"calicoctl": func(ts *testscript.TestScript, neg bool, args []string) {
				code := runIn(ts, args)
				if neg != (code != 0) {
					ts.Fatalf("exit status %d", code)
				}
			},
			"exitcode": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				if code := runIn(ts, args[1:]); code != want {
					ts.Fatalf("exit status %d, want %d", code, want)
				}
			},
			"put": func(ts *testscript.TestScript, _ bool, args []string) {
				worldOf(ts).put(args[0], bytes.TrimSpace([]byte(ts.ReadFile(args[1]))))
			},
			"samples": func(ts *testscript.TestScript, _ bool, _ []string) {
				text, err := os.ReadFile(samplesFile)
				ts.Check(err)
				lines := strings.Split(strings.TrimSpace(string(text)), "\n")
				for i := 0; i+1 < len(lines); i += 2 {
					worldOf(ts).put(lines[i], []byte(lines[i+1]))
				}
			},
			"raw": func(ts *testscript.TestScript, _ bool, args []string) {
				value, ok := worldOf(ts).value(args[0])
				if !ok {
					ts.Fatalf("%s is not in the store", args[0])
				}
				fmt.Fprintf(ts.Stdout(), "%s\n", value)
			},
			"paths": func(ts *testscript.TestScript, _ bool, args []string) {
				paths := worldOf(ts).paths(strings.Join(args, ""))
				if len(paths) == 0 {
					paths = []string{"none"} // no output at all would leave the last one in place
				}
				for _, path := range paths {
					fmt.Fprintln(ts.Stdout(), path)
				}
			},
			"etcd": func(ts *testscript.TestScript, _ bool, args []string) {
				worldOf(ts).store.SetUnavailable(args[0] == "down")
			},
			"bgpd": func(ts *testscript.TestScript, _ bool, _ []string) { worldOf(ts).bgpd = sampleNode() },
			"answers": func(ts *testscript.TestScript, _ bool, args []string) {
				n := sampleNode()
				if len(args) > 1 { // "none"
					n.peers = nil
				}
				worldOf(ts).answer(ts, args[0], n)
			},
			"patience": func(ts *testscript.TestScript, _ bool, args []string) {
				d, err := time.ParseDuration(args[0])
				ts.Check(err)
				worldOf(ts).patience = d
			},
			"nobgp": func(ts *testscript.TestScript, _ bool, _ []string) {
				worldOf(ts).bgpd = &fakeNode{status: &nodestatus.StatusResponse{
					Node: "node1", Version: "v0.1.0", Started: now().Add(-time.Hour).Unix(), Off: "CALICO_NETWORKING_BACKEND=vxlan", DatastoreInSync: true,
				}}
			},
			"draining": func(ts *testscript.TestScript, _ bool, _ []string) {
				worldOf(ts).bgpd.status.GracefulShutdown = true
			},
			"felix": func(ts *testscript.TestScript, _ bool, args []string) {
				w := worldOf(ts)
				w.felix = len(args) == 0 || args[0] != "ended"
				w.said = felixstatus.Status{Node: "node1", Problems: args}
				if !w.felix {
					w.said = felixstatus.Status{Node: "node1", Ended: strings.Join(args[1:], " ")}
				}
			},
			"masked": func(ts *testscript.TestScript, _ bool, _ []string) {
				fmt.Fprint(ts.Stdout(), mask(ts.ReadFile("stdout")))
			},
			"healthy": func(ts *testscript.TestScript, _ bool, _ []string) {
				text, err := os.ReadFile(filepath.Join("..", "testdata", "healthy.txt"))
				ts.Check(err)
				worldOf(ts).load(string(text))
			},
			"load":   func(ts *testscript.TestScript, _ bool, args []string) { worldOf(ts).load(ts.ReadFile(args[0])) },
			"remove": func(ts *testscript.TestScript, _ bool, args []string) { worldOf(ts).remove(args[0]) },
			"dump": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, path := range worldOf(ts).paths(strings.Join(args, "")) {
					value, _ := worldOf(ts).value(path)
					fmt.Fprintf(ts.Stdout(), "%s %s\n", path, value)
				}
			},
			"kube": func(ts *testscript.TestScript, _ bool, args []string) { worldOf(ts).kubernetes(ts, args) },
		},
	}
}

// load writes lines of a path and a value each.
func (w *world) load(text string) {
	for line := range strings.Lines(text) {
		if path, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			w.put(path, []byte(value))
		}
	}
}

// kubernetes makes an API server, or changes it: "node NAME", "pod NAMESPACE/NAME NODE
// ADDRESS…", "gone NAMESPACE/NAME".
func (w *world) kubernetes(ts *testscript.TestScript, args []string) {
	if w.kube == nil {
		w.kube = apitest.New(false)
		ts.Defer(w.kube.Close)
	}
	pod := &corev1.Pod{}
	if len(args) > 1 {
		pod.Namespace, pod.Name, _ = strings.Cut(args[1], "/")
	}
	switch {
	case len(args) == 0:
	case args[0] == "node":
		w.kube.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: args[1]}})
	case args[0] == "gone":
		w.kube.Delete(pod)
	case args[0] == "pod":
		pod.Spec.NodeName = args[2]
		for _, ip := range args[3:] {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		w.kube.Put(pod)
	default:
		ts.Fatalf("kube %v", args)
	}
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// runIn runs the program in the script's directory.
func runIn(ts *testscript.TestScript, args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, arg := range args {
		// The process has one working directory; the script has its own.
		if i > 0 && (args[i-1] == "-f" || args[i-1] == "-c") && arg != "-" {
			args[i] = ts.MkAbs(arg)
		}
		for _, prefix := range []string{"go-template-file=", "--output=", "--from-report=", "--undo-file=", "--undo="} {
			if file, ok := strings.CutPrefix(arg, prefix); ok {
				args[i] = prefix + ts.MkAbs(file)
			}
		}
	}
	var stdin io.Reader = strings.NewReader("")
	if content, err := os.ReadFile(ts.MkAbs("stdin.txt")); err == nil {
		stdin = bytes.NewReader(content)
	}
	stdout := &relative{w: ts.Stdout(), dir: ts.MkAbs(".")}
	stderr := &relative{w: ts.Stderr(), dir: ts.MkAbs(".")}
	return cmd.Run(ctx, worldOf(ts).deps(stdin, stdout, stderr), args)
}

// relative takes the script's directory out of what is printed.
type relative struct {
	w   io.Writer
	dir string
}

func (r *relative) Write(p []byte) (int, error) {
	_, err := r.w.Write(bytes.ReplaceAll(p, []byte(strings.TrimSuffix(r.dir, ".")+"/"), nil))
	return len(p), errors.Join(err)
}

// mask replaces what differs from run to run.
func mask(text string) string {
	for _, m := range []struct{ pattern, with string }{
		{`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, "UID"},
		{`\b[0-9a-f]{32}\b`, "GUID"},
		{`(resourceVersion"?: ?"?)\d+`, "${1}REV"},
		{`(Revision": ")\d+`, "${1}REV"},
	} {
		text = regexp.MustCompile(m.pattern).ReplaceAllString(text, m.with)
	}
	return text
}

func sampleNode() *fakeNode {
	seconds := func(ago time.Duration) int64 { return now().Add(-ago).Unix() }
	return &fakeNode{
		status: &nodestatus.StatusResponse{
			Node: "node1", Version: "v0.1.0", Started: seconds(3 * time.Hour), RouterId: "10.10.0.1", Asn: 64512,
			Mesh: true, DatastoreInSync: true, Problems: []string{"peer node3: TCP connection refused"},
		},
		peers: []*nodestatus.Peer{
			{
				Name: "node2", Address: "10.10.0.2", Port: 179, Asn: 64512, LocalAsn: 64512, Type: "node-to-node mesh",
				State: "Established", Since: seconds(time.Hour), Received: 3, Advertised: 2, GracefulRestart: true,
				Bfd: "Up, 300ms x 3", HoldTime: 9, KeepaliveTime: 3, ConnectTime: 1, AddPath: true, LongLivedRestart: true,
			},
			{
				Name: "node3", Address: "10.10.0.3", Port: 179, Asn: 64512, LocalAsn: 64512, Type: "node-to-node mesh",
				State: "Active", Since: seconds(48 * time.Hour), Info: "we refused the peer: hold timer expired",
			},
			{
				Name: "tor", Address: "10.10.0.254", Type: "global", LocalAsn: 64512, State: "Disabled",
				Info: "spec.asNumber is not set; the peer is not configured",
			},
		},
		routes: []*nodestatus.Route{
			{
				Prefix: "10.65.1.0/26", Best: true, Reason: "block of this node", Age: seconds(time.Hour), LocalPref: 100,
			},
			{
				Prefix: "10.65.2.0/26", NextHop: "10.10.0.2", Peer: "10.10.0.2", Best: true, LocalPref: 100, Age: seconds(time.Hour),
				Kernel: "via 10.10.0.2 dev eth0", Reason: "learned from node2", Communities: []string{"64512:100", "4200000000:1:2"},
			},
			{
				Prefix: "10.65.3.0/26", NextHop: "10.10.0.3", Peer: "10.10.0.3", AsPath: []uint32{64513}, Stale: true,
				Reason: "not installed: next hop 10.10.0.3 is unreachable", Age: seconds(time.Minute),
			},
			{Prefix: "10.65.2.0/26", NextHop: "10.10.0.2", Peer: "10.10.0.2", AsPath: []uint32{64513, 64514}, Reason: "ADJ_IN"},
			{Prefix: "10.65.1.0/26", NextHop: "10.10.0.1", Peer: "10.10.0.2", Reason: "ADJ_OUT"},
			{Prefix: "10.65.2.0/26", NextHop: "10.10.0.2", Kernel: "via 10.10.0.2 dev eth0 proto 81 (bgpd)", Reason: "FIB"},
		},
		why: &nodestatus.WhyResponse{
			Prefix: "10.65.2.0/26", What: "block of node2", Decision: "AS path length: 0, not 1", Filter: "accepted",
			Wanted: "via 10.10.0.2 dev eth0", Kernel: []string{"via 10.10.0.2 dev eth0 proto 81 (bgpd)"},
			Advertised: []string{"to nobody: a node announces its own prefixes only"},
			Paths: []*nodestatus.WhyPath{
				{
					Name: "node2", Type: "node-to-node mesh", Verdict: "best",
					Route: &nodestatus.Route{Peer: "10.10.0.2", NextHop: "10.10.0.2", LocalPref: 100, Best: true, Communities: []string{"64512:100", "4200000000:1:2"}},
				},
				{
					Name: "tor", Type: "global", Verdict: "loses to 10.10.0.2 by AS path length: 0, not 1",
					Route: &nodestatus.Route{Peer: "10.10.0.254", NextHop: "10.10.0.254", AsPath: []uint32{64999}, LocalPref: 100},
				},
			},
			Changes: []*nodestatus.Change{
				{Time: now().Add(-26 * time.Hour).UnixMilli(), Text: "via 10.10.0.254 dev eth0, from peer 10.10.0.254"},
				{Time: now().Add(-time.Hour).UnixMilli() + 37, Text: "via 10.10.0.2 dev eth0, from peer 10.10.0.2"},
			},
		},
	}
}

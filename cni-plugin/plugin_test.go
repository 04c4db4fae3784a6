package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"tortie/internal/control/cniwire"
)

// binaries are what the tests run: the plugin under both names, and a program
// that does nothing.
type binaries struct{ dir string }

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

// dir has the programs; set once, before any test runs.
var dir string

func runTests(m *testing.M) int {
	var err error
	if dir, err = os.MkdirTemp("", "cni-plugin"); err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	empty := filepath.Join(dir, "empty.go")
	if err := os.WriteFile(empty, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		panic(err)
	}
	for out, source := range map[string]string{"calico": ".", "empty": empty, "reference": "github.com/containernetworking/plugins/plugins/main/loopback"} {
		flags := "-s -w -X main.version=v1.2.3"
		if out == "calico" && runtime.GOARCH == "amd64" {
			flags += " -E main.entry" // as the Makefile does
		}
		build := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", filepath.Join(dir, out), source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := build.CombinedOutput(); err != nil {
			panic(string(msg))
		}
	}
	for _, name := range []string{"calico-ipam", "loopback"} {
		if err := os.Symlink("calico", filepath.Join(dir, name)); err != nil {
			panic(err)
		}
	}
	return m.Run()
}

// felix is a listener that answers every request alike and keeps the last one.
type felix struct {
	socket   string
	requests chan cniwire.Request
}

func newFelix(t testing.TB, answer func(cniwire.Request) cniwire.Response) felix {
	t.Helper()
	f := felix{socket: filepath.Join(t.TempDir(), "s"), requests: make(chan cniwire.Request, 1024)}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			req, err := cniwire.ReadRequest(conn)
			if err == nil {
				f.requests <- req
				_ = cniwire.Write(conn, answer(req))
			}
			_ = conn.Close()
		}
	}()
	return f
}

type outcome struct {
	stdout, stderr string
	code           int
}

// environment is a runtime's, with more.
func environment(more ...string) []string {
	return append([]string{
		"CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/none", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_ARGS=IgnoreUnknown=1", "CALICO_CNI_WAIT=50ms",
	}, more...)
}

// invoke runs a program as a runtime does.
func invoke(t testing.TB, program, stdin string, env ...string) outcome {
	t.Helper()
	cmd := exec.Command(binaries{dir}.path(program))
	cmd.Env = environment(env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

const conf = `{"cniVersion": "1.0.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}}`

func TestCallGoesToFelixAndItsResultToStandardOutput(t *testing.T) {
	f := newFelix(t, func(cniwire.Request) cniwire.Response {
		return cniwire.Response{Result: json.RawMessage(`{"cniVersion":"1.0.0"}`)}
	})
	for program, plugin := range map[string]string{"calico": "calico", "calico-ipam": "calico-ipam"} {
		got := invoke(t, program, conf, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket)
		if diff := cmp.Diff(outcome{stdout: `{"cniVersion":"1.0.0"}` + "\n"}, got, cmp.AllowUnexported(outcome{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", program, diff)
		}
		want := cniwire.Request{
			Version: cniwire.Version, Plugin: plugin, Command: "ADD", ContainerID: "c1", Netns: "/run/netns/none", IfName: "eth0",
			Args: "IgnoreUnknown=1", Path: "/opt/cni/bin", Config: json.RawMessage(strings.ReplaceAll(conf, ": ", ":")),
		}
		want.Config = json.RawMessage(strings.ReplaceAll(string(want.Config), ", ", ","))
		if diff := cmp.Diff(want, <-f.requests); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
	}
}

func TestCommandsWithoutOutputPrintNothing(t *testing.T) {
	f := newFelix(t, func(cniwire.Request) cniwire.Response { return cniwire.Response{} })
	conf := strings.Replace(conf, "1.0.0", "1.1.0", 1)
	for _, command := range []string{"DEL", "CHECK", "GC", "STATUS"} {
		got := invoke(t, "calico", conf, "CNI_COMMAND="+command, "CALICO_CNI_SOCKET="+f.socket)
		if got != (outcome{}) {
			t.Errorf("%s: %+v", command, got)
		}
		if req := <-f.requests; req.Command != command {
			t.Errorf("felix got %s for %s", req.Command, command)
		}
	}
}

// cniError is the error structure of the specification.
type cniError struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
}

func wantError(t *testing.T, got outcome, code int, says string) {
	t.Helper()
	var e cniError
	if err := json.Unmarshal([]byte(got.stdout), &e); err != nil {
		t.Fatalf("output %q: %v", got.stdout, err)
	}
	if got.code == 0 || got.stderr != "" || e.Code != code || !strings.Contains(e.Msg, says) || e.CNIVersion == "" {
		t.Errorf("exit code %d, %+v, standard error %q; want code %d saying %q", got.code, e, got.stderr, code, says)
	}
}

func TestFelixsErrorIsPassedOn(t *testing.T) {
	f := newFelix(t, func(cniwire.Request) cniwire.Response {
		return cniwire.Response{Error: &cniwire.Error{Code: 7, Msg: "no such pool", Details: "make \"it\""}}
	})
	got := invoke(t, "calico", conf, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket)
	wantError(t, got, 7, "no such pool")
	if !strings.Contains(got.stdout, `"details": "make \"it\""`) {
		t.Errorf("without its details: %s", got.stdout)
	}
}

func TestFelixAway(t *testing.T) {
	missing := "CALICO_CNI_SOCKET=" + filepath.Join(t.TempDir(), "none")
	stale := filepath.Join(t.TempDir(), "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	conf := strings.Replace(conf, "1.0.0", "1.1.0", 1)
	for command, code := range map[string]int{"ADD": 11, "DEL": 11, "CHECK": 11, "GC": 11, "STATUS": 50} {
		for _, socket := range []string{missing, "CALICO_CNI_SOCKET=" + stale} {
			wantError(t, invoke(t, "calico", conf, "CNI_COMMAND="+command, socket), code, "felix is not running on this node")
		}
	}
}

func TestFelixThatDiesDuringTheCall(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = cniwire.ReadRequest(conn)
			_ = conn.Close()
		}
	}()
	wantError(t, invoke(t, "calico", conf, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+socket), 11, "without an answer")
}

// TestWaitsForAFelixThatIsBeingRestarted listens when the plugin has begun; that it
// waits when it comes first is tested beside dial.
func TestWaitsForAFelixThatIsBeingRestarted(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(binaries{dir}.path("calico"))
	cmd.Env = environment("CNI_COMMAND=DEL", "CALICO_CNI_SOCKET="+socket, "CALICO_CNI_WAIT=30s")
	cmd.Stdin = strings.NewReader(conf)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cniwire.ReadRequest(conn); err != nil {
		t.Error(err)
	}
	if err := cniwire.Write(conn, cniwire.Response{}); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || stdout.Len() > 0 {
		t.Errorf("%v, output %s", err, stdout.String())
	}
}

// TestSignalsDoNotBreakTheCallOff: Go's runtime sends SIGURG to its own threads, and a
// call on a socket with a timeout ends with EINTR then.
func TestSignalsDoNotBreakTheCallOff(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	cmd := exec.Command(binaries{dir}.path("calico"))
	cmd.Env = environment("CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+socket)
	cmd.Stdin = strings.NewReader(conf)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cniwire.ReadRequest(conn); err != nil {
		t.Error(err)
	}
	for range 1000 {
		if err := cmd.Process.Signal(syscall.SIGURG); err != nil {
			t.Error(err)
		}
	}
	if err := cniwire.Write(conn, cniwire.Response{Result: []byte("{}")}); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || stdout.String() != "{}\n" {
		t.Errorf("%v, output %s", err, stdout.String())
	}
}

// TestStandardInputThatDoesNotBlock: who starts the plugin may have made it so.
func TestStandardInputThatDoesNotBlock(t *testing.T) {
	f := newFelix(t, func(cniwire.Request) cniwire.Response { return cniwire.Response{Result: []byte("{}")} })
	var in [2]int
	if err := syscall.Pipe2(in[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(in[0]), "stdin"), os.NewFile(uintptr(in[1]), "stdin")
	// Only now, for os/exec makes a file block that it knows not to.
	if err := syscall.SetNonblock(in[0], true); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binaries{dir}.path("calico"))
	cmd.Env = environment("CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket)
	cmd.Stdin = r
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString(conf); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Close(), r.Close()
	if err := cmd.Wait(); err != nil || stdout.String() != "{}\n" {
		t.Errorf("%v, output %s", err, stdout.String())
	}
}

func TestFelixThatDoesNotReadTheRequest(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	long := strings.Replace(conf, `"type"`, `"example.org/x": "`+strings.Repeat("x", 900_000)+`", "type"`, 1) // more than a socket buffers
	for _, c := range []string{conf, long} {
		wantError(t, invoke(t, "calico", c, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+socket), 11, "without an answer")
	}
}

func TestBadCallsGiveOneClearError(t *testing.T) {
	f := newFelix(t, func(cniwire.Request) cniwire.Response { return cniwire.Response{} })
	socket := "CALICO_CNI_SOCKET=" + f.socket
	wantError(t, invoke(t, "calico", `{`, "CNI_COMMAND=ADD", socket), 6, "network config")
	wantError(t, invoke(t, "calico", `{"cniVersion": "1.0.0"}`, "CNI_COMMAND=ADD", socket), 7, "missing network name")
	wantError(t, invoke(t, "calico", strings.Replace(conf, "1.0.0", "9.0.0", 1), "CNI_COMMAND=ADD", socket), 1, "incompatible CNI versions")
	wantError(t, invoke(t, "calico", conf, "CNI_COMMAND=ADD", "CNI_CONTAINERID=a/b", socket), 4, "")
	wantError(t, invoke(t, "calico", conf, "CNI_COMMAND=ADD", "CNI_IFNAME=", socket), 4, "CNI_IFNAME")
	wantError(t, invoke(t, "calico", conf, "CNI_COMMAND=JUMP", socket), 4, "JUMP")
	wantError(t, invoke(t, "calico", conf, "CNI_COMMAND=ADD", "CALICO_CNI_WAIT=long", socket), 4, "CALICO_CNI_WAIT")
	if n := len(f.requests); n != 0 {
		t.Errorf("%d bad calls reached felix", n)
	}
}

func TestConfigurationOfTheWrongShapeIsNamedInPlainWords(t *testing.T) {
	for _, tc := range []struct {
		stdin string
		code  int
		says  string
	}{
		{`[]`, 7, "network configuration: want an object, not array"},
		{`5`, 7, "network configuration: want an object, not number"},
		{`{"cniVersion": "1.0.0", "name": "net1", "felix_socket": 5}`, 7, `key "felix_socket": want a string, not number`},
		{`{"cniVersion": 1, "name": "net1"}`, 7, `key "cniVersion": want a string, not number`},
		{`{"cniVersion": "1.0.0", "name": {}}`, 7, `key "name": want a string, not object`},
		{`{"cniVersion": "1.0.0",`, 6, "network configuration: not JSON"},
		{``, 6, "expected on standard input"},
	} {
		for _, command := range []string{"ADD", "DEL"} {
			got := invoke(t, "calico", tc.stdin, "CNI_COMMAND="+command)
			wantError(t, got, tc.code, tc.says)
			if strings.Contains(got.stdout, "Go ") || strings.Contains(got.stdout, "unmarshal") {
				t.Errorf("%s: output %s", tc.stdin, got.stdout)
			}
		}
	}
	wantError(t, invoke(t, "calico", `[]`, "CNI_COMMAND=VERSION"), 7, "VERSION request: want an object, not array")
}

func TestLongConfigurationReachesFelix(t *testing.T) {
	f := newFelix(t, func(cniwire.Request) cniwire.Response { return cniwire.Response{} })
	long := strings.Replace(conf, `"type"`, `"example.org/x": "`+strings.Repeat("x", 500_000)+`", "type"`, 1)
	if got := invoke(t, "calico", long, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket); got != (outcome{}) {
		t.Errorf("%+v", got)
	}
	if req := <-f.requests; len(req.Config) < 500_000 {
		t.Errorf("felix saw %d bytes", len(req.Config))
	}
}

// TestNullAfterAValueTakesNothingAway, as it doesn't for felix.
func TestNullAfterAValueTakesNothingAway(t *testing.T) {
	f := newFelix(t, func(cniwire.Request) cniwire.Response { return cniwire.Response{} })
	twice := strings.Replace(conf, `"type"`, `"name": null, "cniVersion": null, "felix_socket": null, "type"`, 1)
	if got := invoke(t, "calico", twice, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket); got != (outcome{}) {
		t.Errorf("%+v", got)
	}
}

func TestVersionAnswersInTheVersionOfTheRequest(t *testing.T) {
	for _, v := range cniversion.All.SupportedVersions() {
		got := invoke(t, "calico", `{"cniVersion": "`+v+`"}`, "CNI_COMMAND=VERSION")
		var answer struct {
			CNIVersion        string
			SupportedVersions []string
		}
		if err := json.Unmarshal([]byte(got.stdout), &answer); err != nil {
			t.Fatal(err)
		}
		want := []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}
		if got.code != 0 || answer.CNIVersion != v || !cmp.Equal(want, answer.SupportedVersions) {
			t.Errorf("%s: %+v", v, answer)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		arg, stdout string
		code        int
	}{{"--version", "CNI plugin calico v1.2.3\n", 0}, {"-v", "CNI plugin calico v1.2.3\n", 0}, {"--help", "CNI plugin calico v1.2.3\nIt is run by a container runtime", 0}, {"-t", "", 2}} {
		cmd := exec.Command(binaries{dir}.path("calico"), tc.arg)
		out, _ := cmd.Output()
		if !strings.HasPrefix(string(out), tc.stdout) || tc.stdout == "" && len(out) > 0 || cmd.ProcessState.ExitCode() != tc.code {
			t.Errorf("%s: %q, exit code %d", tc.arg, out, cmd.ProcessState.ExitCode())
		}
	}
}

func TestRunByHandWithoutACommand(t *testing.T) {
	for _, program := range []string{"calico", "calico-ipam", "loopback"} {
		cmd := exec.Command(binaries{dir}.path(program))
		cmd.Env = []string{"CNI_PATH=/x"}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		want := "CNI plugin " + program + " v1.2.3\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
		if err != nil || stdout.Len() > 0 || stderr.String() != want {
			t.Errorf("%s: %v, output %q, standard error %q", program, err, stdout.String(), stderr.String())
		}
	}
}

// TestPluginLinksNothingHeavy names what the plugin may link beside what the runtime
// itself and syscall are made of. What another package costs is felt at every start
// of a pod: its initialisation, and its pages.
func TestPluginLinksNothingHeavy(t *testing.T) {
	allowed := map[string]bool{"unsafe": true, "runtime": true}
	for _, pkg := range []string{
		"cmp", "errors", "io", "iter", "math/bits", "slices", "strconv", "sync", "sync/atomic", "syscall", "unicode/utf16", "unicode/utf8",
		"tortie/cni-plugin", "tortie/cni-plugin/client", "tortie/cni-plugin/loopback", "tortie/internal/control/cniwire", "tortie/internal/rawjson",
	} {
		allowed[pkg] = true
	}
	// Each of these was linked once, or is the easiest to slip in.
	costly := map[string]string{
		"net": "its poller and its threads", "net/http": "everything", "regexp": "expressions compiled at start", "unicode": "its tables",
		"strings": "it links unicode", "bytes": "it links unicode", "os": "files with finalizers and a thread for them",
		"time": "it links internal/godebug, which parses settings at start", "fmt": "reflection, os", "encoding/json": "reflection, unicode",
		"internal/godebug": "it parses settings at start", "reflect": "it links unicode",
	}
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 20 {
		t.Fatalf("only %d dependencies: %v", len(deps), deps)
	}
	for _, dep := range deps {
		runtimes := strings.HasPrefix(dep, "internal/") && costly[dep] == ""
		if !allowed[dep] && !runtimes {
			t.Errorf("the plugin links %s: %s", dep, costly[dep])
		}
	}
}

// BenchmarkProcess runs an empty program and a whole ADD side by side; the ratio
// is what the plugin costs over the floor.
func BenchmarkProcess(b *testing.B) {
	f := newFelix(b, func(cniwire.Request) cniwire.Response {
		return cniwire.Response{Result: json.RawMessage(`{"cniVersion":"1.0.0"}`)}
	})
	var floor, plugin time.Duration
	for b.Loop() {
		began := time.Now()
		invoke(b, "empty", "")
		floor += time.Since(began)
		began = time.Now()
		if got := invoke(b, "calico", conf, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket); got.code != 0 {
			b.Fatalf("%+v", got)
		}
		plugin += time.Since(began)
		<-f.requests
	}
	b.ReportMetric(float64(floor.Microseconds())/float64(b.N), "floor-µs/op")
	b.ReportMetric(float64(plugin.Microseconds())/float64(b.N), "plugin-µs/op")
	b.ReportMetric(float64(plugin)/float64(floor), "plugin/floor")
}

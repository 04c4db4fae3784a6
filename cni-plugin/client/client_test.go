package client

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"tortie/internal/control/cniwire"
)

func TestVersionsAreThoseOfTheLibrary(t *testing.T) {
	if diff := cmp.Diff(cniversion.All.SupportedVersions(), versions()); diff != "" {
		t.Errorf("versions (-library +plugin):\n%s", diff)
	}
	if newestVersion != cniversion.Current() {
		t.Errorf("newest version %s, the library's %s", newestVersion, cniversion.Current())
	}
}

func TestCommandsAreOfTheirVersions(t *testing.T) {
	for command, first := range map[string]string{"ADD": "", "DEL": "", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"} {
		for _, v := range append(versions(), "") {
			served := v >= first
			failed := checkVersion(command, v)
			if (failed == nil) != served || failed != nil && failed.Code != cniwire.CodeIncompatibleVersion {
				t.Errorf("%s of %q: %v, want served: %t", command, v, failed, served)
			}
		}
		for _, v := range []string{"9.0.0", "1.0", "x"} {
			if failed := checkVersion(command, v); failed == nil || failed.Code != cniwire.CodeIncompatibleVersion || !strings.Contains(failed.Msg, v) {
				t.Errorf("%s of %q: %v", command, v, failed)
			}
		}
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	for command, want := range map[string]string{
		"ADD":    "ADD needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH",
		"CHECK":  "CHECK needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH",
		"DEL":    "DEL needs CNI_CONTAINERID, CNI_IFNAME, CNI_PATH",
		"GC":     "GC needs CNI_PATH",
		"STATUS": "STATUS needs CNI_PATH",
		"add":    `unknown CNI_COMMAND: "add"`,
	} {
		failed := checkEnvironment(cniwire.Request{Command: command})
		if failed == nil || failed.Code != cniwire.CodeInvalidEnvironment || !strings.Contains(failed.Msg, want) {
			t.Errorf("%s: %v, want %q", command, failed, want)
		}
	}
}

func TestNamesThatCNIForbids(t *testing.T) {
	good := cniwire.Request{Command: "ADD", ContainerID: "c-1_x.Y", Netns: "/n", IfName: "eth0.1", Path: "/p"}
	if failed := checkEnvironment(good); failed != nil {
		t.Fatal(failed)
	}
	for _, id := range []string{"a/b", "-a", "_a", ".a", "a b", "ä", "a\n"} {
		r := good
		r.ContainerID = id
		if failed := checkEnvironment(r); failed == nil || failed.Code != cniwire.CodeInvalidEnvironment || !strings.Contains(failed.Msg, "CNI_CONTAINERID") {
			t.Errorf("container %q: %v", id, failed)
		}
		if failed := (plugConf{name: id}).check("ADD"); failed == nil || failed.Code != cniwire.CodeInvalidConfig {
			t.Errorf("network %q: %v", id, failed)
		}
	}
	for _, name := range []string{".", "..", "a/b", "a:b", "a b", "a\tb", "abcdefghijklmnop"} {
		r := good
		r.IfName = name
		if failed := checkEnvironment(r); failed == nil || failed.Code != cniwire.CodeInvalidEnvironment || !strings.Contains(failed.Msg, "CNI_IFNAME") {
			t.Errorf("interface %q: %v", name, failed)
		}
	}
}

func TestSocketComesFromTheEnvironmentThenTheConfiguration(t *testing.T) {
	for _, tc := range []struct{ env, conf, want string }{
		{"", `{}`, cniwire.DefaultSocket},
		{"", `{"felix_socket": "/run/f"}`, "/run/f"},
		{"", `{"felix\u005fsocket": "\/run\/f"}`, "/run/f"},
		{"", `{"felix_socket": null, "x": {"felix_socket": "/run/other"}}`, cniwire.DefaultSocket},
		{"/run/e", `{"felix_socket": "/run/f"}`, "/run/e"},
	} {
		conf, failed := parseConf("", []byte(tc.conf))
		if failed != nil {
			t.Fatal(failed)
		}
		getenv := func(name string) string { return map[string]string{"CALICO_CNI_SOCKET": tc.env}[name] }
		if s, failed := settingsFrom(getenv, conf); failed != nil || s.socket != tc.want || s.wait != defaultWait {
			t.Errorf("%q %s: %+v, %v", tc.env, tc.conf, s, failed)
		}
	}
}

// process is a plugin run in this process.
func process(socket, command string, pause func(int64)) (p Process, stdout *bytes.Buffer) {
	stdout = &bytes.Buffer{}
	env := map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0", "CNI_PATH": "/p", "CALICO_CNI_SOCKET": socket,
	}
	return Process{
		Program: NameCalico, Getenv: func(name string) string { return env[name] }, Stdout: stdout, Stderr: stdout, Pause: pause,
		Stdin: strings.NewReader(`{"cniVersion": "1.1.0", "name": "net1"}`),
	}, stdout
}

// serve answers the one call to a socket.
func serve(t *testing.T, socket string, answer cniwire.Response) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if _, err := cniwire.ReadRequest(conn); err == nil {
			_ = cniwire.Write(conn, answer)
		}
		_ = conn.Close()
	}()
}

func TestWaitsForASocketThatIsNotThereYet(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	pauses := 0
	p, stdout := process(socket, "ADD", func(ns int64) {
		if pauses++; pauses == 3 {
			serve(t, socket, cniwire.Response{Result: []byte(`{"a":1}`)})
		}
		if ns != int64(20*time.Millisecond) {
			t.Errorf("paused for %d ns", ns)
		}
	})
	if code := Main(p); code != 0 || stdout.String() != "{\"a\":1}\n" || pauses != 3 {
		t.Errorf("exit code %d after %d pauses, output %s", code, pauses, stdout)
	}
}

func TestWaitIsBounded(t *testing.T) {
	for command, want := range map[string]int{"ADD": 100, "DEL": 100, "CHECK": 100, "GC": 100, "STATUS": 0} {
		pauses := 0
		p, stdout := process(filepath.Join(t.TempDir(), "none"), command, func(int64) { pauses++ })
		if code := Main(p); code != 1 || pauses != want || !strings.Contains(stdout.String(), "felix is not running") {
			t.Errorf("%s: exit code %d after %d pauses, output %s", command, code, pauses, stdout)
		}
	}
}

func TestSocketThatMustNotBeOpened(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EACCES, syscall.EPERM} {
		e := notRunning(settings{socket: "/run/x"}, "ADD", errno)
		if e.Code != cniwire.CodeIOFailure || !strings.Contains(e.Msg, "/run/x: run the CNI plugin as root") || e.Details == "" {
			t.Errorf("%v: %+v", errno, e)
		}
	}
}

func TestTimeoutIsSaid(t *testing.T) {
	for command, code := range map[string]uint{"ADD": 11, "STATUS": 50} {
		e := brokenOff(settings{}, command, syscall.EAGAIN)
		if e.Code != code || !strings.Contains(e.Msg, "no answer within 60s") {
			t.Errorf("%s: %+v", command, e)
		}
	}
}

func TestErrorStructure(t *testing.T) {
	var out bytes.Buffer
	code := printError(&out, "1.0.0", &cniwire.Error{Code: 7, Msg: "a \"b\"\n<c>", Details: "d"})
	want := "{\n  \"cniVersion\": \"1.0.0\",\n  \"code\": 7,\n  \"msg\": \"a \\\"b\\\"\\n<c>\",\n  \"details\": \"d\"\n}\n"
	if code != 1 || out.String() != want || !json.Valid(out.Bytes()) {
		t.Errorf("exit code %d, output %s", code, out.String())
	}
}

func TestConfigurationLongerThanAMessage(t *testing.T) {
	for _, length := range []int{cniwire.MaxMessage, cniwire.MaxMessage + 1} { // with the rest too long, alone too long
		p, stdout := process("", "ADD", nil)
		head := `{"cniVersion": "1.1.0", "name": "net1", "x": "`
		p.Stdin = strings.NewReader(head + strings.Repeat("x", length-len(head)-2) + `"}`)
		if code := Main(p); code != 1 || !strings.Contains(stdout.String(), "longer than 1048576 bytes; shorten it") || !strings.Contains(stdout.String(), `"code": 7`) {
			t.Errorf("exit code %d, output %.200s", code, stdout)
		}
	}
}

func TestInputThatCannotBeRead(t *testing.T) {
	p, stdout := process("", "ADD", nil)
	r, w := io.Pipe()
	_ = w.CloseWithError(syscall.EIO)
	p.Stdin = r
	if code := Main(p); code != 1 || !strings.Contains(stdout.String(), `"code": 5`) {
		t.Errorf("exit code %d, output %s", code, stdout)
	}
}

// FuzzParseDuration compares with the library's.
func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"", "0", "+0", "2s", "50ms", "1m30s", "1.5h", ".5s", "1.s", "+3us", "3µs", "7ns", "-1s", "1", "s", ".s", "1.2.3s", "1d", "9999999h", "1e3s", "long"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseDuration(s)
		want, err := time.ParseDuration(s)
		if err == nil && want > 1<<61 || ok && got > 1<<61 {
			return // the bounds differ
		}
		if ok != (err == nil && want >= 0 && !strings.HasPrefix(s, "-")) {
			t.Fatalf("%q: %d, %t; the library says %v, %v", s, got, ok, want, err)
		}
		if off := time.Duration(got) - want; ok && (off > want>>40+1 || off < -(want>>40+1)) {
			t.Fatalf("%q: %v, the library says %v", s, time.Duration(got), want)
		}
	})
}

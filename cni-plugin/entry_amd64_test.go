package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"tortie/internal/control/cniwire"
)

// The runtime tells in its trace how many processors it uses. felix answers when it has.
func TestRuntimeUsesOneProcessorAndSeldomWatchesIt(t *testing.T) {
	for _, tc := range []struct{ name, set, want string }{
		{"by itself", "A=1", " gomaxprocs=1 "},
		{"as somebody has set it", "GOMAXPROCS=3", " gomaxprocs=3 "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			traced := make(chan struct{})
			f := newFelix(t, func(cniwire.Request) cniwire.Response {
				<-traced
				return cniwire.Response{Result: json.RawMessage(`{}`)}
			})
			cmd := exec.Command(binaries{dir}.path("calico"))
			cmd.Env = environment("CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket, "GODEBUG=schedtrace=1", tc.set)
			cmd.Stdin = strings.NewReader(conf)
			trace, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(trace)
			if !lines.Scan() || !strings.Contains(lines.Text(), tc.want) {
				t.Errorf("trace %q, want%s", lines.Text(), tc.want)
			}
			slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", cmd.Process.Pid))
			if string(slack) != "1000000\n" {
				t.Errorf("timer slack %q (%v), want 1 ms", slack, err)
			}
			close(traced)
			for lines.Scan() { // to its end
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEntryKeepsArgumentsAndEnvironment(t *testing.T) {
	many := make([]string, 2000)
	for i := range many {
		many[i] = "X" + strings.Repeat("y", i%7) + "=" + strings.Repeat("z", i%50)
	}
	f := newFelix(t, func(cniwire.Request) cniwire.Response { return cniwire.Response{Result: json.RawMessage(`{}`)} })
	for name, env := range map[string][]string{
		"few variables": {"CNI_COMMAND=ADD", "CALICO_CNI_SOCKET=" + f.socket},
		"a word more":   {"CNI_COMMAND=ADD", "CALICO_CNI_SOCKET=" + f.socket, "A="},
		"many":          append(many, "CNI_COMMAND=ADD", "CALICO_CNI_SOCKET="+f.socket),
	} {
		t.Run(name, func(t *testing.T) {
			if got := invoke(t, "calico", conf, env...); got.code != 0 || got.stdout != "{}\n" || got.stderr != "" {
				t.Fatalf("%+v", got)
			}
			if req := <-f.requests; req.Args != "IgnoreUnknown=1" || req.ContainerID != "c1" {
				t.Errorf("request %+v", req)
			}
		})
	}
	for _, args := range [][]string{{}, {"--version"}, {"--version", "b"}, {"--version", "b", "c"}} {
		cmd := exec.Command(binaries{dir}.path("calico"), args...)
		cmd.Env = []string{}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "CNI plugin calico v1.2.3\n") {
			t.Errorf("with %q: %v: %s", args, err, out)
		}
	}
}

package delegate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/control/cniwire"
	"tortie/internal/polltest"
)

// plugin makes a program that does what a shell script says.
func plugin(t *testing.T, script string) Call {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "some-ipam"), []byte("#!/bin/sh\n"+script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return Call{
		Type: "some-ipam", Path: "/nowhere:" + dir, Config: []byte(`{"cniVersion": "1.0.0", "name": "net1"}`),
		ContainerID: "c1", IfName: "eth0", Netns: "/run/netns/c1", Args: "K=V",
	}
}

// TestPluginGetsNothingOfFelix but the call: felix's environment may have secrets.
func TestPluginGetsNothingOfFelix(t *testing.T) {
	t.Setenv("ETCD_PASSWORD", "secret")
	out := filepath.Join(t.TempDir(), "seen")
	call := plugin(t, "env | grep -v -e ^PWD= -e ^PATH= -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort > "+out+"; cat >> "+out)
	if err := (Runner{}).Do(t.Context(), "DEL", call); err != nil {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("CNI_ARGS=K=V\nCNI_COMMAND=DEL\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/c1\nCNI_PATH=%s\n%s", call.Path, call.Config)
	if diff := cmp.Diff(want, string(seen)); diff != "" {
		t.Errorf("what the plugin got (-want +got):\n%s", diff)
	}
}

func TestResultOfAdd(t *testing.T) {
	got, err := Runner{}.Add(t.Context(), plugin(t, `echo '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}, {"address": "2001:db8::7/64"}], "dns": {"domain": "x"}}'`))
	if err != nil || fmt.Sprint(got.Addrs) != "[192.0.2.7 2001:db8::7]" || got.DNS.Domain != "x" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestFailuresNameThePluginInOneLine(t *testing.T) {
	for name, tc := range map[string]struct {
		script, says string
		code         uint
	}{
		"its own error":  {`echo '{"cniVersion": "1.0.0", "code": 117, "msg": "no more"}'; exit 1`, "IPAM plugin some-ipam: ADD: no more", 117},
		"no JSON":        {"echo broken; echo badly >&2; exit 2", "IPAM plugin some-ipam: ADD: exit status 2: broken badly", 0},
		"no address":     {`echo '{"cniVersion": "1.0.0"}'`, "IPAM plugin some-ipam: ADD: its result has no address", 0},
		"no result":      {"true", "IPAM plugin some-ipam: ADD: ", 0},
		"another result": {`echo '{"cniVersion": "9.9.9"}'`, "IPAM plugin some-ipam: ADD: ", 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Runner{}.Add(t.Context(), plugin(t, tc.script))
			if err == nil || !strings.HasPrefix(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %q", err, tc.says)
			}
			if told, ok := errors.AsType[*cniwire.Error](err); tc.code != 0 && (!ok || told.Code != tc.code) {
				t.Errorf("error %+v, want code %d", told, tc.code)
			}
		})
	}
}

func TestMissingPluginIsToldFromOneThatFails(t *testing.T) {
	call := plugin(t, "exit 1")
	call.Type = "other-ipam"
	if _, ok := errors.AsType[*MissingError](Runner{}.Do(t.Context(), "DEL", call)); !ok {
		t.Error("a plugin that is not there is no MissingError")
	}
}

func TestPluginThatHangsEndsWithTheCall(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	over, started := errors.New("the call is over"), filepath.Join(t.TempDir(), "started")
	answered, call := make(chan error, 1), plugin(t, "touch "+started+"; sleep 600") // whose child keeps its output open
	go func() {
		_, err := Runner{}.Add(ctx, call)
		answered <- err
	}()
	polltest.Until(t, 10*time.Second, "the plugin", func() (bool, string) {
		_, err := os.Stat(started)
		return err == nil, "it has not begun"
	})
	cancel(over)
	if err := <-answered; !errors.Is(err, over) {
		t.Errorf("error %v", err)
	}
}
